"""Fetches the newest checkpoint that is whole from a place into an L1 directory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace

from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import Damaged, File, FilesManifest
from cumulus.uploader import at_once, catalog, files
from cumulus.uploader.place import CheckpointName, Place, Unfaithful
from cumulus.uploader.upload import SMALL

_SMALL_AT_ONCE = 4
_LARGE_AT_ONCE = 2
"""Each has threads for its parts. One processor takes the digest of one file: that is slower than what comes."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def restore(
    place: Place, path: str, *, refused: Callable[[Damaged], None] = lambda damaged: None,
    needed: Callable[[FilesManifest], bool] = lambda manifest: True, adopt: bool = False,
) -> FilesManifest | None:  # fmt: skip
    """Put the newest checkpoint of the place that is whole into the L1 directory `path`; its manifest, None where there
    is none, or where the first one that is whole is not `needed`: asked before its files are fetched.

    `refused` is told of each damaged one on the way. `adopt`: it is another job's and gets the fencing token 0, since
    all that this job saves is newer. Raises BlobStoreUnavailable, OSError."""
    for one in catalog.committed(place):
        try:
            manifest = catalog.manifest_of(place, one.name)
            if not needed(manifest):
                return None
            kept = replace(manifest, attempt=0, token=0) if adopt else manifest
            _fetch(place, one.name, kept, path)
            return kept
        except Damaged as damaged:
            refused(damaged)
    return None


def verify(place: Place, name: CheckpointName, scratch: str = "") -> FilesManifest:
    """Read every byte of a committed checkpoint, a file at a time into the directory `scratch`. Raises Damaged with the
    name of the file that is not whole."""
    manifest = catalog.manifest_of(place, name)
    for file in manifest.files:
        with tempfile.TemporaryFile(dir=scratch or None) as target:
            fetch_file(place, name, file, target.fileno())
    return manifest


def _fetch(place: Place, name: CheckpointName, manifest: FilesManifest, path: str) -> None:
    os.makedirs(path, 0o700, exist_ok=True)
    made = os.path.join(path, layout.temporary_name(name.step))
    os.mkdir(made, 0o700)
    try:

        def fetch(file: File) -> None:
            target = os.path.join(made, file.path)
            os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
            descriptor = os.open(target, _NEW, 0o600)
            try:
                fetch_file(place, name, file, descriptor)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

        small = [file for file in manifest.files if file.size <= SMALL]
        large = [file for file in manifest.files if file.size > SMALL]
        at_once.each(fetch, small, _SMALL_AT_ONCE, "fetch")
        at_once.each(fetch, large, _LARGE_AT_ONCE, "fetch")
        files.commit(made, path, manifest)
    except BaseException:
        layout.remove_tree(made)
        raise


def fetch_file(place: Place, name: CheckpointName, file: File, descriptor: int) -> None:
    try:
        place.fetch(name.prefix + file.path, file, descriptor)
    except Unfaithful as error:
        raise Damaged(name.step, file.path, str(error).removeprefix(f"{file.path} ")) from None
