"""Blobs in a bucket: blobs/OWNER/SHA256/, where OWNER is a hash of the owner's text. In it:

    blob            empty; there means that the content is whole and was checked. Its time is that of the last use
    data            the content
    upload-SIZE     while it comes: the upload's id, and the size of its parts

Parts are kept, the rest of a part that breaks off is not. Each process runs one upload of a blob at a time; where
two processes write the same one, both succeed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import structlog

from cumulus.blob.base import (
    BlobInfo,
    BlobLimits,
    Collected,
    UploadUrls,
    check_digest,
    check_length,
    check_limit,
    check_offset,
    check_sha256,
    check_size,
    owner_directory,
)
from cumulus.blob.s3.client import Object, Part, S3Client
from cumulus.blob.s3.problems import Missing
from cumulus.blob.s3.transfer import PART, PartSender, filled, part_size
from cumulus.clock import Clock, SystemClock
from cumulus.errors import BlobBusy, BlobDamaged, BlobMismatch, BlobOffset, NoSuchBlob

_log = structlog.get_logger("cumulus.blobs")

PREFIX = "blobs/"
URL_SECONDS = 3600
_DATA, _WHOLE = "data", "blob"
_UPLOAD = re.compile(r"upload-([0-9]+)")
_USED_AGAIN = timedelta(minutes=5)
"""A use is noted where the last one is older: it costs a request."""
_NOTED_AGAIN = 60.0
"""Seconds after which an upload that goes on says so again."""


class _Begun(NamedTuple):
    """An upload that is not complete."""

    size: int
    id: str
    part: int

    @property
    def part_count(self) -> int:
        return -(-self.size // self.part)


class _Seen(NamedTuple):
    """What is in the place of one blob."""

    whole: Object | None
    data: Object | None
    upload: Object | None

    @property
    def complete(self) -> bool:
        return self.whole is not None and self.data is not None

    @property
    def announced(self) -> int:
        return 0 if self.upload is None else _size_in(self.upload.key)

    @property
    def size(self) -> int:
        return self.announced or (0 if self.data is None else self.data.size)


class S3BlobStore:
    """`part` is the size of parts in bytes, 5 MiB or more."""

    def __init__(
        self, client: S3Client, limits: BlobLimits = BlobLimits(), *, part: int = PART, clock: Clock | None = None
    ) -> None:
        self._client = client
        self._limits = limits
        self._part = part
        self._clock = clock or SystemClock()
        self._mutex = threading.Lock()
        self._busy: set[str] = set()

    def find(self, owner: str, sha256: str) -> BlobInfo | None:
        place = _place(owner, sha256)
        seen = self._look(place)
        if seen.complete:
            return self._used(place, seen)
        if seen.upload is None:
            return None
        begun, parts = self._begun(seen)
        received = _received(begun, parts)
        if not begun.size:
            return None
        if received == begun.size:
            # Another thread may be at it.
            with suppress(BlobBusy), self._alone(place):
                return self._finish(place, sha256, begun, parts, checked=False)
        return BlobInfo(begun.size, min(received, begun.size - 1))

    def write(self, owner: str, sha256: str, size: int, chunks: Iterable[bytes], offset: int = 0) -> BlobInfo:
        place = _place(owner, sha256)
        check_size(self._limits, size, offset)
        with self._alone(place):
            seen = self._look(place)
            if seen.complete:
                return self._used(place, seen)
            if offset:
                begun, parts = self._begun(seen) if seen.announced == size else (None, {})
                received = 0 if begun is None else _received(begun, parts)
                if begun is None or offset != received:
                    raise BlobOffset(
                        f"{received} bytes of the blob {sha256} are there: its content goes on from there",
                        received=received,
                    )
                return self._receive(place, sha256, begun, parts, chunks)
            self._clear(place, seen)
            check_limit(self._limits, self._usage(owner), size)
            if size <= self._part:
                return self._put_small(place, sha256, size, chunks)
            return self._receive(place, sha256, self._begin(place, size), {}, chunks)

    def open(self, owner: str, sha256: str, offset: int = 0) -> Iterator[bytes]:
        place = _place(owner, sha256)
        check_offset(offset)
        seen = self._look(place)
        if not seen.complete or seen.data is None:
            raise NoSuchBlob(f"there is no blob {sha256}")
        return self._read(place, sha256, seen.data, offset)

    def path(self, owner: str, sha256: str) -> Path | None:
        check_sha256(sha256)
        return None

    def upload_urls(self, owner: str, sha256: str, size: int) -> UploadUrls | None:
        place = _place(owner, sha256)
        check_size(self._limits, size)
        if not size:
            return None  # Nothing to put: `write` makes it.
        with self._alone(place):
            seen = self._look(place)
            if seen.complete:
                return None
            begun = None
            if seen.upload is not None and seen.announced == size:
                begun, _ = self._begun(seen)
                if begun.id:
                    self._note(place, begun)
            if begun is None or not begun.id:
                self._clear(place, seen)
                check_limit(self._limits, self._usage(owner), size)
                begun = self._begin(place, size)
            urls = [
                self._client.url_to_write(place + _DATA, begun.id, number, URL_SECONDS)
                for number in range(1, begun.part_count + 1)
            ]
            return UploadUrls(tuple(urls), begun.part)

    def download_url(self, owner: str, sha256: str) -> str | None:
        place = _place(owner, sha256)
        return None if not self._look(place).complete else self._client.url_to_read(place + _DATA, URL_SECONDS)

    def delete(self, owner: str, sha256: str) -> bool:
        place = _place(owner, sha256)
        with self._alone(place):
            seen = self._look(place)
            self._clear(place, seen)
            return any(seen)

    def collect(self, referenced: Collection[tuple[str, str]], older_than: datetime) -> Collected:
        kept = {_place(owner, sha256) for owner, sha256 in referenced}
        deleted: list[int] = []
        for place, seen in self._all():
            last = seen.whole or seen.upload or seen.data
            if last is None or last.modified >= older_than or (place in kept and seen.whole is not None):
                continue
            with suppress(BlobBusy), self._alone(place):
                # It may have been used since it was listed.
                now = self._look(place)
                last = now.whole or now.upload or now.data
                if last is not None and last.modified < older_than:
                    begun, parts = self._begun(now)
                    deleted.append(now.data.size if now.data and now.whole else _received(begun, parts))
                    self._clear(place, now)
        for upload in [*self._client.uploads(PREFIX)]:
            # One whose record was never written.
            place = upload.key.removesuffix(_DATA)
            if upload.begun < older_than and place not in self._busy and self._look(place).upload is None:
                self._client.abort(upload.key, upload.id)
        return Collected(len(deleted), sum(deleted))

    def _put_small(self, place: str, sha256: str, size: int, chunks: Iterable[bytes]) -> BlobInfo:
        """One that is put at once. What breaks off is not kept."""
        content = bytearray()
        for chunk in chunks:
            content += chunk
            check_length(len(content), size)
        if len(content) < size:
            return BlobInfo(size, 0)
        check_digest(hashlib.sha256(content).hexdigest(), sha256)
        self._client.put(place + _DATA, content)
        self._client.put(place + _WHOLE, b"")
        return BlobInfo(size, size)

    def _begin(self, place: str, size: int) -> _Begun:
        part = part_size(size, self._part)
        upload = self._client.begin(place + _DATA)
        begun = _Begun(size, upload, part)
        self._note(place, begun)
        return begun

    def _note(self, place: str, begun: _Begun) -> None:
        """Write down, or again, that the upload goes on: by its time it is collected."""
        content = json.dumps({"id": begun.id, "part": begun.part}).encode()
        self._client.put(f"{place}upload-{begun.size}", content)

    def _receive(
        self, place: str, sha256: str, begun: _Begun, parts: dict[int, Part], chunks: Iterable[bytes]
    ) -> BlobInfo:
        """Send the chunks as parts, after those that are there."""
        digest, came = hashlib.sha256(), _received(begun, parts)
        anew, noted = not came, self._clock.monotonic()

        def seen(chunk: bytes) -> None:
            nonlocal came
            came += len(chunk)
            check_length(came, begun.size)
            digest.update(chunk)

        try:
            with PartSender(self._client, place + _DATA, begun.id, begun.part) as sender:
                try:
                    number = came // begun.part
                    for buffer, length in filled(sender, chunks, seen):
                        number += 1
                        if self._clock.monotonic() - noted > _NOTED_AGAIN:
                            noted = self._clock.monotonic()
                            self._note(place, begun)
                        if length == begun.part or came == begun.size:
                            sender.send(number, buffer, length)
                        else:
                            sender.give_back(buffer)
                finally:
                    sender.finish()
            known = {**parts, **sender.parts}
            if came < begun.size:
                return BlobInfo(begun.size, _received(begun, known))
            if anew:
                check_digest(digest.hexdigest(), sha256)
            return self._finish(place, sha256, begun, known, checked=anew)
        except BlobMismatch:
            self._clear(place, self._look(place))
            raise
        except Missing:
            raise BlobOffset(f"the upload of the blob {sha256} is gone: begin anew", received=0) from None

    def _finish(self, place: str, sha256: str, begun: _Begun, parts: dict[int, Part], *, checked: bool) -> BlobInfo:
        """Make the content of its parts, and the blob whole. What was not `checked` on its way is read back."""
        self._client.complete(place + _DATA, begun.id, [parts[number] for number in sorted(parts)])
        if not checked:
            digest = hashlib.sha256()
            self._client.read(place + _DATA, 0, begun.size, lambda _, piece: digest.update(piece))
            if digest.hexdigest() != sha256:
                self._clear(place, self._look(place))
                check_digest(digest.hexdigest(), sha256)
        self._client.put(place + _WHOLE, b"")
        self._client.delete([f"{place}upload-{begun.size}"])
        return BlobInfo(begun.size, begun.size)

    def _read(self, place: str, sha256: str, data: Object, offset: int) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for start in range(offset, data.size, self._part):
            for chunk in self._range(place, data, start):
                digest.update(chunk)
                yield chunk
        if not offset and digest.hexdigest() != sha256:
            self._clear(place, self._look(place))
            _log.error("a blob was damaged in the bucket, and is deleted", key=place)
            raise BlobDamaged(
                f"the blob {sha256} was damaged in {self._client.bucket.place}, and is deleted there",
                hint="send it again; an admin looks at that server",
            )

    def _range(self, place: str, data: Object, start: int) -> Iterator[bytes]:
        """A part's length in one request: who reads slowly must not hold a connection until it times out."""
        pieces: list[bytes] = []
        length = min(self._part, data.size - start)
        try:
            self._client.read(place + _DATA, start, length, lambda _, piece: pieces.append(bytes(piece)), data.etag)
        except Missing:
            raise NoSuchBlob("the blob was deleted while it was read") from None
        yield from pieces

    def _look(self, place: str) -> _Seen:
        return _seen(self._client.list(place))

    def _used(self, place: str, seen: _Seen) -> BlobInfo:
        assert seen.whole is not None
        assert seen.data is not None
        if self._clock.now() - seen.whole.modified > _USED_AGAIN:
            self._client.put(place + _WHOLE, b"")
        return BlobInfo(seen.data.size, seen.data.size)

    def _begun(self, seen: _Seen) -> tuple[_Begun, dict[int, Part]]:
        """The upload and its parts; one without an id where it is not known."""
        found = None if seen.upload is None else self._client.get(seen.upload.key)
        try:
            document = json.loads(found[0]) if found is not None else {}
            begun = _Begun(seen.announced, str(document["id"]), int(document["part"]))
        except (ValueError, KeyError, TypeError):
            return _Begun(seen.announced, "", self._part), {}
        assert seen.upload is not None
        parts = self._client.parts(_place_of(seen.upload.key) + _DATA, begun.id)
        return (_Begun(begun.size, "", begun.part), {}) if parts is None else (begun, parts)

    def _clear(self, place: str, seen: _Seen) -> None:
        """Delete all: first what makes it whole."""
        if seen.whole is not None:
            self._client.delete([place + _WHOLE])
        if seen.upload is not None:
            begun, _ = self._begun(seen)
            if begun.id:
                self._client.abort(place + _DATA, begun.id)
        rest = [found.key for found in (seen.data, seen.upload) if found is not None]
        if rest:
            self._client.delete(rest)

    def _usage(self, owner: str) -> int:
        return sum(seen.size for _, seen in self._all(f"{PREFIX}{owner_directory(owner)}/"))

    def _all(self, prefix: str = PREFIX) -> Iterator[tuple[str, _Seen]]:
        """Each blob's place, and what is in it."""
        for place, objects in itertools.groupby(self._client.list(prefix), lambda found: _place_of(found.key)):
            yield place, _seen(objects)

    @contextmanager
    def _alone(self, place: str) -> Iterator[None]:
        with self._mutex:
            if place in self._busy:
                raise BlobBusy(
                    f"the blob {place.split('/')[-2]} is being uploaded", hint="wait until that ends, and ask again"
                )
            self._busy.add(place)
        try:
            yield
        finally:
            self._busy.discard(place)


def _place(owner: str, sha256: str) -> str:
    return f"{PREFIX}{owner_directory(owner)}/{check_sha256(sha256)}/"


def _place_of(key: str) -> str:
    return key.rpartition("/")[0] + "/"


def _size_in(key: str) -> int:
    named = _UPLOAD.fullmatch(key.rpartition("/")[2])
    return int(named[1]) if named else 0


def _seen(objects: Iterable[Object]) -> _Seen:
    by_name = {found.key.rpartition("/")[2]: found for found in objects}
    upload = next((found for name, found in by_name.items() if _UPLOAD.fullmatch(name)), None)
    return _Seen(by_name.get(_WHOLE), by_name.get(_DATA), upload)


def _received(begun: _Begun, parts: dict[int, Part]) -> int:
    """Bytes from the beginning on without a gap."""
    received = 0
    for number in range(1, begun.part_count + 1):
        length = min(begun.part, begun.size - received)
        if number not in parts or parts[number].size != length:
            break
        received += length
    return received
