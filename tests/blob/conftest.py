from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.blob.base import BlobLimits, BlobStore
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.blob.s3.client import S3Client
from cumulus.blob.s3.transfer import LEAST_PART
from cumulus.blob.s3_store import S3BlobStore
from tests.s3 import Server

PART = LEAST_PART
"""An upload that breaks off keeps at least multiples of so many bytes."""
LARGEST = 2**20 * 64
LIMITS = BlobLimits(LARGEST, 2 * LARGEST)


@pytest.fixture(
    params=["directory", *(pytest.param(name, marks=pytest.mark.xdist_group("s3")) for name in ("seaweedfs", "moto"))]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "directory":
        return DirectoryBlobStore(tmp_path / "blobs", LIMITS)
    server: Server = request.getfixturevalue(request.param)
    return S3BlobStore(S3Client(server.bucket(), patience=10), LIMITS, part=PART)
