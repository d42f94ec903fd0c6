"""A `Place` in a bucket: an object for each file, with its sha256 as metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from cumulus.blob.s3.client import Part, S3Client
from cumulus.blob.s3.problems import Missing
from cumulus.blob.s3.transfer import PART, fetch, part_size, send_file
from cumulus.checkpoint.layout import File
from cumulus.errors import ObjectChanged
from cumulus.uploader.config import Config
from cumulus.uploader.place import Notes, StoredFile, Unfaithful

_SHA256 = "sha256"


class S3Place:
    """`prefix` is the key below which everything is, without slashes at its ends. `part`: bytes."""

    def __init__(self, client: S3Client, prefix: str, *, part: int = PART) -> None:
        self._client = client
        self._prefix = f"{prefix}/"
        self._part = part

    @property
    def uri(self) -> str:
        return f"s3://{self._client.bucket.name}/{self._prefix[:-1]}"

    def renew(self, config: Config) -> None:
        if config.keys is not None:
            self._client.renew(config.keys)

    def read(self, key: str) -> tuple[bytes, str] | None:
        return self._client.get(self._prefix + key)

    def put(self, key: str, content: bytes, version: str = "") -> None:
        self._client.put(self._prefix + key, content, new=not version, etag=version)

    def has(self, key: str, file: File) -> bool:
        found = self._client.head(self._prefix + key)
        return found is not None and found.size == file.size and found.metadata.get(_SHA256) == file.sha256

    def send(self, key: str, file: File, descriptor: int, notes: Notes, sent: Callable[[int], None]) -> None:
        if file.size <= self._part:
            content = _all_of(descriptor, file)
            self._client.put(self._prefix + key, content, metadata={_SHA256: file.sha256})
            sent(file.size)
            return
        while not self._send_parts(self._prefix + key, file, descriptor, notes, sent):
            continue

    def fetch(self, key: str, file: File, descriptor: int) -> None:
        digest = hashlib.sha256()
        found = self._client.head(self._prefix + key)
        if found is None:
            raise Unfaithful(f"{file.path} is missing")
        if found.size != file.size:
            raise Unfaithful(f"{file.path} has {found.size} bytes instead of {file.size}")
        try:
            fetch(self._client, self._prefix + key, file.size, descriptor, digest, etag=found.etag, part=self._part)
        except Missing:
            raise Unfaithful(f"{file.path} is missing") from None
        except ObjectChanged:
            raise Unfaithful(f"{file.path} changed while it was read") from None
        if digest.hexdigest() != file.sha256:
            raise Unfaithful(f"{file.path} does not match its sha256")

    def list(self, prefix: str) -> Iterator[StoredFile]:
        for found in self._client.list(self._prefix + prefix):
            age = (self._client.now() - found.modified).total_seconds()
            yield StoredFile(found.key.removeprefix(self._prefix), found.size, age)

    def delete(self, keys: Sequence[str]) -> None:
        self._client.delete([self._prefix + key for key in keys])

    def abandon(self, older_than: float) -> None:
        for upload in [*self._client.uploads(self._prefix)]:
            if upload.begun < self._client.now() - timedelta(seconds=older_than):
                self._client.abort(upload.key, upload.id)

    def _send_parts(self, key: str, file: File, descriptor: int, notes: Notes, sent: Callable[[int], None]) -> bool:
        """False where the upload that was noted is gone: then another is to begin."""
        part, upload, there = self._begun(key, file, notes)
        digest = hashlib.sha256()
        try:
            send_file(
                self._client, key, descriptor, file.size, upload, there, digest,
                part=part, sent=lambda done: sent(done.size),
            )  # fmt: skip
        except Missing:
            notes.set(key, "")
            return False
        except ValueError as error:
            self._give_up(key, upload, notes)
            raise Unfaithful(f"{file.path}: {error}") from None
        if digest.hexdigest() != file.sha256:
            self._give_up(key, upload, notes)
            raise Unfaithful(f"{file.path} does not match its sha256")
        try:
            self._client.complete(key, upload, [there[number] for number in sorted(there)])
        except Missing:
            notes.set(key, "")
            return False
        notes.set(key, "")
        return True

    def _begun(self, key: str, file: File, notes: Notes) -> tuple[int, str, dict[int, Part]]:
        """Size of parts, id of the upload, and the parts that are there: of the one that was noted, or a new one."""
        try:
            noted = json.loads(notes.get(key) or "{}")
            if noted.get(_SHA256) == file.sha256:
                parts = self._client.parts(key, str(noted["id"]))
                if parts is not None:
                    return int(noted["part"]), str(noted["id"]), parts
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        part = part_size(file.size, self._part)
        upload = self._client.begin(key, {_SHA256: file.sha256})
        notes.set(key, json.dumps({"id": upload, "part": part, _SHA256: file.sha256}))
        return part, upload, {}

    def _give_up(self, key: str, upload: str, notes: Notes) -> None:
        self._client.abort(key, upload)
        notes.set(key, "")


def _all_of(descriptor: int, file: File) -> bytearray:
    content = bytearray(file.size)
    view, place = memoryview(content), 0
    while place < file.size:
        count = os.preadv(descriptor, [view[place:]], place)
        if not count:
            raise Unfaithful(f"{file.path} has become shorter")
        place += count
    if hashlib.sha256(content).hexdigest() != file.sha256 or os.fstat(descriptor).st_size != file.size:
        raise Unfaithful(f"{file.path} does not match its sha256")
    return content
