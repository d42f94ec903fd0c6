"""Who asks? A middleware in front of every route; how it is known is each listener's matter.

Nobody asks as another. kubectl's `--as` is refused, not passed over: who types it would do as themselves what they
meant to try as somebody with fewer rights.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from cumulus.errors import CumulusError, Forbidden
from cumulus.server.http.revocation import CheckToken, until_revoked
from cumulus.server.http.status import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from cumulus.service.identity import Identity

AuthenticateRequest = Callable[["Scope"], Awaitable["Identity"]]
"""The identity behind a request. Raises Unauthenticated."""
_AS_ANOTHER = b"impersonate-"
_SAME_FOR_ALL = re.compile(r"/version|/api(/v1)?|/apis(/[^/]+){0,2}|/openapi/.+")


class Authentication:
    """Puts the identity into the request's scope, or answers 401."""

    def __init__(self, app: ASGIApp, authenticate: AuthenticateRequest, check: CheckToken) -> None:
        self._app = app
        self._authenticate = authenticate
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope["cumulus.identity"] = identity = await self._authenticate(scope)
                _check_nobody_else_is_named(scope)
            except CumulusError as error:
                await error_response(error)(scope, receive, send)
                return
            if identity.token:
                await until_revoked(self._app, scope, receive, send, token=identity.token, check=self._check)
                return
        await self._app(scope, receive, send)


def _check_nobody_else_is_named(scope: Scope) -> None:
    """Raises Forbidden.

    Not where all are told the same: kubectl asks there first, and shows nothing of an error that it gets."""
    if _SAME_FOR_ALL.fullmatch(scope["path"]):
        return
    if any(name.startswith(_AS_ANOTHER) for name, _ in scope["headers"]):
        raise Forbidden(
            "nobody can ask as another user: this server takes no Impersonate headers",
            hint="leave out --as, --as-group and --as-uid",
        )
