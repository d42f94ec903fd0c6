"""Who asks: a ticket says it, or a token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import structlog

from cumulus.errors import Unauthenticated
from cumulus.server.api import Api
from cumulus.server.failures import Failures
from cumulus.service.identity import Identity

TICKET, TOKEN = "cumulus-ticket", "authorization"
"""Names of metadata."""
_HINT = "send a token as `authorization: Bearer …`, or a ticket of the HTTP API as `cumulus-ticket`"
_log = structlog.get_logger("cumulus.grpc")
T = TypeVar("T")

AuthenticateRpc = Callable[[Iterable[tuple[str, str | bytes]], str], Awaitable[Identity]]
"""Who asks, by the metadata of the call and the address that it comes from. Raises Unauthenticated, TooManyRequests."""


def by_credentials(api: Api) -> AuthenticateRpc:
    """Raises TooManyRequests where the same address showed too much that is not valid: see `Failures`."""
    failures = Failures(_log, "call")

    async def authenticate(metadata: Iterable[tuple[str, str | bytes]], peer: str) -> Identity:
        try:
            return await _identity(api, metadata)
        except Unauthenticated as error:
            failures.count(_host(peer), error)
            raise

    return authenticate


async def _identity(api: Api, metadata: Iterable[tuple[str, str | bytes]]) -> Identity:
    given: list[tuple[str, Any]] = [(name, value) for name, value in metadata if name in (TICKET, TOKEN)]
    if len(given) != 1 or not isinstance(given[0][1], str):
        raise Unauthenticated(f"{'more than one thing' if given else 'nothing'} shows who asks", hint=_HINT)
    name, value = given[0]
    if name == TICKET:
        return await api.call(api.service.tickets.authenticate, value)
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("the authorization is no bearer token", hint=_HINT)
    return await api.call(api.service.tokens.authenticate, token.strip())


def _host(peer: str) -> str:
    """Of `ipv4:127.0.0.1:50312` without the port; all who come over a Unix socket are one."""
    return peer.rpartition(":")[0] if peer.startswith("ipv") else "unix"
