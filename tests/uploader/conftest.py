from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.blob.s3.client import S3Client
from cumulus.blob.s3.transfer import LEAST_PART
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.place import Place
from cumulus.uploader.s3_place import S3Place
from tests.s3 import Server

KINDS = ["directory", pytest.param("seaweedfs", marks=pytest.mark.xdist_group("s3"))]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "directory":
        return DirectoryPlace(str(tmp_path / "shared"))
    server: Server = request.getfixturevalue(request.param)
    return S3Place(S3Client(server.bucket(), patience=10), "checkpoints/team/uid", part=LEAST_PART)
