"""A checkpoint that a job takes over from another one."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from pathlib import Path

import pytest

from cumulus.backends.process import takeover
from cumulus.checkpoint import Checkpointer, Settings, layout
from cumulus.lib import locks
from tests.waiting import PATIENCE


def test_a_replica_leaves_what_another_took_over_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = tmp_path / "source", tmp_path / "path"
    Checkpointer(Settings(path=str(source))).save({"x": 1}, step=7)
    path.mkdir(mode=0o700)
    waits = threading.Event()
    acquire = locks.acquire

    def told(descriptor: int, seconds: float) -> bool:
        waits.set()
        return acquire(descriptor, seconds)

    monkeypatch.setattr(takeover.locks, "acquire", told)
    first = os.open(path, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    second = threading.Thread(target=takeover.take_over, args=(str(source), str(path)))
    second.start()
    assert waits.wait(PATIENCE)
    shutil.copytree(layout.directory(str(source), 7), layout.directory(str(path), 7))
    made = os.stat(layout.directory(str(path), 7))
    os.close(first)
    second.join(PATIENCE)
    assert os.stat(layout.directory(str(path), 7)).st_ino == made.st_ino
    assert os.listdir(path) == [layout.step_name(7)]
