"""Who holds how much now."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from starlette.routing import Route

from cumulus.server.http.ui.pages import page

if TYPE_CHECKING:
    from starlette.responses import Response

    from cumulus.answers.usage import ShareUse
    from cumulus.server.http.ui.pages import Visit


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
    return visit.render("users.html", active="users", kinds="GPUPartition GPUNode", rows=rows)


ROUTES = (Route("/ui/users", page(show)),)
