"""A token that is over, or was revoked, ends what it opened: watches, logs that are followed, WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from cumulus.errors import CumulusError, Unauthenticated
from cumulus.server.http.tunnel import TAKEN_OVER

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CheckToken = Callable[[str], Awaitable[None]]
"""Raises Unauthenticated where the token with this id, or the certificate, does not hold any more."""

_log = structlog.get_logger("cumulus.api")

LOOK_SECONDS = 15.0
"""How often it is looked at while an answer goes on."""


async def until_revoked(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, token: str, check: CheckToken
) -> None:
    """Answer a request that was asked with the token, for as long as that holds.

    A stream ends as one whose time is over: the client asks again, and is told. What has not begun to be answered is
    not broken off, since it may be done already.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    began = revoked = False
    looking: asyncio.Task[None] | None = None

    async def sent(message: Message) -> None:
        nonlocal began
        began = True
        await send(message)

    async def look() -> None:
        nonlocal revoked
        while True:
            if began or TAKEN_OVER in scope:
                try:
                    await check(token)
                except Unauthenticated:
                    revoked = True
                    task.cancel()
                    return
                except CumulusError as error:
                    _log.warning("it is not known whether a token still holds", problem=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    def begin() -> None:
        nonlocal looking
        looking = loop.create_task(look())

    # Most answers are over by then, and cost no task.
    timer = loop.call_later(LOOK_SECONDS, begin)
    try:
        await app(scope, receive, sent)
    except asyncio.CancelledError:
        if not revoked:
            raise
        task.uncancel()
        if TAKEN_OVER not in scope:
            # An answer that said how long it is can't end in time: its connection is closed.
            with contextlib.suppress(RuntimeError):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        timer.cancel()
        if looking is not None:
            looking.cancel()
