"""Calls in a session: carried to its process and back, one after another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing

from cumulus.calls.session import LARGEST, SessionConnection, SessionEnded
from cumulus.errors import BackendError, JobFinished, NotFound, UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import gpujob
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.api import Api
from cumulus.server.grpc.jobs import changes, key_of
from cumulus.server.grpc.pipe import BrokenOff, Pipe
from cumulus.server.grpc.streams import to_the_end
from cumulus.service.identity import Identity

LOOK_SECONDS = 0.1
"""How often it is looked whether a session whose program runs answers already."""


class SessionCalls:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._calls = api.service.calls

    async def call(
        self, identity: Identity, requests: AsyncIterator[pb.CallRequest]
    ) -> AsyncGenerator[pb.CallResponse]:
        """Waits until the session has begun. Raises JobFinished where it is over, BackendError where it went away: then
        the client asks again."""
        first = await anext(requests, None)
        if first is None or not first.start.HasField("job"):
            raise UsageError("the first message names the session's job")
        connection = await self._connected(identity, key_of(first.start.job), first.start.job.uid)
        pipe: Pipe[pb.CallRequest] = Pipe()
        feeding = asyncio.create_task(_feed(pipe, first, requests))
        try:
            async with aclosing(to_the_end(self._api, lambda: _exchange(connection, pipe))) as answers:
                async for answer in answers:
                    yield answer
            # What was wrong with a request.
            await feeding
        finally:
            feeding.cancel()
            pipe.end(whole=False)
            # The thread may wait for the session's answer.
            connection.abort()

    async def _connected(self, identity: Identity, key: Key, uid: str) -> SessionConnection:
        job = await self._api.call(self._calls.own, identity, key, uid)
        if not lookup(job, "spec.call.session"):
            raise UsageError(f"gpujob/{key.name} is no session")
        async with aclosing(changes(self._api, identity, key, job["metadata"]["uid"])) as seen:
            coming: asyncio.Future[tuple[Document, bool]] = asyncio.ensure_future(anext(seen))
            try:
                while True:
                    if gpujob.KIND.over(job):
                        raise JobFinished(f"the session gpujob/{key.name} is over")
                    begun = bool(lookup(job, "status.attempts"))
                    await asyncio.wait([coming], timeout=LOOK_SECONDS if begun else None)
                    if coming.done():
                        job, deleted = coming.result()
                        if deleted:
                            raise NotFound(f"gpujob/{key.name} was deleted")
                        coming = asyncio.ensure_future(anext(seen))
                        continue
                    with contextlib.suppress(SessionEnded):
                        return await self._api.call(self._calls.session, job)
            finally:
                coming.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await coming


async def _feed(pipe: Pipe[pb.CallRequest], first: pb.CallRequest, requests: AsyncIterator[pb.CallRequest]) -> None:
    try:
        if first.start.id:
            await pipe.put(first)
        async for request in requests:
            await pipe.put(request)
        pipe.end(whole=True)
    finally:
        pipe.end(whole=False)


def _exchange(connection: SessionConnection, requests: Pipe[pb.CallRequest]) -> Iterator[pb.CallResponse]:
    """Each call's answer, in a thread."""
    try:
        coming = iter(requests)
        for request in coming:
            start = request.start
            if not start.id or start.size < 0 or start.size > LARGEST:
                raise UsageError("a call has an id from 1 on, and a size")
            # The client reads it, and believes nothing of it that is not signed.
            outcome, size, chunks = connection.exchange(start.size, _payload(start, coming))
            yield pb.CallResponse(id=start.id, outcome=outcome, size=size, data=next(chunks, b""))
            for data in chunks:
                yield pb.CallResponse(id=start.id, data=data)
    except BrokenOff:
        return
    except (SessionEnded, OSError, EOFError, ValueError) as error:
        # Its job tells whether it is over.
        raise BackendError(f"the session went away: {error}") from None
    finally:
        connection.close()


def _payload(start: pb.CallStart, coming: Iterator[pb.CallRequest]) -> Iterator[bytes]:
    left, data = start.size, start.data
    while True:
        left -= len(data)
        if left < 0:
            raise UsageError(f"call {start.id} has more bytes than it says")
        yield data
        if not left:
            return
        request = next(coming, None)
        if request is None or request.HasField("start"):
            raise UsageError(f"call {start.id} has fewer bytes than it says")
        data = request.data
