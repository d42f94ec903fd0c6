"""Opens the store of blobs that the settings name."""

from __future__ import annotations

from pathlib import Path

from cumulus import paths
from cumulus.blob.base import BlobLimits, BlobStore
from cumulus.blob.directory import DirectoryBlobStore


def open_blobs(home: Path, directory: str = "", limits: BlobLimits = BlobLimits()) -> BlobStore:
    """The blobs of a state directory; `directory` is where an admin wants them. Nothing is made or asked yet."""
    return DirectoryBlobStore(Path(directory) if directory else paths.blobs_dir(home), limits)
