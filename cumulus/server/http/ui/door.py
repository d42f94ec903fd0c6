"""Hands what is asked below `/ui` to the page, which is loaded for the first of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from cumulus.server.api import Api


class PageDoor:
    """The middleware. It stands in front of the one that asks who it is: a browser shows a session, and no token."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self._app = app
        self._api = api
        self._site: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (scope["path"] == "/ui" or scope["path"].startswith("/ui/")):
            await self._app(scope, receive, send)
            return
        if self._site is None:
            self._site = await self._api.call(_load, self._api)
        await self._site(scope, receive, send)


async def nothing_else(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that serves the page alone leads to it."""
    found = RedirectResponse("/ui/") if scope["path"] == "/" else PlainTextResponse("The page is at /ui/\n", 404)
    await found(scope, receive, send)


def _load(api: Api) -> ASGIApp:
    from cumulus.server.http.ui.site import make_site

    return make_site(api)
