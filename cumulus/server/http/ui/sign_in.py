"""Sign-in and sign-out, and the middleware that asks each request for its session.

The cookie is SameSite=Strict: no other site can make a browser show it. So it also stays away where somebody follows a
link from elsewhere, as in a chat. Such a request is answered by a page that asks again at once, by itself: then it is
ours that leads there. The one-time link signs in at once where the browser says that a person opened it (from the
command line, or typed); where another site leads to it, a page first asks whether to sign in as that user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from cumulus.errors import CumulusError, TooManyRequests, Unauthenticated
from cumulus.lib.printable import one_line
from cumulus.server.failures import Failures
from cumulus.server.http.api import READS
from cumulus.server.http.connection import LOCAL_USER, PEER
from cumulus.server.http.ui import static_files
from cumulus.server.http.ui.pages import SESSION, api_of, check_form, error_page, form_of, see_other, url_of
from cumulus.server.http.ui.templating import render
from cumulus.service.sessions import SECONDS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from cumulus.server.api import Api
    from cumulus.service.identity import Identity
    from cumulus.service.sessions import BrowserSession

SIGN_IN, ENTER, SIGN_OUT = "/ui/sign-in", "/ui/enter", "/ui/sign-out"
_NOBODY = -1
"""Where the kernel tells of no process."""
_log = structlog.get_logger("cumulus.ui")


class SignedIn:
    """The middleware: who asks, and within what they may ask of the server. Who is not signed in gets to sign-in."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self._app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path in (SIGN_IN, ENTER):
            # They tell themselves who signed in; nobody is known before.
            scope[READS] = True
        if scope["type"] != "http" or path in (SIGN_IN, ENTER) or path.startswith(static_files.PREFIX):
            await self._app(scope, receive, send)
            return
        try:
            session = await self._api.call(self._api.service.sessions.find, secret_of(scope))
            check_session(scope, session)
        except Unauthenticated:
            await _signed_out(scope)(scope, receive, send)
            return
        except CumulusError as error:
            await error_page(error)(scope, receive, send)
            return
        scope[SESSION], scope["cumulus.identity"] = session, session.identity
        limiter = self._api.limiter
        try:
            counts = limiter.begin(session.identity)
        except TooManyRequests as error:
            await error_page(error, signed_in=True)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if counts:
                limiter.end(session.identity)


def secret_of(scope: Scope) -> str:
    """What the browser shows, "" where it shows nothing."""
    return Request(scope).cookies.get(_cookie(scope), "")


def browser_of(scope: Scope) -> int | None:
    """The uid of the process at the other end, where the kernel says it; None over TLS."""
    state = scope.get("state") or {}
    if PEER in state:
        return int(state[PEER].uid)
    if LOCAL_USER not in state:
        return None
    found = state[LOCAL_USER]
    return _NOBODY if found is None else int(found)


def check_session(scope: Scope, session: BrowserSession) -> None:
    """A session is good by the way in on which it began. Cookies are of a host, not of its ports, and any user may
    listen at one: what another user of this machine got hold of opens nothing, nor over TLS. Raises Unauthenticated."""
    if session.browser != browser_of(scope):
        raise Unauthenticated("the session began at another address, or in another user's browser")
    check_connection(scope, session.identity)


def check_connection(scope: Scope, identity: Identity) -> None:
    """Without TLS the page is for browsers of this machine, where the kernel says whose a connection is. Raises
    Unauthenticated."""
    browser = browser_of(scope)
    if browser is not None and identity.uid is not None and browser != identity.uid:
        raise Unauthenticated(
            f"a browser on this machine that is not {one_line(identity.name)}'s cannot be signed in as them",
            hint="use the server's address over TLS",
        )


def _cookie(scope: Scope) -> str:
    """Its name. Browsers send cookies to every port of a host, so it names ours."""
    host = Headers(scope=scope).get("host", "")
    port = host.rpartition(":")[2] if ":" in host and not host.endswith("]") else ""
    name = f"cumulus-{port}" if port.isdecimal() else "cumulus"
    # Browsers take a cookie of this prefix from nobody but the host itself, over TLS.
    return f"__Host-{name}" if scope["scheme"] == "https" else name


def _signed_out(scope: Scope) -> Response:
    headers = Headers(scope=scope)
    if "hx-request" in headers or headers.get("accept") in ("text/event-stream", "application/json"):
        # The script loads the page anew, and is led to sign-in then.
        return Response(None, 401, {"hx-refresh": "true"})
    if headers.get("sec-fetch-site") == "cross-site" and scope["method"] == "GET":
        return HTMLResponse(render("again.html", url=url_of(scope)), headers={"cache-control": "no-store"})
    return see_other(f"{SIGN_IN}?next={quote(url_of(scope), safe='')}" if scope["method"] == "GET" else SIGN_IN)


