"""Threads for calls of the service: how many of them one user may take."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import NotRunning, TooManyRequests
from cumulus.server.api import HELD, OF_ONE_USER, Api
from cumulus.server.watches import WatchBridge
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.documents import NOW
from tests.waiting import PATIENCE

ANN, BOB = Identity("ann", 1001), Identity("bob", 1002)


def test_who_stops_waiting_has_the_threads_until_they_are_free(tmp_path: Path) -> None:
    store = MemoryStore(FakeClock(NOW))
    bridge = WatchBridge(store)
    api = Api(Service(lambda: store, tmp_path), bridge)
    goes_on, begun = threading.Event(), list[int]()

    def stuck() -> None:
        begun.append(1)
        goes_on.wait(PATIENCE)

    async def asked() -> None:
        waiting = [asyncio.create_task(api.reach(ANN, stuck)) for _ in range(OF_ONE_USER)]
        while len(begun) < OF_ONE_USER:
            await asyncio.sleep(0.01)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await api.reach(ANN, begun.clear)
        await api.reach(BOB, begun.append, 2)
        goes_on.set()
        await api.reach(ANN, begun.append, 3)
        assert begun == [1] * OF_ONE_USER + [2, 3]

    try:
        asyncio.run(asked())
    finally:
        goes_on.set()
        bridge.close()
        api.close()
        store.close()


def test_what_one_user_holds_has_an_end_and_what_is_let_go_counts_no_more(tmp_path: Path) -> None:
    store = MemoryStore(FakeClock(NOW))
    bridge = WatchBridge(store)
    api = Api(Service(lambda: store, tmp_path), bridge)

    def refused() -> socket.socket:
        raise NotRunning("it has ended")

    async def held() -> None:
        with pytest.raises(NotRunning):
            await api.hold(ANN, refused)
        made = [await api.hold(ANN, socket.socket) for _ in range(HELD)]
        with pytest.raises(TooManyRequests, match="programs beside jobs"):
            await api.hold(ANN, socket.socket)
        for who in (BOB, Identity("root", 0)):
            (await api.hold(who, socket.socket)).close()
        made.pop().close()
        made.append(await api.hold(ANN, socket.socket))
        for each in made:
            each.close()

    try:
        asyncio.run(held())
    finally:
        bridge.close()
        api.close()
        store.close()
