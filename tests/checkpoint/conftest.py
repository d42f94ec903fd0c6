"""Checkpointers for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cumulus.checkpoint.checkpointer import Checkpointer
from cumulus.checkpoint.settings import Settings

Make = Callable[..., Checkpointer]


class Patient(Checkpointer):
    """What a save does beside the program is done when it returns."""

    def save(self, state: Any, *, step: int, wait: bool = True) -> None:
        super().save(state, step=step, wait=wait)
        if wait:
            self.wait()

    @contextmanager
    def saving(self, step: int, *, shared: bool = False) -> Iterator[str]:
        with super().saving(step, shared=shared) as directory:
            yield directory
        self.wait()


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def make(tmp_path: Path, now: Now) -> Iterator[Make]:
    """A checkpointer with its directory at `tmp_path/l1`, on the test's clock, with settings as given."""
    made: list[Checkpointer] = []

    def one(**settings: Any) -> Checkpointer:
        made.append(Patient(Settings(**{"path": str(tmp_path / "l1"), **settings}), now=now))
        return made[-1]

    yield one
    for checkpointer in made:
        checkpointer.wait()
