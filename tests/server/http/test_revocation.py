"""What a token opened ends with it, by what was answered when it was revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from cumulus.errors import StoreUnavailable, Unauthenticated
from cumulus.server.http import revocation
from cumulus.server.http.revocation import until_revoked
from cumulus.server.http.tunnel import TAKEN_OVER
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def served(
    app: Callable[[Scope, Receive, Send], Awaitable[None]], check: Callable[[str], Awaitable[None]]
) -> list[Message]:
    """What the client gets of a request that was asked with a token."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def serve() -> None:
        async with asyncio.timeout(PATIENCE):
            await until_revoked(app, {"type": "http"}, receive, send, token="t", check=check)

    asyncio.run(serve())
    return sent


async def revoked(token: str) -> None:
    raise Unauthenticated("the token was revoked")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "LOOK_SECONDS", 0.01)


def test_a_stream_has_an_end() -> None:
    closed = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    assert (served(app, revoked), closed) == ([START, END], [True])


def test_a_websocket_is_let_go() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope[TAKEN_OVER] = True
        await asyncio.Event().wait()

    assert served(app, revoked) == []


def test_what_has_not_begun_is_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await send(START)
        await send(END)

    assert served(app, revoked) == [START, END]


def test_it_is_looked_at_again_and_again() -> None:
    looks = []

    async def check(token: str) -> None:
        looks.append(token)
        if len(looks) == 3:
            await revoked(token)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.Event().wait()

    assert served(app, check) == [START, END]
    assert looks == ["t"] * 3


def test_a_look_that_fails_ends_nothing() -> None:
    looked = asyncio.Event()
    looks = []

    async def check(token: str) -> None:
        looks.append(token)
        if len(looks) == 2:
            looked.set()
        raise StoreUnavailable("the daemon is about to end")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await looked.wait()
        await send(END)

    assert served(app, check) == [START, END]


def test_who_cancels_it_otherwise_is_obeyed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        raise asyncio.CancelledError

    async def known(token: str) -> None:
        return

    with pytest.raises(asyncio.CancelledError):
        served(app, known)
