"""The BlobStore protocol: content-addressed bytes, each owned by one user.

A blob is named by its owner and the sha256 of its content. Two users who keep the same bytes have two blobs: knowing a
hash gives neither access nor an answer to "is it there already?".

Contract of every implementation (the conformance suite in tests/blob checks it):

* A blob is there whole or not at all. Its content was checked against its sha256 before it can be found whole.
* What `write` returned as complete is durable: it survives kill -9 and power loss.
* An upload that breaks off can go on from `received`, in another process too. Until then nobody can read it.
* One upload of a blob runs at a time.
* `find` of a whole blob, and a `write` of one that is there, count as a use: `collect` takes its age from the last one.
  So whoever found a blob has the retention's time to name it in a job.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cumulus.errors import BlobMismatch, BlobTooLarge, UsageError
from cumulus.resources.quantity import format_bytes

CHUNK = 2**20
"""Bytes that `open` gives at a time, at most."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """`size` is of the whole content in bytes, `received` of what is there, from its beginning on: less than `size` as
    long as the blob is not whole, checked and readable."""

    size: int
    received: int

    @property
    def complete(self) -> bool:
        return self.received == self.size


@dataclass(frozen=True, slots=True)
class BlobLimits:
    """In bytes: `largest` is a blob's size, `owner` that of all blobs of one user together."""

    largest: int = 16 * 2**30
    owner: int = 64 * 2**30


@dataclass(frozen=True, slots=True)
class Collected:
    """What `collect` deleted: how many blobs and broken uploads, and their bytes."""

    count: int
    size: int


@dataclass(frozen=True, slots=True)
class UploadUrls:
    """Where a client puts the parts of a blob by HTTP, in any order; each of `part_size` bytes but the last."""

    urls: tuple[str, ...]
    part_size: int


class BlobOwner(Protocol):
    """Who owns blobs: an identity of the service, or the submitter of an object."""

    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> int | None: ...


def owner_of(user: BlobOwner) -> str:
    """The owner's text that a `BlobStore` takes, the same for a user's identity and for the submitter of their
    objects."""
    return f"{'' if user.uid is None else user.uid}:{user.name}"


def check_sha256(text: str) -> str:
    """The text itself where it is a sha256 in lower-case hex. Raises UsageError."""
    if not _SHA256.fullmatch(text):
        raise UsageError("the name of a blob is its sha256: 64 digits of 0-9a-f")
    return text


def check_size(limits: BlobLimits, size: int, offset: int = 0) -> None:
    """Raises UsageError for a size or offset that is none, BlobTooLarge."""
    if size < 0 or not 0 <= offset <= size:
        raise UsageError("the size of a blob is 0 or more, and an offset lies in it")
    if size > limits.largest:
        raise BlobTooLarge(
            f"a blob has at most {format_bytes(limits.largest)}, and this one {format_bytes(size)}",
            hint="an admin can raise blobs.largest in the daemon's configuration",
        )


def check_limit(limits: BlobLimits, used: int, size: int) -> None:
    """Whether an owner whose blobs have `used` bytes may have `size` more. Raises BlobTooLarge."""
    if used + size > limits.owner:
        raise BlobTooLarge(
            f"your blobs have {format_bytes(used)}; with {format_bytes(size)} more they are over their limit of "
            f"{format_bytes(limits.owner)}",
            hint="blobs go when no job names them: delete finished jobs; "
            "an admin can raise blobs.limit in the daemon's configuration",
        )


def check_offset(offset: int) -> None:
    """Raises UsageError for a place in a blob that is none."""
    if offset < 0:
        raise UsageError("the offset in a blob is 0 or more")


def check_length(length: int, size: int) -> None:
    """Whether so many bytes may have come of a blob of `size`. Raises BlobMismatch."""
    if length > size:
        raise BlobMismatch(f"the content is longer than the {size} bytes that were announced")


def check_digest(found: str, sha256: str) -> None:
    """Raises BlobMismatch where what came has another sha256."""
    if found != sha256:
        raise BlobMismatch(f"the content is not that of {sha256}: its sha256 is {found}")


def owner_directory(owner: str) -> str:
    """What stands for the owner in names of files and objects: a user's name may be anything, and is told nobody."""
    return hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class BlobStore(Protocol):
    """Every method may be called from any thread. Each raises UsageError for a sha256 that is none, and
    BlobStoreUnavailable where the place of the blobs can't be used."""

    def find(self, owner: str, sha256: str) -> BlobInfo | None:
        """What is there of the owner's blob; None where there is nothing. An upload all of whose parts came by
        `upload_urls` is checked and made whole. Raises BlobMismatch where it is something else: it is deleted."""
        ...

    def write(self, owner: str, sha256: str, size: int, chunks: Iterable[bytes], offset: int = 0) -> BlobInfo:
        """Store the content, which `chunks` has from `offset` on; `size` is of the whole, in bytes.

        `offset` is 0, which begins anew, or what `find` says is `received`. Where the chunks end early, or raise, what
        came is kept, as far as the store can: look at `received`. Of a blob that is there already no chunk is taken.

        Raises BlobOffset for another offset, BlobBusy while another upload of it runs, BlobMismatch where the content
        is not what the sha256 and the size say (nothing is kept), BlobTooLarge, BlobStoreFull (nothing is kept)."""
        ...

    def open(self, owner: str, sha256: str, offset: int = 0) -> Iterator[bytes]:
        """The content from `offset` on, nothing from its end on. Raises NoSuchBlob at once, also for one that is not
        whole; while it is read from the beginning, BlobDamaged where the last chunk shows that it is not what was
        stored."""
        ...

    def path(self, owner: str, sha256: str) -> Path | None:
        """A file with the content, to be read only; None where the store has no files, or not this blob."""
        ...

    def upload_urls(self, owner: str, sha256: str, size: int) -> UploadUrls | None:
        """Where the owner may put the content of a blob that is not there yet, instead of by `write`; None where the
        store has no such URLs. Each is as good as the owner's own word for an hour, and shows no key of the store.

        When all parts are there, `find` checks the content and makes it whole. Raises what `write` raises."""
        ...

    def download_url(self, owner: str, sha256: str) -> str | None:
        """Where the owner may get the content of a whole blob for an hour; None where the store has no such URLs."""
        ...

    def delete(self, owner: str, sha256: str) -> bool:
        """Whether there was one, whole or not. Raises BlobBusy while it is uploaded."""
        ...

    def collect(self, referenced: Collection[tuple[str, str]], older_than: datetime) -> Collected:
        """Delete blobs that no (owner, sha256) of `referenced` names and whose last use was before `older_than`, and
        uploads that broke off before then. Never one that is being uploaded."""
        ...
