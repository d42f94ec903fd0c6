"""Checkpoint directories for tests."""

from __future__ import annotations

import os
from pathlib import Path

from cumulus.checkpoint.layout import File, FilesManifest, directory, sha256_of

FILES = {"weights": b"w" * 5000, "parts/optimizer": b"o" * 300, "empty": b""}


def put(place: Path, step: int, files: dict[str, bytes] = FILES, **facts: int) -> Path:
    """A whole checkpoint."""
    top = Path(directory(str(place), step))
    top.mkdir(mode=0o700, parents=True)
    listed = []
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        descriptor = os.open(path, os.O_RDONLY)
        listed.append(File(name, len(content), sha256_of(descriptor)))
        os.close(descriptor)
    numbers = {"world": 1, "attempt": 1, "token": 7, **facts}
    (top / "manifest.json").write_bytes(
        FilesManifest(step, "2026-11-29T12:00:00Z", 1.5, files=tuple(listed), **numbers).encode()
    )
    return top
