"""The first page: the timeline of leases, and the same spans as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.server.http.ui import reading
from cumulus.server.http.ui.pages import page, see_other
from cumulus.server.http.ui.templating import share_url

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.server.http.ui.pages import Visit

MOST = 50
"""Leases that are listed, those that end first: the page of the queue has all of them."""


def show(visit: Visit) -> Response:
    usage = visit.service.usage.now(visit.identity)
    used = [each.used_bytes for each in usage.devices if each.used_bytes is not None]
    memory = sum(each.memory_bytes for each in usage.devices)
    jobs = reading.jobs(visit.service, visit.identity)
    mine = [job for job in jobs if reading.is_mine(visit.identity, job)]
    shares = sorted(usage.shares, key=lambda each: (each.until == "", each.until))
    return visit.render(
        "overview.html", active="overview", kinds="GPUJob GPUPartition GPUNode", devices=len(usage.devices),
        leased=sum(each.leased_bytes for each in usage.devices) / memory if memory else 0.0,
        used=sum(used) / memory if memory and used else None,
        waiting=sum(map(reading.waits, jobs)),
        shares=[(each, share_url(f"{each.namespace}/{each.name}")) for each in shares[:MOST]], held=len(shares),
        jobs=reading.rows(visit.service, visit.identity, mine[:10]),
    )  # fmt: skip


async def _root(request: Request) -> Response:
    return see_other("/ui/")


ROUTES = (Route("/ui/", page(show)), Route("/ui", _root))
