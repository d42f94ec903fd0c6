"""Is it our own page that asks? A middleware in front of all else, which also says to browsers what the page may do.

Any site may make a browser ask us for something, and any name may be made to lead here. So a request must name this
server as its certificate does, or by an address, and what changes something must come from a page of ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from cumulus.client.endpoint import split_host
from cumulus.errors import Forbidden
from cumulus.lib.printable import one_line
from cumulus.server.http.ui.pages import error_page

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SAFE = frozenset(("GET", "HEAD"))
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: browsers would then send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class OwnOrigin:
    """`names`: by which clients call this server, beside its addresses."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "private, no-cache")
            await send(message)

        problem = self._problem(scope) if scope["type"] == "http" else ""
        app = error_page(Forbidden(problem)) if problem else self._app
        await app(scope, receive, with_headers)

    def _problem(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(split_host(host)[0].lower()):
            return f"this server does not go by the name {one_line(host)[:80]}; the setting api.names adds one"
        origin = headers.get("origin")
        if scope["method"] not in _SAFE and origin != f"{scope['scheme']}://{host}":
            return "only a page of this server may ask this"
        # A page elsewhere may lead here, and load nothing from here.
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
        if site not in ("none", "same-origin") and mode != "navigate":
            return "only a page of this server may load this"
        return ""

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or name in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True
