"""Blobs: put, find, get."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any

from cumulus.blob.base import BlobInfo
from cumulus.errors import UsageError
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.api import Api
from cumulus.server.grpc.pipe import Pipe
from cumulus.server.grpc.streams import to_the_end
from cumulus.service.blobs import BlobFound, Blobs
from cumulus.service.identity import Identity

MOST_ASKED = 1000
"""Blobs in one FindBlobs."""
UPLOADS, UPLOADS_OF_USER = 128, 16
"""At once. Those beyond wait for their turn."""
STALLED_SECONDS, BYTES_PER_SECOND = 60.0, 16 * 2**10
"""How long an upload may take: so long, and beyond that as long as it comes at that rate."""


class BlobCalls:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._blobs = api.service.blobs
        self._threads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")
        self._turns: dict[object, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(UPLOADS_OF_USER))
        """Of each user who uploaded since the server began: there are not many, and they are small."""

    async def put(self, identity: Identity, requests: AsyncIterator[pb.PutBlobRequest | bytes]) -> pb.Blob:
        first = await anext(requests, None)
        if first is None or isinstance(first, bytes) or not first.HasField("header"):
            raise UsageError("the first message of an upload has its header")
        header = first.header
        async with self._turns[identity[:2]]:
            pipe: Pipe[bytes] = Pipe()
            loop = asyncio.get_running_loop()
            stored = loop.run_in_executor(
                self._threads, self._blobs.write, identity, header.sha256, header.size, iter(pipe), header.offset
            )
            stored.add_done_callback(partial(_take_no_more, pipe))
            try:
                await _feed(pipe, requests, stored)
            finally:
                pipe.end(whole=False)
            info: BlobInfo = await stored
        return pb.Blob(sha256=header.sha256, size=info.size, received=info.received)

    async def find(self, identity: Identity, request: pb.FindBlobsRequest) -> pb.FindBlobsResponse:
        if len(request.blobs) > MOST_ASKED:
            raise UsageError(f"{len(request.blobs)} blobs are asked for; ask for {MOST_ASKED} at most")
        wanted = [(header.sha256, header.size) for header in request.blobs]
        found = await self._api.call(self._blobs.find, identity, wanted)
        return pb.FindBlobsResponse(blobs=[_message(each) for each in found])

    async def get(self, identity: Identity, request: pb.GetBlobRequest) -> AsyncGenerator[pb.Chunk]:
        async with aclosing(content(self._api, identity, request.sha256, request.offset)) as chunks:
            async for data in chunks:
                yield pb.Chunk(data=data)


def content(api: Api, identity: Identity, sha256: str, offset: int) -> AsyncGenerator[bytes]:
    """A blob of the user, from `offset` on."""
    blobs: Blobs = api.service.blobs
    return to_the_end(api, partial(blobs.open, identity, sha256, offset))


def _message(found: BlobFound) -> pb.Blob:
    made = pb.Blob(sha256=found.sha256, size=found.size, received=found.received, get_url=found.download)
    if found.upload is not None:
        made.put_urls.extend(found.upload.urls)
        made.part_size = found.upload.part_size
    return made


def _take_no_more(pipe: Pipe[bytes], stored: asyncio.Future[Any]) -> None:
    """Nobody waits any more for the thread to take what came. If the client went away, nobody asks what it raised."""
    pipe.end(whole=False)
    if not stored.cancelled():
        stored.exception()


async def _feed(
    pipe: Pipe[bytes], requests: AsyncIterator[pb.PutBlobRequest | bytes], stored: asyncio.Future[Any]
) -> None:
    """Until the client has sent all, or the thread wants no more. Raises UsageError."""
    began, received = time.monotonic(), 0

    async def read() -> None:
        nonlocal received
        async for message in requests:
            data = message if isinstance(message, bytes) else _data(message)
            received += len(data)
            await pipe.put(data)
        pipe.end(whole=True)

    reading = asyncio.ensure_future(read())
    # Where the thread ended first, nobody asks what this raised.
    reading.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        while not stored.done():
            left = began + STALLED_SECONDS + received / BYTES_PER_SECOND - time.monotonic()
            if left <= 0:
                raise UsageError("the upload takes too long", hint="go on from what was received")
            await asyncio.wait([reading, stored], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not stored.done():
                reading.result()
                return
    finally:
        reading.cancel()


def _data(message: pb.PutBlobRequest) -> bytes:
    if not message.HasField("data"):
        raise UsageError("only the first message of an upload has a header")
    return message.data
