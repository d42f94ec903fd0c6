"""Logs that go on where the client was cut off.

A position is `ATTEMPT.OFFSET`: the byte of that attempt's whole log at which it goes on. Clients don't read it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial

from cumulus.answers.logs import LogBytes
from cumulus.errors import NoLog, UsageError
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.api import Api
from cumulus.server.grpc.jobs import key_of
from cumulus.server.grpc.streams import to_the_end
from cumulus.service.identity import Identity

_POSITION = re.compile(r"(\d{1,9})\.(\d{1,18})", re.ASCII)


class LogCalls:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def logs(self, identity: Identity, request: pb.LogsRequest) -> AsyncGenerator[pb.LogChunk]:
        async with aclosing(to_the_end(self._api, partial(self._chunks, identity, request))) as found:
            async for chunk in found:
                yield chunk

    def _chunks(self, identity: Identity, request: pb.LogsRequest) -> Iterator[pb.LogChunk | None]:
        """None where nothing is new: a moment to stop at."""
        key, replica = key_of(request.job), request.replica
        if replica < 0 or request.attempt < 0:
            raise UsageError("attempts are counted from 1, replicas from 0")
        attempt, offset = _read_position(request.position, request.attempt)
        self._api.service.calls.get(identity, key, request.job.uid)
        pieces = self._api.service.logs.read(
            identity, key, attempt=attempt, replica=replica, follow=request.follow, position=offset,
            onwards=not request.attempt,
        )  # fmt: skip
        try:
            for piece in pieces:
                if isinstance(piece, LogBytes) and (piece.data or piece.dropped):
                    yield pb.LogChunk(
                        data=piece.data, position=f"{piece.attempt}.{piece.position}", dropped=piece.dropped,
                        attempt=piece.attempt, replica=replica,
                    )  # fmt: skip
                else:
                    yield None
        except NoLog:
            # A job that wrote nothing has an empty log.
            if request.follow:
                return
            raise


def _read_position(given: str, wanted: int) -> tuple[int, int]:
    """Attempt and offset at which to begin. An attempt of 0: the last one."""
    if not given:
        return wanted, 0
    found = _POSITION.fullmatch(given)
    if found is None or not int(found[1]) or wanted not in (0, int(found[1])):
        raise UsageError("the position is not one of this log", hint="take it from the last chunk that came")
    return int(found[1]), int(found[2])
