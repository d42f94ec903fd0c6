from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import job


def test_there_and_back(home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(home / "store")
    store.create(job("kept"))
    file = tmp_path / "b.backup"
    done = run("backup", str(file))
    assert done == (0, f"backed up to {file}\n", "")
    store.create(job("later"))
    store.close()
    assert run("backup", str(file)).code == 2
    assert run("restore", str(file)).code == 0
    assert run("get", "jobs", "-o", "name").out == "gpujob.cumulus.dev/kept\n"
    monkeypatch.setenv("CUMULUS_HOME", str(tmp_path / "new"))
    assert run("restore", str(file)).code == 0
    assert run("get", "jobs", "-o", "name").out == "gpujob.cumulus.dev/kept\n"


def test_nothing_to_back_up_or_restore(home: Path, run: Run, tmp_path: Path) -> None:
    assert "there is no store in" in run("backup", str(tmp_path / "b")).err
    assert not home.exists()
    (tmp_path / "junk").write_bytes(b"x" * 5000)
    done = run("restore", str(tmp_path / "junk"))
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert run("restore", str(tmp_path / "missing")).code in (1, 2)
