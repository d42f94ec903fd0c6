"""Checkpoints as the library leaves them in an L1 directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import File, FilesManifest

BIG = 11 * 2**20 + 5
"""Three parts of 5 MiB."""


def contents(step: int, big: int = BIG) -> dict[str, bytes]:
    seed = hashlib.sha256(b"%d" % step).digest()
    return {
        "model.bin": seed * (big // len(seed)) + seed[: big % len(seed)],
        "optimizer/state.json": b"{%d}" % step,
        "empty": b"",
    }


def save(
    path: Path, step: int, files: Mapping[str, bytes] | None = None, *, token: int = 1, world: int = 1,
    here: frozenset[str] | None = None,
) -> FilesManifest:  # fmt: skip
    """Write the checkpoint of `step`; of its files only those that are `here`, None for all."""
    files = contents(step) if files is None else files
    path.mkdir(mode=0o700, exist_ok=True)
    made = path / layout.temporary_name(step)
    made.mkdir(mode=0o700)
    for name, content in files.items():
        if here is None or name in here:
            (made / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (made / name).write_bytes(content)
    listed = tuple(File(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items())
    manifest = FilesManifest(step, "2030-01-01T00:00:00Z", 0.5, world, 1, token, listed)
    (made / layout.MANIFEST).write_bytes(manifest.encode())
    layout.delete(str(path), step)
    os.rename(made, layout.directory(str(path), step))
    return manifest


def loaded(path: Path, step: int) -> dict[str, bytes]:
    """The files of a checkpoint that is whole."""
    manifest = layout.verify(str(path), step).manifest
    return {file.path: Path(layout.directory(str(path), step), file.path).read_bytes() for file in manifest.files}
