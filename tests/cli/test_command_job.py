"""The job that a command line becomes."""

from __future__ import annotations

from typing import Any

import pytest

from cumulus.admission.validation import validated
from cumulus.cli import command_job
from cumulus.cli.command_job import Shell, Wanted, exported, given, given_in, job_of, name_of
from cumulus.errors import UsageError
from cumulus.resources.kinds import gpujob

VARIABLES = {
    "PATH": "/venv/bin:/usr/bin", "VIRTUAL_ENV": "/venv", "LC_TIME": "de_DE.UTF-8", "LANG": "C", "EDITOR": "vi",
    "HOME": "/home/me", "PWD": "/here", "CUMULUS_HOME": "/state", "CHRONOS_HOME": "/ledger", "HF_TOKEN": "hf_1",
    "AWS_SECRET_ACCESS_KEY": "x", "db_password": "x", "MY_CREDENTIALS": "x", "BASH_FUNC_ml%%": "() { :; }",
    "BYTES": "\udcff", "CUDA_VISIBLE_DEVICES": "3",
}  # fmt: skip
HERE = Shell("/here", VARIABLES)


def made(words: str = "python train.py", **options: Any) -> dict[str, Any]:
    job = dict(job_of(Wanted(words.split(), **options), HERE, "lab", "xxxxx").job)
    validated(gpujob.KIND, job)
    return job


def test_the_least() -> None:
    assert made() == {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"name": "train-xxxxx", "namespace": "lab"},
        "spec": {
            "command": ["python", "train.py"],
            "workingDir": "/here",
            "env": [
                {"name": "LANG", "value": "C"},
                {"name": "LC_TIME", "value": "de_DE.UTF-8"},
                {"name": "PATH", "value": "/venv/bin:/usr/bin"},
                {"name": "VIRTUAL_ENV", "value": "/venv"},
            ],
            "gpu": {"memory": "100%", "duration": "1h"},
        },
    }


def test_everything() -> None:
    job = made(
        "./a.out --gpu=1", gpu="20Gi", compute="25%", gpus=2, duration="2h", name="mine", replicas=3,
        env=[("A", "file"), ("A", "option"), ("B", "")], export="NONE", retry=4, checkpoint="saves/../run7",
    )  # fmt: skip
    assert job["metadata"]["name"] == "mine"
    assert job["spec"] == {
        "command": ["./a.out", "--gpu=1"],
        "workingDir": "/here",
        "env": [{"name": "A", "value": "option"}, {"name": "B", "value": ""}],
        "gpu": {"memory": "20Gi", "compute": "25%", "count": 2, "duration": "2h"},
        "replicas": 3,
        "retry": {"limit": 4},
        "checkpoint": {"path": "/here/run7"},
    }
    assert made(checkpoint="/scratch/run7")["spec"]["checkpoint"] == {"path": "/scratch/run7"}


def test_a_container_gets_only_what_is_named() -> None:
    spec = made("python train.py", image="pytorch:2", env=[("A", "1")], checkpoint="saves")["spec"]
    assert spec == {
        "image": "pytorch:2", "command": ["python", "train.py"], "env": [{"name": "A", "value": "1"}],
        "gpu": {"memory": "100%", "duration": "1h"}, "checkpoint": {"path": "saves"},
    }  # fmt: skip
    whole = made("", image="lab/pytorch:2")
    assert whole["metadata"]["name"] == "pytorch-2-xxxxx"
    assert "command" not in whole["spec"]