def _next(text: str) -> str:
    """Where to go on: a page of ours, whatever a link says."""
    parts = urlsplit(text)
    ours = not parts.scheme and not parts.netloc and parts.path.startswith("/ui/") and "\\" not in text
    return text if ours and text.isprintable() and parts.path not in (SIGN_IN, ENTER) else "/ui/"


class SignIn:
    """The pages. One for each listener: it counts what shows nothing that is valid."""

    def __init__(self) -> None:
        self._failures = Failures(_log, "sign-in")
        self.routes = (
            Route(SIGN_IN, self.form, methods=["GET"]),
            Route(SIGN_IN, self.with_token, methods=["POST"]),
            Route(ENTER, self.link, methods=["GET"]),
            Route(ENTER, self.with_link, methods=["POST"]),
            Route(SIGN_OUT, self.out, methods=["POST"]),
        )

    async def form(self, request: Request) -> Response:
        return _form(_next(request.query_params.get("next", "")))

    async def with_token(self, request: Request) -> Response:
        form = await form_of(request)
        onwards = _next(form.get("next", ""))
        api = api_of(request)
        try:
            identity = await api.call(api.service.tokens.authenticate, form.get("token", "").strip())
            check_connection(request.scope, identity)
            secret = await api.call(api.service.sessions.begin, identity, browser_of(request.scope))
            return await self._begin(request, secret, identity, onwards)
        except Unauthenticated as error:
            return self._refused(request, error, onwards)

    async def link(self, request: Request) -> Response:
        """A one-time link was opened."""
        api, code = api_of(request), request.query_params.get("code", "")
        try:
            identity = await api.call(api.service.sessions.user_of_link, code, browser_of(request.scope))
            check_connection(request.scope, identity)
        except Unauthenticated as error:
            return self._refused(request, error, "/ui/")
        site, purpose = request.headers.get("sec-fetch-site"), request.headers.get("sec-purpose")
        if site == "none" and purpose is None:
            return await self._open(request, code, identity)
        body = render("enter.html", code=code, user=identity.name)
        return HTMLResponse(body, headers={"cache-control": "no-store"})

    async def with_link(self, request: Request) -> Response:
        api, code = api_of(request), (await form_of(request)).get("code", "")
        try:
            identity = await api.call(api.service.sessions.user_of_link, code, browser_of(request.scope))
            check_connection(request.scope, identity)
            return await self._open(request, code, identity)
        except Unauthenticated as error:
            return self._refused(request, error, "/ui/")

    async def out(self, request: Request) -> Response:
        """Of this browser, or of all."""
        form, session = await form_of(request), request.scope[SESSION]
        check_form(form, session)
        api = api_of(request)
        if form.get("everywhere"):
            await api.call(api.service.sessions.end_all, session.identity)
        await api.call(api.service.sessions.end, secret_of(request.scope))
        response = see_other(SIGN_IN)
        _set_cookie(request.scope, response, "", 0)
        # Not the cookies too: others on this host have theirs.
        response.headers["clear-site-data"] = '"cache"'
        return response

    async def _open(self, request: Request, code: str, identity: Identity) -> Response:
        api = api_of(request)
        secret = await api.call(api.service.sessions.open_link, code, browser_of(request.scope))
        return await self._begin(request, secret, identity, "/ui/")

    async def _begin(self, request: Request, secret: str, identity: Identity, onwards: str) -> Response:
        api = api_of(request)
        # Whoever was signed in here before is not any more.
        await api.call(api.service.sessions.end, secret_of(request.scope))
        _log.info("signed in", user=one_line(identity.name), address=_address(request))
        response = see_other(onwards)
        _set_cookie(request.scope, response, secret, round(SECONDS))
        return response

    def _refused(self, request: Request, error: Unauthenticated, onwards: str) -> Response:
        try:
            self._failures.count(_address(request), error)
        except TooManyRequests as too_many:
            return error_page(too_many)
        return _form(onwards, f"{error}{f' ({error.hint})' if error.hint else ''}")


def _form(onwards: str, problem: str = "") -> Response:
    body = render("sign_in.html", next=onwards, problem=problem)
    return HTMLResponse(body, 401 if problem else 200, {"cache-control": "no-store"})


def _set_cookie(scope: Scope, response: Response, secret: str, seconds: int) -> None:
    secure = scope["scheme"] == "https"
    response.set_cookie(
        _cookie(scope), secret, max_age=seconds, path="/" if secure else "/ui", secure=secure, httponly=True,
        samesite="strict",
    )  # fmt: skip


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
