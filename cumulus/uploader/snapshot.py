"""Holds on to one checkpoint while it is copied: links to its files, which the program's pruning does not touch."""

from __future__ import annotations

import errno
import os

from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import MANIFEST, FilesManifest

_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


def hold(path: str, step: int, held: str) -> str:
    """The L1 directory from which to copy the step: `held`, which gets links, or `path` where the file system has none.

    Raises layout.Damaged, FileNotFoundError where the step is gone."""
    manifest = layout.read_manifest(path, step)
    source, target = layout.directory(path, step), layout.directory(held, step)
    release(held)
    os.makedirs(target, 0o700)
    try:
        for file in manifest.files:
            _link(source, target, file.path, manifest)
        os.link(os.path.join(source, MANIFEST), os.path.join(target, MANIFEST), follow_symlinks=False)
    except OSError as error:
        release(held)
        if error.errno in _NO_LINKS:
            return path
        raise
    return held


def held_step(held: str) -> int | None:
    """The step that is held whole, None where there is none: one that broke off is let go."""
    for step in layout.steps(held):
        if os.path.lexists(os.path.join(layout.directory(held, step), MANIFEST)):
            return step
    release(held)
    return None


def release(held: str) -> None:
    layout.remove_tree(held)


def _link(source: str, target: str, path: str, manifest: FilesManifest) -> None:
    copy = os.path.join(target, path)
    os.makedirs(os.path.dirname(copy), 0o700, exist_ok=True)
    try:
        os.link(os.path.join(source, path), copy, follow_symlinks=False)
    except FileNotFoundError:
        # A rank's that another node has; or the whole step was pruned, which the manifest shows.
        if manifest.world == 1 or not os.path.lexists(os.path.join(source, MANIFEST)):
            raise
