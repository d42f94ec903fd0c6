"""Opens the store of blobs that the settings name."""

from __future__ import annotations

from pathlib import Path

from cumulus import paths
from cumulus.blob.base import BlobLimits, BlobStore
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.blob.s3.bucket import Bucket

PATIENCE = 60.0
"""Seconds for which a request of a client waits for a bucket that does not answer."""


def open_blobs(
    home: Path, directory: str = "", limits: BlobLimits = BlobLimits(), bucket: Bucket | None = None
) -> BlobStore:
    """The blobs of a state directory: in the bucket, else in `directory`, where an admin wants them. Nothing is made or
    asked yet."""
    if bucket is None or directory:
        return DirectoryBlobStore(Path(directory) if directory else paths.blobs_dir(home), limits)
    # Loaded where it is named, so that a daemon without one starts faster.
    from cumulus.blob.s3.client import S3Client
    from cumulus.blob.s3_store import S3BlobStore

    return S3BlobStore(S3Client(bucket, patience=PATIENCE), limits)
