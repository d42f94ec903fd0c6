from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cumulus.store.sqlite import SqliteStore
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
        store.create(job(name))
    store.create(job("elsewhere", namespace="research"))
    store.create(node("gpu-1"))


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
        ("cumulus explain gpuj", ["gpujob"]),
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
