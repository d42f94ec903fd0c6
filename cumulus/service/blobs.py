"""Blobs of users: the bytes of arguments, code and results of calls. Each user sees their own, and nobody's else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cumulus.blob.base import BlobInfo, BlobStore, UploadUrls, check_sha256, owner_of
from cumulus.errors import Forbidden
from cumulus.resources.roles import Role
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity

URLS_FROM = 8 * 2**20
"""Bytes from which on a blob goes straight to where it is kept and comes from there, if there is a way."""


class BlobFound(NamedTuple):
    """One that was asked for: what is there of it, and where the client may send or get it instead of by us."""

    sha256: str
    size: int
    received: int
    upload: UploadUrls | None = None
    download: str = ""


class Blobs:
    """Every method raises what `BlobStore` raises, and Forbidden."""

    def __init__(self, access: Access, store: BlobStore) -> None:
        self._access = access
        self._store = store

    def find(self, identity: Identity, wanted: Sequence[tuple[str, int]]) -> list[BlobFound]:
        """What is there of those blobs, each a sha256 and the size of the whole, of the ones that the user has."""
        self._access.check(identity, "get", "blobs")
        return [self._found(identity, check_sha256(sha256), size) for sha256, size in wanted]

    def write(self, identity: Identity, sha256: str, size: int, chunks: Iterable[bytes], offset: int) -> BlobInfo:
        """See `BlobStore.write`. For those who may make a job somewhere."""
        self._check_writer(identity)
        with self._access.audit.doing(identity, [("create", "blobs", "", sha256)]):
            return self._store.write(owner_of(identity), sha256, size, chunks, offset)

    def open(self, identity: Identity, sha256: str, offset: int = 0) -> Iterator[bytes]:
        """See `BlobStore.open`."""
        self._access.check(identity, "get", "blobs")
        return self._store.open(owner_of(identity), sha256, offset)

    def download_url(self, identity: Identity, sha256: str, size: int) -> str:
        """Where the client gets a whole blob, "" for by us."""
        self._access.check(identity, "get", "blobs")
        return self._url(owner_of(identity), sha256, size)

    def _found(self, identity: Identity, sha256: str, size: int) -> BlobFound:
        owner = owner_of(identity)
        found = self._store.find(owner, sha256)
        if found is not None and found.complete:
            return BlobFound(sha256, found.size, found.received, download=self._url(owner, sha256, found.size))
        urls = None
        if size >= URLS_FROM and self._access.may_somewhere(identity, Role.USER):
            urls = self._store.upload_urls(owner, sha256, size)
        return BlobFound(sha256, size, found.received if found is not None else 0, urls)

    def _url(self, owner: str, sha256: str, size: int) -> str:
        return (self._store.download_url(owner, sha256) or "") if size >= URLS_FROM else ""

    def _check_writer(self, identity: Identity) -> None:
        self._access.check(identity, "create", "blobs")
        if not self._access.may_somewhere(identity, Role.USER):
            self._access.audit.tell(identity, "create", "blobs", "", "", "Forbidden")
            raise Forbidden(
                "blobs are for those who may make jobs",
                hint="you have the role user in no namespace; an admin gives it with a RoleBinding",
            )
