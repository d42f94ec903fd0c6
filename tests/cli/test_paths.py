from __future__ import annotations

import os
from pathlib import Path

import pytest

from cumulus import paths
from tests.cli.conftest import Run


def test_where_the_state_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUMULUS_HOME", str(tmp_path))
    assert paths.home() == tmp_path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUMULUS_HOME", "relative")
    assert paths.home() == tmp_path / "relative"
    monkeypatch.delenv("CUMULUS_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert paths.home() == Path("/x/cumulus")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert paths.home() == Path("/home/u/.local/state/cumulus")


def test_the_state_directory_is_its_owners(home: Path, run: Run) -> None:
    mask = os.umask(0)
    try:
        assert run("wait", "jobs", "--all", "--for=delete", "--timeout=0").code == 0
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in (home, home / "store")} == {0o700}
