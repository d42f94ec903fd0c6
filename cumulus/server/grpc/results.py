"""What came of a call, once it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from cumulus.calls.outcome import Outcome
from cumulus.errors import NotFound, UsageError, WaitTimedOut
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.api import Api
from cumulus.server.grpc.blobs import content
from cumulus.server.grpc.jobs import changes, key_of, message_of
from cumulus.service.identity import Identity


class ResultCalls:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def result(self, identity: Identity, request: pb.ResultRequest) -> AsyncGenerator[pb.ResultChunk]:
        """For the submitter alone."""
        key = key_of(request.job)
        if not request.timeout >= 0:
            # NaN too: it has no place among the event loop's timers.
            raise UsageError("a time-out is a number of seconds from 0, for none, on")
        try:
            async with asyncio.timeout(request.timeout or None):
                job = await self._final(identity, key, request.job.uid)
        except TimeoutError:
            raise WaitTimedOut(f"gpujob/{key.name} is not over after {request.timeout:g} seconds") from None
        outcome = _outcome(job)
        header = pb.ResultHeader(job=message_of(job))
        if outcome is not None:
            header.outcome, header.sha256, header.size = outcome.to_json(), outcome.result, outcome.result_size
        if header.sha256:
            url = self._api.service.blobs.download_url
            header.get_url = await self._api.call(url, identity, header.sha256, header.size)
        yield pb.ResultChunk(header=header)
        if header.sha256 and request.offset < header.size and not header.get_url:
            async with aclosing(content(self._api, identity, header.sha256, request.offset)) as chunks:
                async for data in chunks:
                    yield pb.ResultChunk(data=data)

    async def _final(self, identity: Identity, key: Key, uid: str) -> Document:
        await self._api.call(self._api.service.calls.own, identity, key, uid)
        job: Document = {}
        async with aclosing(changes(self._api, identity, key, uid)) as found:
            async for document, deleted in found:
                if deleted:
                    raise NotFound(f"gpujob/{key.name} was deleted before it was over")
                job = document
        return job


def _outcome(job: Document) -> Outcome | None:
    """None for a job that is no call, or came to no end of its own."""
    try:
        return Outcome.of_status(lookup(job, "status.call") or {})
    except ValueError:
        return None
