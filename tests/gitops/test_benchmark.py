"""What `python -m benchmarks gitops` measures is still there to be measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gitops


@pytest.mark.daemon
def test_it_measures_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OBJECTS", 50), ("SOURCES", 3), ("ROUNDS", 1), ("COMMITS", 1), ("IDLE_SECONDS", 0.01)):
        monkeypatch.setattr(gitops, name, value)
    assert len(list(gitops._commit(tmp_path / "commit"))) == 2
    assert len(list(gitops._many(tmp_path / "many"))) == 2
