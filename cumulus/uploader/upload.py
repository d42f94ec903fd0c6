"""Copies one checkpoint to a place and commits it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress

from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import MANIFEST, Checkpoint, Damaged, File, FilesManifest
from cumulus.errors import ObjectChanged
from cumulus.lib.files import write_durably
from cumulus.uploader import at_once, catalog
from cumulus.uploader.place import CheckpointName, Place, Unfaithful

SMALL = 8 * 2**20
"""Files up to this size are sent several at a time; larger ones have parts for that."""
_THREADS = 4


class UploadIncomplete(Exception):
    """Other nodes have not sent their ranks' files yet."""


class Journal:
    """`Notes` in a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._notes: dict[str, str] = {}
        # The job can write it.
        with suppress(OSError, ValueError, AttributeError, RecursionError), open(path, "rb") as file:
            noted = json.load(file)
            self._notes = {key: note for key, note in noted.items() if isinstance(note, str)}

    def get(self, key: str) -> str:
        return self._notes.get(key, "")

    def set(self, key: str, note: str) -> None:
        if note:
            self._notes[key] = note
        else:
            self._notes.pop(key, None)
        write_durably(self._path, json.dumps(self._notes).encode())


class Upload:
    """`sent` is told of bytes that went out. May be run again after any failure: what is there is not sent again."""

    def __init__(self, place: Place, journal: Journal, sent: Callable[[int], None] = lambda count: None) -> None:
        self._place = place
        self._journal = journal
        self._sent = sent

    def run(self, path: str, step: int, keep: int) -> FilesManifest:
        """Copy the checkpoint of `step` in the L1 directory `path`, then prune. Its manifest.

        Raises Damaged for what is not whole on the disk, Superseded, UploadIncomplete where files of other nodes are
        missing, BlobStoreUnavailable, OSError.
        """
        manifest = layout.read_manifest(path, step)
        name = CheckpointName(manifest.token, step)
        catalog.check_token(self._place, name.token)
        content = manifest.encode()
        there = self._place.read(name.manifest)
        if there is None:
            self._send_files(Checkpoint(step, layout.directory(path, step), manifest), name)
            try:
                self._place.put(name.manifest, content)
            except ObjectChanged:
                there = self._place.read(name.manifest)
        if there is not None and there[0] != content:
            raise Damaged(step, MANIFEST, f"is not what {self._place.uri} has of this step and token {name.token}")
        catalog.move_latest(self._place, name, content)
        catalog.prune(self._place, keep, name)
        return manifest

    def _send_files(self, checkpoint: Checkpoint, name: CheckpointName) -> None:
        files = checkpoint.manifest.files
        sizes = {found.key: found.size for found in self._place.list(name.prefix)}
        absent: list[str] = []

        for file in files:
            if not _is_text(file.path):
                raise Damaged(checkpoint.step, file.path, "has a name that is no UTF-8: no copy can have it")

        def send(file: File) -> None:
            key = name.prefix + file.path
            if sizes.get(key) == file.size and self._place.has(key, file):
                return
            if checkpoint.manifest.world > 1 and not os.path.lexists(os.path.join(checkpoint.path, file.path)):
                absent.append(file.path)
                return
            try:
                with layout.opened_file(checkpoint, file.path) as descriptor:
                    self._place.send(key, file, descriptor, self._journal, self._sent)
            except Unfaithful as error:
                raise Damaged(checkpoint.step, file.path, str(error).removeprefix(f"{file.path} ")) from None

        at_once.each(send, [file for file in files if file.size <= SMALL], _THREADS, "upload")
        for file in files:
            if file.size > SMALL:
                send(file)
        if absent:
            raise UploadIncomplete(
                f"{absent[0]} of step {checkpoint.step} is on another node, which has not sent it yet"
            )


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
