"""Who holds how much: now, over time, and in GPU-hours that were used or idle."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from starlette.routing import Route

from cumulus.errors import StoreUnavailable
from cumulus.server.http.ui.pages import page

if TYPE_CHECKING:
    from starlette.responses import Response

    from cumulus.answers.usage import ShareUse
    from cumulus.server.http.ui.pages import Visit

DAYS = {"1": "a day", "7": "a week", "30": "30 days", "90": "90 days"}
"""How far back people look."""
_USUAL = "7"
_POINTS = 200
MOST = 8
"""Users that are drawn, each with a colour."""


class UserRow(NamedTuple):
    user: str
    jobs: int
    devices: float
    """What they hold of devices' compute, in devices."""
    memory_bytes: int
    over: bool
    until: str


def show(visit: Visit) -> Response:
    held: dict[str, list[ShareUse]] = defaultdict(list)
    for share in visit.service.usage.now(visit.identity).shares:
        held[share.user].append(share)
    rows = [
        UserRow(
            user, len(shares), sum(each.compute for each in shares) / 1000, sum(each.memory_bytes for each in shares),
            any(each.over for each in shares), max(each.until for each in shares),
        )
        for user, shares in held.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: -row.memory_bytes)
    since, _ = _window(visit)
    report, problem = None, ""
    try:
        report = visit.service.history.report(visit.identity, since=since, by="user")
    except StoreUnavailable as error:
        # Who holds what now is known all the same.
        problem = f"{error}{f' ({error.hint})' if error.hint else ''}"
    return visit.render(
        "users.html", active="users", kinds="GPUPartition", rows=rows, days=_days(visit), choices=DAYS, report=report,
        problem=problem,
    )  # fmt: skip


def held_over_time(visit: Visit) -> Response:
    """Seconds since 1970, and devices held, for a script that draws them."""
    start, end = _window(visit)
    found = visit.service.history.held_over_time(visit.identity, start=start, end=end, points=_POINTS, by="user")
    series = found["series"]
    count = len(series[0]["held"]) if series else 0
    drawn = {
        "times": [(found["start"] + number * found["step"]) / 1000 for number in range(count)],
        "series": [{"name": each["name"] or "nobody known", "held": each["held"]} for each in series[:MOST]],
        "left": max(0, len(series) - MOST),
    }
    return visit.data(drawn)


def _days(visit: Visit) -> str:
    found = visit.query.get("days", _USUAL)
    return found if found in DAYS else _USUAL


def _window(visit: Visit) -> tuple[int, int]:
    """In milliseconds since 1970."""
    now = visit.now
    since = now - timedelta(days=int(_days(visit)))
    return round(since.timestamp() * 1000), round(now.timestamp() * 1000)


ROUTES = (Route("/ui/users", page(show)), Route("/ui/data/held", page(held_over_time)))
