"""Sends what a call is made of, once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cumulus.errors import CumulusError
from cumulus.rpc import pieces
from cumulus.sdk import presigned, transport
from cumulus.sdk.packaging.blob import Blob
from cumulus.sdk.transport import GrpcConnection

if TYPE_CHECKING:
    from cumulus.rpc import orchestrator_pb2

SMALL = 2**20
"""Up to this size a blob is sent rather than asked for first."""


class ServerBlobs:
    """The blobs of one caller on one server. Safe for threads."""

    def __init__(self, connection: GrpcConnection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._known: set[str] = set()

    def send(self, kept: Sequence[Blob], fresh: Blob) -> None:
        """Make sure that the server has them. `kept` are those that it may have from an earlier call; `fresh` is one
        that it can't have. Raises CumulusError."""
        wanted = [blob for blob in kept if blob.sha256 not in self._known]
        if fresh.sha256 not in self._known:
            if fresh.size <= SMALL:
                self._put(fresh, 0)
            else:
                wanted.append(fresh)
        if wanted:
            for blob, found in zip(wanted, self._found(wanted), strict=True):
                if found.received >= blob.size > 0:
                    continue
                if found.put_urls and not found.received:
                    self._put_parts(blob, found)
                else:
                    self._put(blob, found.received)
        with self._lock:
            self._known.update(blob.sha256 for blob in (*kept, fresh))

    def forget(self) -> None:
        """The server may have collected them."""
        with self._lock:
            self._known.clear()

    def _found(self, blobs: Sequence[Blob]) -> Sequence[orchestrator_pb2.Blob]:
        from cumulus.rpc.orchestrator_pb2 import BlobHeader, FindBlobsRequest

        request = FindBlobsRequest(blobs=[BlobHeader(sha256=each.sha256, size=each.size) for each in blobs])
        return self._connection.call(lambda stub: stub.FindBlobs, request).blobs

    def _put_parts(self, blob: Blob, found: orchestrator_pb2.Blob) -> None:
        presigned.put(blob, found.put_urls, found.part_size)
        # The server looks at it as it is asked for.
        [stored] = self._found([blob])
        if stored.received < blob.size:
            raise CumulusError("the store of blobs lost a part of what was sent", hint="try again")

    def _put(self, blob: Blob, received: int) -> None:
        first: int | None = received

        def once() -> None:
            nonlocal first
            if first is None:
                first = self._found([blob])[0].received
                if first == blob.size and blob.size:
                    return
            begin, first = first, None
            self._connection.upload(_messages(blob, begin))

        self._connection.again(once, patience=transport.short)


def _messages(blob: Blob, offset: int) -> Iterator[bytes]:
    from cumulus.rpc.orchestrator_pb2 import BlobHeader, PutBlobRequest

    header = BlobHeader(sha256=blob.sha256, size=blob.size, offset=offset)
    yield PutBlobRequest(header=header).SerializeToString()
    yield from map(pieces.written, blob.parts(offset, blob.size, transport.CHUNK))
