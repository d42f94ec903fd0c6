"""Trainings whose leases end again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.checkpoint import api
from cumulus.checkpoint.checkpointer import Checkpointer
from cumulus.checkpoint.settings import Settings


class Lease(Checkpointer):
    """It ends after so many steps."""

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__(Settings(path=str(path)))
        self._left = steps

    def should_checkpoint(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self.stop()
        return super().should_checkpoint()


class Leases:
    """`train` is called until it is done, each time in a lease of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def whole(self, train: Callable[[], Any]) -> Any:
        """In one lease."""
        return self.cut(train, [])

    def cut(self, train: Callable[[], Any], steps: list[int]) -> Any:
        """In leases of so many steps, and a last one."""
        self._count += 1
        path = self._directory / f"training-{self._count}"
        for number in steps:
            api.use(Lease(path, number))
            with pytest.raises(SystemExit) as ended:
                train()
            assert ended.value.code == 75
        api.use(Lease(path, 10**9))
        return train()


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[Leases]:
    try:
        yield Leases(tmp_path)
    finally:
        api.use(Checkpointer(Settings(path=str(tmp_path / "after"))))
