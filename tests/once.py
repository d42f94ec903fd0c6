"""What all processes that share the tests need, and one of them makes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The directory `name` of this run of the tests, which `make` fills; where that fails, the next process tries."""
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Each worker has a place of its own below the run's.
        place = place.parent
    with open(place / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / f"{name}.made").exists():
            (place / name).mkdir(exist_ok=True)
            make(place / name)
            (place / f"{name}.made").touch()
    return place / name