def test_what_is_exported() -> None:
    few, none_secret = exported(VARIABLES, "")
    assert (sorted(few), none_secret) == (["LANG", "LC_TIME", "PATH", "VIRTUAL_ENV"], ())
    assert exported(VARIABLES, "NONE") == ({}, ())
    all_of_it, secret = exported(VARIABLES, "ALL")
    assert sorted(all_of_it) == ["EDITOR", "LANG", "LC_TIME", "PATH", "VIRTUAL_ENV"]
    assert secret == ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MY_CREDENTIALS", "db_password")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("true", "true"),
        ("/usr/bin/env x", "env"),
        ("./My_Program-2.0", "my-program-2-0"),
        ("python3.11 -u src/train_all.py --data x.py", "train-all"),
        ("python -m pkg.train", "python"),
        ("bash run.sh", "run"),
        ("./tune.sh", "tune"),
        ("vi train.py", "vi"),
        ("…", "job"),
        ("x" * 300, "x" * 57),
    ],
)
def test_what_a_job_is_called_after(words: str, name: str) -> None:
    assert name_of(words.split()) == name
    made(words)


def test_an_ending_is_five_letters_that_a_name_takes() -> None:
    endings = {command_job.random_ending() for _ in range(20)}
    assert len(endings) > 1
    for ending in endings:
        assert len(ending) == 5
        assert ending.isalnum()
        assert ending == ending.lower()


def test_variables_that_are_given() -> None:
    assert given("A=b=c", VARIABLES, "-e") == ("A", "b=c")
    assert given("EDITOR", VARIABLES, "-e") == ("EDITOR", "vi")
    lines = ["# a comment\n", "\n", "A=1 2\r\n", "  B='x'\n", "EDITOR\n", "C="]
    assert given_in(lines, VARIABLES, "f") == [("A", "1 2"), ("B", "'x'"), ("EDITOR", "vi"), ("C", "")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("NOT_SET", "-e: NOT_SET is not set in this shell"),
        ("=x", "-e: '' is no name of a variable"),
        ("a-b=secret", "-e: 'a-b' is no name of a variable"),
        ("BYTES", "-e: the value of BYTES is not UTF-8 text"),
    ],
)
def test_variables_that_cannot_be_given(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        given(text, VARIABLES, "-e")
    assert str(caught.value) == problem
    with pytest.raises(UsageError, match=r"^job\.env:2: "):
        given_in(["A=1", text], VARIABLES, "job.env")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"words": ""}, "say what to run"),
        ({"gpu": "200%"}, "--gpu: '200%' is out of range"),
        ({"gpu": "20GB"}, "--gpu: '20GB' has the unknown unit 'GB'"),
        ({"compute": "5Gi"}, "--compute: '5Gi' is not a fraction"),
        ({"duration": "soon"}, "--for: "),
        ({"duration": "0s"}, "--for: '0s' is no time"),
        ({"export": "all"}, "--export is ALL or NONE, not 'all'"),
        ({"export": "ALL", "image": "x"}, "--export ALL is for programs of the machine"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(**options)
    assert str(caught.value).startswith(problem)


def test_an_unusual_umask_goes_with_it() -> None:
    for mask, said in ((0o022, None), (0o077, "077"), (0o002, "002")):
        made = command_job.job_of(Wanted(("true",)), Shell("/w", {}, mask), "default", "abcde").job
        assert made["spec"].get("umask") == said
    made = command_job.job_of(Wanted((), image="x"), Shell("/w", {}, 0o077), "default", "abcde").job
    assert "umask" not in made["spec"]


@pytest.mark.parametrize(
    ("text", "idle", "sharing"),
    [
        ("20m", {"after": "20m", "action": "Park"}, "Parkable"),
        ("90s:report", {"after": "90s", "action": "Report"}, None),
        ("1h:Release", {"after": "1h", "action": "Release"}, None),
    ],
)
def test_idle(text: str, idle: dict[str, str], sharing: str | None) -> None:
    spec = job_of(Wanted(("x",), idle=text), Shell("/home/ann", {}), "default", "abcde").job["spec"]
    assert spec["idle"] == idle
    assert spec["gpu"].get("sharing") == sharing


@pytest.mark.parametrize("text", ["soon", "20m:sleep", ":park"])
def test_wrong_idle(text: str) -> None:
    with pytest.raises(UsageError, match="--idle"):
        job_of(Wanted(("x",), idle=text), Shell("/home/ann", {}), "default", "abcde")
