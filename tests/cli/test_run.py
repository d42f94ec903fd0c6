"""`run` and `attach` where nothing is started: what is refused, and what is shown of a job that is over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cumulus import paths
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.cli.test_logs import BEGUN, ran, tried
from tests.documents import failed, job


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "project"
    (made / "bin").mkdir(parents=True)
    (made / "bin" / "tune").touch(mode=0o755)
    (made / "notes.txt").touch(mode=0o644)
    monkeypatch.chdir(made)
    monkeypatch.setenv("PATH", f"{made}/bin:/usr/bin:/bin")
    for name in ("LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        ("", 2, "say what to run; as in: cumulus run -- python train.py"),
        ("-- nosuch", 2, "there is no program 'nosuch' on PATH; give its path, or check its name"),
        (
            "-- notes.txt",
            2,
            "there is no program 'notes.txt' on PATH; write ./notes.txt for the file in this directory",
        ),
        (
            "-- ./notes.txt",
            2,
            "./notes.txt is not executable; chmod +x ./notes.txt, or name its interpreter: python ./",
        ),
        ("-- ../bin/x", 2, "there is no program {parent}/bin/x; give the path of one that is there"),
        ("-- ./bin", 2, "there is no program {here}/bin; give the path of one that is there"),
        ("--gpu 200% -- tune", 2, "--gpu: '200%' is out of range"),
        ("--replicas 0 -- tune", 2, "--replicas takes a number of at least 1, not '0'"),
        ("--retry many -- tune", 2, "--retry takes a number of at least 0, not 'many'"),
        ("-o yaml -- tune", 2, "-o is for --dry-run; a job's name is printed with -d"),
        ("--dry-run -o name -- tune", 2, "there is no output format 'name' here; the formats are yaml and json"),
        ("--sync-limit 1Gi -- tune", 2, "--sync-limit is for --sync; leave it out, or add --sync"),
        ("--sync --sync-limit much -- tune", 2, "--sync-limit: "),
        ("--sync -d -- tune", 2, "a directory is carried by this command, which stays; leave --sync or -d out"),
        ("--sync --retry 2 -- tune", 2, "--sync does not go together with --retry; the directory is carried to one"),
        ("--sync -i -- tune", 2, "--sync does not go together with -i; it is for one program without an image"),
        ("-t -- tune", 2, "-t needs -i: -it; without them the program's output is shown as it comes"),
        (
            "-i -d -- tune",
            2,
            "a program that waits for this command's input is not left alone from the start; leave",
        ),
        ("-i --array 0-3 -- tune", 2, "an array makes many jobs, of which none is joined; leave -i, -t, --sync"),
        ("--dry-run -d -- tune", 2, "--dry-run runs nothing that could be left alone; leave -d out"),
        ("--env-file none -- tune", 2, "--env-file: none cannot be read: No such file or directory"),
        ("--env-file notes.txt -e NOT_SET -- tune", 2, "-e: NOT_SET is not set in this shell; write NOT_SET=VALUE"),
        ("--dry-run --name No_Name -- tune", 2, "metadata.name: 'No_Name' is not a name; use at most 253 lower-case"),
        ("-- tune", 1, "no daemon runs on {home}, so nothing would run the job; start one: cumulus serve &"),
    ],
)
def test_what_is_refused_in_one_line(
    run: Run, home: Path, directory: Path, words: str, code: int, problem: str
) -> None:
    done = run("run", *words.split())
    assert (done.code, done.out) == (code, "")
    wanted = problem.format(here=directory, parent=directory.parent, home=home)
    assert f"error: {wanted}" in done.err
    assert not paths.store_dir(home).exists()


def test_attach_tells_of_a_limit_that_is_none_before_it_follows(run: Run) -> None:
    done = run("attach", "tune", "--sync", "--sync-limit", "much")
    assert done.code == 2
    assert "error: --sync-limit: " in done.err
    done = run("attach", "tune", "--sync-limit", "1Gi")
    assert (done.code, done.err) == (2, "error: --sync-limit is for --sync; leave it out, or add --sync\n")


def test_a_directory_that_is_gone(run: Run, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run("run", "tune").err == "error: the directory that you are in is gone; cd to one that is there\n"


def test_a_dry_run_shows_what_would_be_made(run: Run, directory: Path, home: Path) -> None:
    # Without `--`, and with options that are the program's.
    done = run(
        "run", "--dry-run", "-o", "json", "--gpu=25%", "--for=2h", "tune", "--dry-run=true", "-o", "x", "--", "y"
    )
    assert (done.code, done.err) == (0, "")
    made = json.loads(done.out)
    assert made["metadata"].pop("name").startswith("tune-")
    assert made == {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"namespace": "default"},
        "spec": {
            "command": ["tune", "--dry-run=true", "-o", "x", "--", "y"],
            "workingDir": str(directory),
            "env": made["spec"]["env"],
            "gpu": {"memory": "25%", "duration": "2h"},
        },
    }
    assert {"name": "PATH", "value": f"{directory}/bin:/usr/bin:/bin"} in made["spec"]["env"]
    assert not paths.store_dir(home).exists()


def test_an_array_is_made_of_the_job(run: Run, directory: Path) -> None:
    done = run("run", "--dry-run", "-o", "json", "--array", "0-99%8", "--name", "sweep", "tune")
    made = json.loads(done.out)
    assert (made["kind"], made["metadata"]["name"]) == ("GPUJobArray", "sweep")
    assert (made["spec"]["indexes"], made["spec"]["parallelism"]) == ("0-99", 8)
    assert made["spec"]["jobTemplate"]["spec"]["command"] == ["tune"]
    wrong = run("run", "--dry-run", "--array", "9-0", "tune")
    assert (wrong.code, wrong.err.splitlines()[-1]) == (2, "error: --array: '9-0' ends before it begins")


def test_an_array_over_values(run: Run, directory: Path) -> None:
    words = ("--values", "small,large", "--parallelism", "2", "--preemptible", "kill")
    spec = json.loads(run("run", "--dry-run", "-o", "json", *words, "tune", "$(CUMULUS_ARRAY_VALUE)").out)["spec"]
    assert (spec["values"], spec["parallelism"]) == (["small", "large"], 2)
    assert spec["jobTemplate"]["spec"]["command"] == ["tune", "$(CUMULUS_ARRAY_VALUE)"]
    assert spec["jobTemplate"]["spec"]["preemptible"] == "Kill"
    words = ("--matrix", "lr=0.1,0.01", "--matrix", "seed=1,2", "--array", "%8")
    spec = json.loads(run("run", "--dry-run", "-o", "json", *words, "tune").out)["spec"]
    assert (spec["matrix"], spec["parallelism"]) == ({"lr": ["0.1", "0.01"], "seed": ["1", "2"]}, 8)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--array 0-99%2000", "--array: at most 1000 jobs at once, not 2000; write 0-99%8"),
        (f"--array 0-9%{'9' * 5000}", f"--array: '{'9' * 40}' is no number of jobs at once; write 0-99%8"),
        ("--array 0-9 --parallelism %2000", "--parallelism: '%2000' is no number of jobs at once"),
        ("--array 0-9%2 --parallelism 3", "--parallelism says again what --array 0-9%2 does; keep one of them"),
        ("--array 0-9 --values a,b", "--values cannot be given together with --array; keep one of them"),
        ("--parallelism 8", "say what the indexes are; write --array 0-99, --values a,b or --matrix lr=0.1,0.01"),
        ("--matrix lr", "--matrix: 'lr' is not NAME=VALUE,VALUE; write --matrix lr=0.1,0.01"),
        ("--matrix a=1 --matrix a=2", "--matrix: a is given a second time; write --matrix a=VALUE,VALUE once"),
        ("--preemptible Maybe", "--preemptible: 'Maybe' is neither Kill nor Checkpoint; write --preemptible Kill"),
    ],
)
def test_what_is_wrong_with_an_array(run: Run, directory: Path, words: str, said: str) -> None:
    done = run("run", "--dry-run", *words.split(), "tune")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"error: {said}")


def test_a_program_is_found_as_the_job_will_find_it(run: Run, directory: Path, tmp_path: Path) -> None:
    none = run("run", "--dry-run", "-o", "json", "--gpu", "1%", "--export", "NONE", "tune")
    assert json.loads(none.out)["spec"]["command"] == [f"{directory}/bin/tune"]
    other = run("run", "--dry-run", "-e", f"PATH={tmp_path}", "tune")
    assert "there is no program 'tune' on PATH" in other.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("tune", "Leasing the whole of one device for an hour; --gpu 25% and --for 2h change that."),
        ("--gpus 2 tune", "Leasing the whole of 2 devices for an hour; --gpu 25% and --for 2h change that."),
        ("--for 2h tune", "Leasing the whole of one device; --gpu 25% changes that."),
        ("--for 2h --compute 5% tune", "Leasing all the memory of one device; --gpu 25% changes that."),
        ("--gpu 25% tune", "Leasing it for an hour; --for 2h changes that."),
    ],
)
def test_what_was_not_asked_for_is_said(run: Run, words: str, line: str) -> None:
    assert run("run", "--dry-run", *words.split()).err == f"{line}\n"


def test_secrets_are_not_exported_and_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_1234")
    monkeypatch.setenv("EDITOR", "vi")
    done = run("run", "--dry-run", "--gpu", "1%", "--for", "1m", "--export", "ALL", "tune")
    assert "hf_1234" not in done.out + done.err
    assert "EDITOR" in done.out
    assert "Not exported, since whoever may read the job could read them: " in done.err
    assert "HF_TOKEN" in done.err
    given = run("run", "--dry-run", "--gpu", "1%", "--for", "1m", "-e", "HF_TOKEN", "tune")
    assert "hf_1234" in given.out
    assert given.err == "warning: whoever may read the job can read HF_TOKEN: it is a part of it\n"


def test_attach_to_a_job_that_is_over(store: SqliteStore, run: Run, home: Path) -> None:
    made = store.create(failed("train"))
    ran(home, made, 1, "one\ntwo\n")
    assert run("attach", "train") == (3, "one\ntwo\n", "")
    assert run("attach", "job/train", "--tail", "1") == (3, "two\n", "")
    assert run("attach", "node/x").code == 2
    assert run("attach", "none") == (1, "", "error: gpujob.cumulus.dev 'none' not found in namespace default\n")


def test_attach_tells_that_nothing_can_come_back_before_it_follows(store: SqliteStore, run: Run, home: Path) -> None:
    document = failed("train")
    document["spec"]["workingDir"] = "/home/ann"
    ran(home, store.create(document), 1, "one\n")
    said = "error: gpujob/train has no directory of its own here that could come back; "
    assert run("attach", "--sync", "train") == (2, "", f"{said}it was made without `cumulus run --sync`\n")


def test_attach_to_what_never_started(store: SqliteStore, run: Run) -> None:
    refused = {"endTime": BEGUN["startTime"], "reason": "StartRefused", "message": "no such secret"}
    store.create(job("train", status=tried(refused, phase="Failed")))
    assert run("attach", "train") == (126, "", "gpujob/train: it cannot be started: no such secret\n")


def test_attach_without_a_daemon_does_not_wait_for_what_nobody_tells(store: SqliteStore, run: Run, home: Path) -> None:
    made = store.create(job("train", status=tried(BEGUN)))
    ran(home, made, 1, "one\n")
    done = run("attach", "train")
    assert (done.code, done.out) == (1, "one\n")
    assert done.err.endswith("error: no daemon runs that could tell how it ends; start it again: cumulus serve\n")


def test_run_loads_nothing_heavy_before_it_submits(home: Path) -> None:
    script = (
        "import sys; from cumulus.cli.main import main; main(['run', 'true']); "
        "print([m for m in ('pydantic', 'rich', 'yaml', 'structlog', 'secrets', 'numpy', 'grpc', 'cryptography') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
