"""A job's log: its end on the job's page, which grows as it is written, what is found in all of it, and all of it as a
file."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.responses import StreamingResponse
from starlette.routing import Route

from cumulus.answers.logs import AttemptEnded, AttemptFollows, LogAwaits, LogBytes, LogPiece, NoneFollowed
from cumulus.errors import CumulusError, Unauthenticated, UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.server.http.ui import log_search
from cumulus.server.http.ui.changes import QUIET_SECONDS, STREAM, sse
from cumulus.server.http.ui.pages import SESSION, api_of, of_the_page, page
from cumulus.server.http.ui.reading import job_key
from cumulus.server.http.ui.sign_in import secret_of
from cumulus.server.http.ui.templating import job_url
from cumulus.server.http.ui.terminal_text import StyledLine, TerminalText

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.server.api import Api
    from cumulus.server.http.ui.pages import Visit
    from cumulus.service.identity import Identity

TAIL = 500
"""Lines of it that a page begins with."""
_MOST_BYTES = 2**20
"""Of its end, on the page that has it alone."""
_PARTIAL_SECONDS = 0.2
"""How often a line that is not whole is shown anew, while more of it comes."""


@dataclass(frozen=True)
class Panel:
    """`url`: where it is followed. `note`: how the search went, or why there is nothing, in words."""

    url: str
    file: str
    page: str
    lines: Sequence[StyledLine] = ()
    note: str = ""
    attempts: Sequence[int] = ()
    replicas: int = 1
    attempt: int = 0
    replica: int = 0
    q: str = ""
    """What is searched for: the lines are those that have it."""
    on: str = ""
    """Where the search goes on."""


@dataclass(frozen=True)
class _Asked:
    key: Key
    attempt: int
    replica: int
    position: int

    @classmethod
    def of(cls, path: Any, query: Any) -> _Asked:
        """Raises UsageError."""
        attempt, replica, position = (_number(query.get(name, "")) for name in ("attempt", "replica", "position"))
        return cls(job_key(path), attempt, replica, position)


def panel(visit: Visit, job: Document, *, lines: bool = False) -> Panel:
    """`lines`: with what is there now; else the script brings them."""
    asked = _Asked.of(visit.path, visit.query)
    namespace, name = asked.key.namespace, asked.key.name
    chosen = urlencode({"attempt": asked.attempt, "replica": asked.replica})
    page = job_url(namespace, name, "log")
    shown: Sequence[StyledLine] = ()
    note, on, q = "", "", visit.query.get("q", "").strip() if lines else ""
    if lines:
        read = partial(visit.service.logs.read, visit.identity, asked.key, replica=asked.replica)
        try:
            if q:
                found = log_search.search(read(attempt=asked.attempt, position=asked.position), q)
                shown, note = found.lines, _found(found, q, asked.position)
                if found.on is not None:
                    attempt, position = found.on
                    more = {"attempt": attempt, "replica": asked.replica, "position": position, "q": q}
                    on = f"{page}?{urlencode(more)}"
            else:
                shown = _end(read(attempt=asked.attempt, tail=10 * TAIL))
        except CumulusError as error:
            note = str(error)
    return Panel(
        f"{job_url(namespace, name, 'log', 'follow')}?{chosen}", f"{job_url(namespace, name, 'log', 'file')}?{chosen}",
        f"{page}?{chosen}", shown, note,
        [each["number"] for each in lookup(job, "status.attempts") or () if each.get("startTime")],
        lookup(job, "spec.replicas") or 1, asked.attempt, asked.replica, q, on,
    )  # fmt: skip


def show(visit: Visit) -> Response:
    """The page with the log alone, which needs no script."""
    key = _Asked.of(visit.path, visit.query).key
    job = visit.service.objects.get(visit.identity, key)
    found = panel(visit, job, lines=True)
    return visit.render("log.html", active="jobs", name=key.name, namespace=key.namespace, log=found)


@of_the_page
async def follow(request: Request) -> Response:
    """Events: `reset` where it begins anew, `lines` with what was written, `note` with how it goes on, `state` with
    what it waits for."""
    api, asked = api_of(request), _Asked.of(request.path_params, request.query_params)
    session, secret = request.scope[SESSION], secret_of(request.scope)
    pieces = await api.call(_pieces, api, session.identity, asked)

    def check() -> None:
        found = api.service.sessions.find(secret).identity
        api.service.access.check(found, "get", "gpujobs/log", asked.key.namespace, asked.key.name)

    return StreamingResponse(_events(api, pieces, check), media_type=STREAM)


@of_the_page
async def whole(request: Request) -> Response:
    """All of it, as it was written: a browser saves it, and shows it in no page of ours."""
    api, asked = api_of(request), _Asked.of(request.path_params, request.query_params)
    identity = request.scope[SESSION].identity
    read = api.service.logs.read
    pieces = await api.call(lambda: read(identity, asked.key, attempt=asked.attempt, replica=asked.replica))
    stream = api.streams.iterate(lambda: _bytes(pieces))
    # What keeps it from being read is said before an answer begins.
    first = await anext(stream, b"")

    async def body() -> AsyncIterator[bytes]:
        yield first
        async with aclosing(stream):
            async for data in stream:
                yield data

    headers = {"content-disposition": f'attachment; filename="{asked.key.name}.log"'}
    return StreamingResponse(body(), headers=headers, media_type="application/octet-stream")


def _pieces(api: Api, identity: Identity, asked: _Asked) -> Iterator[LogPiece]:
    return api.service.logs.read(
        identity, asked.key, attempt=asked.attempt, replica=asked.replica, follow=True, tail=TAIL
    )


async def _events(api: Api, pieces: Iterator[LogPiece], check: Callable[[], None]) -> AsyncIterator[bytes]:
    yield b"retry: 3000\n\n" + sse("reset", {})
    try:
        # Made in the stream's thread: a long log keeps nobody else waiting.
        async with aclosing(api.streams.iterate(lambda: _told(pieces, check))) as stream:
            async for told in stream:
                yield told
        yield sse("end", {})
    except Unauthenticated:
        yield sse("signed-out", {})
    except CumulusError as error:
        yield sse("note", {"text": str(error)}) + sse("end", {})


def _told(pieces: Iterator[LogPiece], check: Callable[[], None]) -> Iterator[bytes | None]:
    """Events for what comes, None where nothing is to be told. `check` raises where it must end: it is asked again
    before anything is told that comes `QUIET_SECONDS` later."""
    text, state = TerminalText(), ""
    looked = drawn = monotonic()
    unshown = False
    for piece in pieces:
        now = monotonic()
        if now - looked >= QUIET_SECONDS:
            looked = now
            check()
            yield b": \n\n"
        if isinstance(piece, LogBytes):
            lines = text.feed(piece.data) if piece.data else []
            unshown = unshown or bool(piece.data)
            # A line that grows is not drawn for each piece of it: an empty piece says that no more is there.
            if unshown and (lines or not piece.data or now - drawn >= _PARTIAL_SECONDS):
                yield sse("lines", {"lines": lines, "partial": text.partial()})
                unshown, drawn = False, now
            else:
                yield None
            continue
        if unshown:
            yield sse("lines", {"lines": [], "partial": text.partial()})
            unshown = False
        if isinstance(piece, LogAwaits):
            if piece.state != state:
                state = piece.state
                yield sse("state", {"text": f"It has not {'started' if piece.what == 'start' else 'ended'}: {state}"})
            else:
                yield None
        elif said := _said(piece):
            yield sse("note", {"text": said})
    if unshown:
        yield sse("lines", {"lines": [], "partial": text.partial()})


def _said(piece: LogPiece) -> str:
    """What a person is told between lines."""
    match piece:
        case AttemptFollows(attempt):
            return f"Attempt {attempt} follows."
        case AttemptEnded(attempt, end, _):
            return f"Attempt {attempt} ended: {end}."
        case NoneFollowed(state):
            return f"No other attempt follows: {state}."
        case _:
            return ""


def _bytes(pieces: Iterator[LogPiece]) -> Iterator[bytes]:
    for piece in pieces:
        if isinstance(piece, LogBytes) and piece.data:
            yield piece.data


def _end(pieces: Iterator[LogPiece]) -> list[StyledLine]:
    text = TerminalText()
    shown = text.feed(_end_of(_bytes(pieces)))
    if last := text.partial(end=True):
        shown.append(last)
    return shown


def _found(found: log_search.FoundLines, wanted: str, position: int) -> str:
    """How a search went, in words."""
    count, only = len(found.lines), found.on is not None or position > 0
    lines = "No line" if not count else "One line" if count == 1 else f"{count} lines"
    where = "of this part of the log" if only else "of the whole log"
    dropped = f" {found.dropped} bytes in its middle were not kept." if found.dropped else ""
    return f"{lines} {where} {'has' if count < 2 else 'have'} “{wanted}”.{dropped}"


def _end_of(pieces: Iterator[bytes]) -> bytes:
    """Of all that comes the last `_MOST_BYTES`, from the beginning of a line on where there is one."""
    kept: deque[bytes] = deque()
    size, cut = 0, False
    for data in pieces:
        kept.append(data)
        size += len(data)
        while size - len(kept[0]) >= _MOST_BYTES:
            size -= len(kept.popleft())
            cut = True
    whole = b"".join(kept)
    begins = whole.find(b"\n") + 1
    return whole[begins:] if cut and begins < len(whole) else whole


def _number(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UsageError("attempts, replicas and positions are numbers")
    return int(text or 0)


_PATH = "/ui/jobs/{namespace}/{name}/log"
ROUTES = (Route(_PATH, page(show)), Route(f"{_PATH}/follow", follow), Route(f"{_PATH}/file", whole))
