"""Checkpoints of deleted jobs go from a real bucket, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.blob.s3.bucket import Bucket
from cumulus.blob.s3.client import S3Client
from cumulus.clock import FakeClock
from cumulus.errors import BlobStoreUnavailable
from cumulus.server.checkpoint_removals import CheckpointRemovals
from tests.s3 import KEYS, Server

pytestmark = pytest.mark.xdist_group("s3")


def test_what_is_noted_is_gone_and_all_else_stays(seaweedfs: Server, tmp_path: Path) -> None:
    bucket = seaweedfs.bucket()
    client = S3Client(bucket, patience=10)
    mine, others = "checkpoints/team/u1", ("checkpoints/team/u11/latest", "checkpoints/other/u1/latest", "blobs/u1")
    for key in (f"{mine}/latest", f"{mine}/steps/000000000001-1/manifest.json", *others):
        client.put(key, b"x")
    client.begin(f"{mine}/steps/000000000002-1/weights")
    removals = CheckpointRemovals(tmp_path / "removals", bucket, FakeClock())
    assert removals.noted() == []
    removals.note("team", "train", "u1")
    removals.note("team", "train", "u1")
    (one,) = CheckpointRemovals(tmp_path / "removals", bucket).noted()
    assert removals.remove(one) == 2
    assert [each.key for each in client.list("")] == sorted(others)
    assert list(client.uploads(mine)) == []
    (one,) = removals.noted()
    assert (one.done, removals.remove(one)) == (True, 0)
    removals.forget(one)
    removals.forget(one)
    assert removals.noted() == []


def test_keys_that_the_bucket_refuses_leave_the_note(seaweedfs: Server, tmp_path: Path) -> None:
    bucket = seaweedfs.bucket()
    refused = Bucket(bucket.name, bucket.region, bucket.endpoint, type(KEYS)("nobody", "nothing"))
    removals = CheckpointRemovals(tmp_path / "removals", refused)
    removals.note("team", "train", "u1")
    with pytest.raises(BlobStoreUnavailable):
        removals.remove(*removals.noted())
    assert [one.done for one in removals.noted()] == [False]
