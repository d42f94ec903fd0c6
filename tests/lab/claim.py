"""Whose a lab's directory is: a lock in it, held by the lab and its sweeper until nothing of the lab is left."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from tests.lab.node import LabError
from tests.lab.sweep import sweep

LOCK = "lock"
STRANGE_SECONDS = 2.0
"""How long files without a lock are taken for some that a sweeper is just removing."""
SWEPT_SECONDS = 150.0
"""How long an earlier lab's sweeper is waited for."""


def take(directory: Path) -> int:
    """A descriptor that holds the directory, made where it is not there. What a lab left that was killed together with
    its sweeper is removed first. Raises `LabError` where another lab is up there, or what is there is no lab's."""
    begun = time.monotonic()
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()) and not (directory / LOCK).exists():
            if time.monotonic() - begun > STRANGE_SECONDS:
                raise LabError(f"{directory} is not empty, and no lab's; set CUMULUS_LAB to another directory")
            time.sleep(0.1)
            continue
        try:
            held = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # It was swept just now.
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(held, 32, 0).decode().strip()
            os.close(held)
            if owner and os.path.exists(f"/proc/{owner}"):
                raise LabError(
                    f"a lab is up in {directory}, process {owner}; end it, or set CUMULUS_LAB to another directory"
                ) from None
            if time.monotonic() - begun > SWEPT_SECONDS:
                raise LabError(f"what an earlier lab left in {directory} is still being removed") from None
            time.sleep(0.1)
            continue
        if not _is_there(held, directory / LOCK):
            os.close(held)
        elif len(os.listdir(directory)) > 1:
            sweep(directory)
            os.close(held)
        else:
            os.ftruncate(held, 0)
            os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
            return held


def _is_there(held: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held), path.stat())
    except FileNotFoundError:
        return False
