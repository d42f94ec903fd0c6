"""Who waits, in their order, and when each starts; and who holds shares until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.resources.query import Query
from cumulus.server.http.ui.pages import page
from cumulus.server.http.ui.templating import share_url

if TYPE_CHECKING:
    from starlette.responses import Response

    from cumulus.server.http.ui.pages import Visit


def show(visit: Visit) -> Response:
    queue = visit.query.get("queue", "")
    found = visit.service.explanations.line(visit.identity, queue)
    may = visit.may("list", "queues")
    queues = (
        [each["metadata"]["name"] for each in visit.service.objects.list(visit.identity, Query("Queue")).items]
        if may
        else []
    )
    mine = visit.identity.name
    return visit.render(
        "queue.html", active="queue", kinds="GPUJob GPUPartition GPUNode Queue", queue=queue, queues=queues,
        waiting=[(each, share_url(each.name), each.user == mine) for each in found.waiting], more=found.more,
        holding=[(each, share_url(each.name), each.user == mine) for each in found.holding],
        ahead=next((each.place - 1 for each in found.waiting if each.user == mine), None),
    )  # fmt: skip


ROUTES = (Route("/ui/queue", page(show)),)
