"""What a page is made from, and its wrapping: the visit, the answer that a browser keeps, errors in plain English."""

from __future__ import annotations

import gzip
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

import orjson
from starlette.responses import HTMLResponse, RedirectResponse, Response

from cumulus.errors import CumulusError, Forbidden, TooManyRequests
from cumulus.server.http.kubernetes import bodies
from cumulus.server.http.status import CODES
from cumulus.server.http.ui.templating import render

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.requests import Request
    from starlette.types import Scope

    from cumulus.server.api import Api
    from cumulus.service.identity import Identity
    from cumulus.service.service import Service
    from cumulus.service.sessions import BrowserSession

SESSION = "cumulus.session"
"""Where in a request's scope the session is."""
_FORM_BYTES = 64 * 2**10
_LARGE_BYTES = 4096
"""Answers of at least so many bytes are compressed."""
_TITLES = {
    400: "That did not work", 401: "You are not signed in", 403: "You may not do this", 404: "There is no such thing",
    409: "It has changed", 429: "Too many requests", 503: "The server cannot answer now",
}  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """A request for a page, as views see it. Views run in a thread."""

    service: Service
    session: BrowserSession
    path: Mapping[str, str]
    query: Mapping[str, str]
    form: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    """The path with the query."""
    known: str = ""
    """What of it the browser has: the tags."""
    partial: bool = False
    """Whether our script asks. It takes the content without the frame of the page."""
    takes_gzip: bool = False
    revision: int = 0
    """All that the page shows is at least as new. Of a whole page alone: its script knows it then."""

    @property
    def identity(self) -> Identity:
        return self.session.identity

    @property
    def now(self) -> datetime:
        return self.service.clock.now()

    def may(self, verb: str, resource: str, namespace: str = "", name: str = "") -> bool:
        return self.service.may(self.identity, verb, resource, namespace=namespace, name=name).allowed

    def render(self, template: str, *, kinds: str = "", keys: str = "", code: int = 200, **context: Any) -> Response:
        """The page. `kinds`, `keys`: of the objects whose change makes it another, for our script."""
        body = render(
            template, visit=self, user=self.identity.name, csrf=self.session.csrf, kinds=kinds, keys=keys, **context
        ).encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {"etag": tag, "vary": "Cookie, HX-Request"}
        if code == 200 and tag in self.known:
            return Response(None, 304, headers)
        return HTMLResponse(body, code, headers)

    def data(self, found: object, code: int = 200) -> Response:
        """JSON for a script. What is large is compressed: no secret is in it, which its length could give away. A page
        never is, since what others wrote stands there beside the secret of its forms."""
        body, headers = orjson.dumps(found), {"cache-control": "no-store", "vary": "Cookie, Accept-Encoding"}
        if self.takes_gzip and len(body) >= _LARGE_BYTES:
            body, headers["content-encoding"] = gzip.compress(body, 1), "gzip"
        return Response(body, code, headers, media_type="application/json")


View = Callable[[Visit], Response]
_Endpoint = Callable[["Request"], "Awaitable[Response]"]


def api_of(request: Request) -> Api:
    found: Api = request.app.state.api
    return found


def page(view: View) -> _Endpoint:
    """The endpoint of a view, which runs in a thread."""

    async def show(request: Request) -> Response:
        return await api_of(request).call(_shown, view, visit_of(request))

    return of_the_page(show)


def _shown(view: View, visit: Visit) -> Response:
    if not visit.partial:
        # Before anything is read: what changes later is told to the page.
        visit = replace(visit, revision=visit.service.objects.revision(visit.identity))
    return view(visit)


def action(view: View) -> _Endpoint:
    """The endpoint of a view that changes something. Raises Forbidden for a form that is not of the session's pages."""

    async def act(request: Request) -> Response:
        form = await form_of(request)
        visit = visit_of(request, form)
        check_form(form, visit.session)
        return await api_of(request).call(view, visit)

    return of_the_page(act)


def check_form(form: Mapping[str, str], session: BrowserSession) -> None:
    """Raises Forbidden for a form that is not of the session's pages."""
    if not hmac.compare_digest(form.get("csrf", "").encode(), session.csrf.encode()):
        raise Forbidden("the form is not of your session", hint="load the page again")


def visit_of(request: Request, form: Mapping[str, str] = {}) -> Visit:
    return Visit(
        api_of(request).service, request.scope[SESSION], request.path_params, dict(request.query_params), form,
        url_of(request.scope),
        request.headers.get("if-none-match", ""), "hx-request" in request.headers,
        "gzip" in request.headers.get("accept-encoding", ""),
    )  # fmt: skip


def url_of(scope: Scope) -> str:
    """The path and query of the request, as a link has them."""
    query = scope["query_string"].decode("latin-1")
    return quote(scope["path"]) + (f"?{query}" if query else "")


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form that was sent. Raises TooLarge."""
    body = await bodies.read(request, _FORM_BYTES)
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=100))


def see_other(url: str) -> Response:
    return RedirectResponse(url, 303)


def error_page(error: CumulusError, *, signed_in: bool = False) -> Response:
    """The page of an error. It is also shown to people who may see nothing else."""
    code = next(code for kind, code, _ in CODES if isinstance(error, kind))
    return plain_page(code, str(error), error.hint or "", signed_in=signed_in, seconds=_seconds(error))


def plain_page(code: int, message: str, hint: str = "", *, signed_in: bool = False, seconds: int = 0) -> Response:
    title = _TITLES.get(code, _TITLES[400])
    body = render("error.html", title=title, message=message, hint=hint, signed_in=signed_in)
    headers = {"cache-control": "no-store"} | ({"retry-after": str(seconds)} if seconds else {})
    return HTMLResponse(body, code, headers)


def _seconds(error: CumulusError) -> int:
    return max(1, round(error.seconds)) if isinstance(error, TooManyRequests) else 0


def of_the_page(endpoint: _Endpoint) -> _Endpoint:
    """The metrics name what was asked for by the module of its handler: all of the page are one."""
    endpoint.__module__ = __package__ or __name__
    return endpoint
