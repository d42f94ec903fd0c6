"""The numbers that scripts draw: what was leased, promised and used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.errors import StoreUnavailable, UsageError
from cumulus.server.http.ui.pages import page

if TYPE_CHECKING:
    from starlette.responses import Response

    from cumulus.server.http.ui.pages import Visit


def timeline(visit: Visit) -> Response:
    """`start`, `end`: milliseconds since 1970. `pixels`: how many the window has."""
    start, end, pixels = (_number(visit, name) for name in ("start", "end", "pixels"))
    try:
        return visit.data(visit.service.history.timeline(visit.identity, start=start, end=end, pixels=pixels))
    except StoreUnavailable as error:
        # For the script, which shows it where the picture would be.
        return visit.data({"problem": f"{error}{f' ({error.hint})' if error.hint else ''}."}, 503)


def _number(visit: Visit, name: str) -> int:
    text = visit.query.get(name, "")
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 17):
        raise UsageError(f"{name} must be a whole number")
    return int(text)


ROUTES = (Route("/ui/data/timeline", page(timeline)),)
