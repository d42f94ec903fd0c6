from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.blob.base import BlobLimits, BlobStore
from cumulus.blob.directory import DirectoryBlobStore

PART = 100_000
"""Of an upload that is kept in parts, at least so many bytes."""
LARGEST = 2**20 * 64
LIMITS = BlobLimits(LARGEST, 2 * LARGEST)


@pytest.fixture(params=["directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return DirectoryBlobStore(tmp_path / "blobs", LIMITS)
