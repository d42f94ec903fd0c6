"""Who does not read an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cumulus.errors import StoreUnavailable
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.grpc import door


class Reader:
    """The context of a call whose client reads one message."""

    def __init__(self) -> None:
        self.read: list[bytes] = []

    async def write(self, data: bytes) -> None:
        if self.read:
            await asyncio.Event().wait()
        self.read.append(data)


def test_an_answer_that_nobody_reads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "STALLED_SECONDS", 0.0)
    reader: Any = Reader()

    async def answer() -> None:
        async with door._reader(reader) as write:
            await write(pb.Chunk(data=b"one"))
            # Nothing is written, so nothing waits to be read.
            await asyncio.sleep(0.01)
            await write(pb.Chunk(data=b"two"))

    with pytest.raises(StoreUnavailable, match="nothing of the answer was read"):
        asyncio.run(answer())
    assert reader.read == [pb.Chunk(data=b"one").SerializeToString()]
