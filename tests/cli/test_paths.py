from __future__ import annotations

from pathlib import Path

import pytest

from cumulus import paths


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
