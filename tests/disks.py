"""Disks that are really full."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 8 MiB."""
    with tempfile.TemporaryDirectory() as directory:
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "none", directory], capture_output=True, text=True, check=False
        )
        if mount.returncode:
            pytest.skip(f"LEFT OUT: a really full disk needs root to mount one ({mount.stderr.strip()})")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "-l", directory], check=True)
