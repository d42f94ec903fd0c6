from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cumulus import paths
from cumulus.client import contexts
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.commands import CUMULUS
from tests.documents import job, node


def complete(line: str) -> list[str]:
    """What bash is offered with the cursor at the end of `line`."""
    words = line.split(" ")
    env = {**os.environ, "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_CUMULUS_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from cumulus.cli.main import main; sys.exit(main())"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def filled(store: SqliteStore) -> None:
    for name in ("train", "tune"):
        store.create(job(name, labels={"team": "x"}))
    store.create(job("elsewhere", namespace="research"))
    store.create(node("gpu-1"))
    named = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "Queue", "metadata": {"name": "vision"}, "spec": {}}
    store.create(named)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cumulus su", ["suspend"]),
        ("cumulus get jo", ["job", "jobs"]),
        ("cumulus get jobs,no", ["jobs,no", "jobs,node", "jobs,nodes"]),
        ("cumulus get job t", ["train", "tune"]),
        ("cumulus get job train t", ["tune"]),
        ("cumulus get job/tr", ["job/train"]),
        ("cumulus get -n research job ", ["elsewhere"]),
        ("cumulus logs tr", ["train"]),
        ("cumulus cordon ", ["gpu-1"]),
        ("cumulus get jobs -o custom", ["custom-columns="]),
        ("cumulus explain gpuj", ["gpujob", "gpujobarray"]),
        ("cumulus get nonsense x", []),
        ("cumulus secret cr", ["create"]),
    ],
)
def test_words(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_without_a_store_it_is_silent(home: object) -> None:
    assert complete("cumulus get job ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_each_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cumulus.cli.main", "completion", shell], capture_output=True, text=True, check=True
    )
    assert "_CUMULUS_COMPLETE" in done.stdout


def test_a_shell_that_has_no_script(run: Run) -> None:
    assert run("completion", "tcsh").err.startswith("error: invalid value for 'shell': 'tcsh' is not one of 'bash', ")


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cumulus explain gpujob.spec.gpu.m", ["gpujob.spec.gpu.memory"]),
        ("cumulus explain jobs.spec.nope.m", []),
        ("cumulus get jobs -n re", ["research"]),
        ("cumulus get jobs -l te", ["team=x"]),
        ("cumulus suspend -l team=x,", ["team=x,team=x"]),
        ("cumulus context use l", ["lab"]),
        ("cumulus --context ", ["lab"]),
        ("cumulus wait job/train --for f", ["finished"]),
        ("cumulus label job tu", ["tune"]),
        ("cumulus annotate job/tr", ["job/train"]),
        ("cumulus run --queue vi", ["vision"]),
        ("cumulus rerun train --set spec.gpu.d", ["spec.gpu.duration"]),
        ("cumulus run --export ", ["ALL", "NONE"]),
        ("cumulus delete job train --cascade o", ["orphan"]),
        ("cumulus top ", ["nodes", "jobs", "users"]),
        ("cumulus apply -f x --dry-run s", ["server"]),
    ],
)
def test_values(line: str, offered: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    contexts.write(paths.contexts_file(), contexts.Contexts((contexts.Context("lab", "https://h:1"),)))
    assert complete(line) == offered


SHELLS = {
    "bash": """
        source <(cumulus completion bash)
        offered() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _cumulus_completion cumulus; echo "${COMPREPLY[*]}"; }
        offered cumulus su; offered cumulus get job t; offered cumulus explain gpujob.spec.gpu.m
    """,
    "zsh": """
        autoload -Uz compinit; compinit -D -u
        _arguments() { print -r -- "$*"; }
        eval "$(cumulus completion zsh)"
        offered() { words=("$@"); CURRENT=$#; _cumulus_completion; }
        offered cumulus su; offered cumulus get job t; offered cumulus explain gpujob.spec.gpu.m
    """,
    "fish": """
        cumulus completion fish | source
        complete -C 'cumulus su'; complete -C 'cumulus get job t'; complete -C 'cumulus explain gpujob.spec.gpu.m'
    """,
}


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("shell", SHELLS)
def test_in_the_real_shell(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    env = {**os.environ, "PATH": f"{Path(CUMULUS).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run([shell, "-c", SHELLS[shell]], env=env, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line]
    said = " ".join(lines)
    for wanted in ("suspend", "train", "tune", "gpujob.spec.gpu.memory"):
        assert wanted in said, (done.stdout, done.stderr)
    assert "elsewhere" not in said
