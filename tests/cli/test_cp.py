"""Copies from a job whose tar is not to be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cumulus.cli.verbs import cp
from cumulus.errors import CumulusError
from cumulus.resources.key import Key
from tests.cli.conftest import Run


class _Tar:
    """Says a megabyte of what is wrong, in pieces, and sends nothing."""

    def exec(self, *_: object) -> _Tar:
        return self

    def run(self, streams: Any) -> int:
        for _ in range(32):
            streams.stderr(b"x" * 2**15)
        return 3

    def close(self) -> None:
        pass


def test_what_tar_says_of_a_problem_is_kept_as_far_as_a_person_reads(tmp_path: Path) -> None:
    copy = cp._Copy(_Tar(), Key("GPUJob", "default", "train"), 0)  # type: ignore[arg-type]
    with pytest.raises(CumulusError, match=r"^tar ended with exit code 3: x{300}$"):
        copy.fetch("out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_gone_is_told_first(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (("train:out", "."), ("x", "train:out")):
        assert run("cp", *words).err == "error: the directory that you are in is gone; cd to one that is there\n"
