"""How each listener knows who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from cumulus.errors import Unauthenticated
from cumulus.lib.unix_socket import Peer
from cumulus.server.api import Api
from cumulus.server.failures import Failures
from cumulus.server.http.connection import CERTIFICATE, PEER, ClientCertificate
from cumulus.service.certificates import id_of
from cumulus.service.identity import Identity

if TYPE_CHECKING:
    from starlette.types import Scope

    from cumulus.server.http.authentication import AuthenticateRequest
    from cumulus.service.accounts import Accounts

_log = structlog.get_logger("cumulus.api")
_CHALLENGE = "show a token: Authorization: Bearer …; or a client certificate"


def by_peer(accounts: Accounts, api: Api) -> AuthenticateRequest:
    """Who asks over a Unix socket: the kernel says it. Raises Unauthenticated for every other connection."""

    async def authenticate(scope: Scope) -> Identity:
        peer = scope["state"].get(PEER)
        if not isinstance(peer, Peer):
            raise Unauthenticated("this connection does not show who asks", hint="ask over the socket of this machine")
        known = accounts.known(peer.uid)
        return await api.call(accounts.of_uid, peer.uid) if known is None else known

    return authenticate


def by_credentials(api: Api) -> AuthenticateRequest:
    """Who asks over TLS: a token says it, else a client's certificate. Raises Unauthenticated; TooManyRequests where
    the same address showed too much that is not valid: see `Failures`."""
    failures = Failures(_log, "request")

    async def authenticate(scope: Scope) -> Identity:
        try:
            token = _bearer(scope)
            if token is not None:
                return await api.call(api.service.tokens.authenticate, token)
            return await _certified(scope, api)
        except Unauthenticated as error:
            failures.count((scope.get("client") or ("",))[0], error)
            raise

    return authenticate


def _bearer(scope: Scope) -> str | None:
    """The token of the request; None where it has no such header."""
    given: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if not given:
        return None
    scheme, _, token = given[0].decode("latin-1").partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer":
        raise Unauthenticated("the Authorization header is no bearer token", hint=_CHALLENGE)
    return token.strip()


async def _certified(scope: Scope, api: Api) -> Identity:
    """No Unix user: a certificate's name is one of whoever signs certificates."""
    certificate = scope["state"].get(CERTIFICATE)
    if not isinstance(certificate, ClientCertificate) or not certificate.user:
        raise Unauthenticated("nothing shows who asks", hint=_CHALLENGE)
    id = id_of(certificate.serial)
    await api.call(api.service.certificates.check_valid, id)
    return Identity(certificate.user, None, certificate.groups, id)
