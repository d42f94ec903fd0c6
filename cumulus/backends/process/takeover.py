"""Gives a job that goes on from another's work that job's last checkpoint. Used by the supervisor only.

A module of its own: only such jobs load it. Standard library only.
"""

from __future__ import annotations

import dataclasses
import os
import shutil

from cumulus.backends.process.launch import StartFailed
from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import Checkpoint
from cumulus.lib import locks
from cumulus.lib.files import write_durably

PATIENCE_SECONDS = 300.0
"""How long a replica waits for another of its node that takes the same checkpoint over."""


def take_over(source: str, path: str) -> None:
    """Make the newest checkpoint in `source` that of `path`, where there is none. Its files do not change any more, so
    that both may have them. Raises StartFailed, OSError."""
    if layout.newest(path) is not None:
        return
    found = layout.newest(source)
    if found is None:
        raise StartFailed(f"checkpoint.from: there is no whole checkpoint in {source}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not locks.acquire(descriptor, PATIENCE_SECONDS):
            raise StartFailed(f"checkpoint.from: another replica has been at work in {path} for too long")
        if layout.newest(path) is None:
            _place(found, path)
    finally:
        os.close(descriptor)


def _place(found: Checkpoint, path: str) -> None:
    made = os.path.join(path, layout.temporary_name(found.step))
    shutil.copytree(found.path, made, symlinks=True, copy_function=_link_or_copy)
    # Fencing tokens are of one job: this job's first save is newer than what it begins with.
    manifest = dataclasses.replace(found.manifest, attempt=0, token=0)
    write_durably(os.path.join(made, layout.MANIFEST), manifest.encode())
    # What has this name is damaged: it was not found above.
    layout.delete(path, found.step)
    os.rename(made, layout.directory(path, found.step))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
