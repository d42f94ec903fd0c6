"""Who waits, in their order, and when each starts; and who holds shares until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.resources.documents import MALFORMED
from cumulus.resources.key import Document
from cumulus.resources.kinds import queue as queue_kind
from cumulus.resources.kinds import reservation
from cumulus.resources.query import Query
from cumulus.resources.registry import BY_NAME
from cumulus.server.http.ui.pages import page
from cumulus.server.http.ui.templating import share_url

if TYPE_CHECKING:
    from starlette.responses import Response

    from cumulus.server.http.ui.pages import Visit


def show(visit: Visit) -> Response:
    queue = visit.query.get("queue", "")
    found = visit.service.explanations.line(visit.identity, queue)
    queues = [each["metadata"]["name"] for each in _all(visit, queue_kind.KIND.name)]
    held = _all(visit, reservation.KIND.name)
    mine = visit.identity.name
    waiting = [(each, share_url(each.name), each.user == mine) for each in found.waiting]
    return visit.render(
        "queue.html", active="queue", kinds="GPUJob GPUPartition GPUNode Queue Reservation", queue=queue, queues=queues,
        waiting=waiting, mine=[row for row in waiting if row[2]], more=found.more,
        queued=any(one.queue for one in found.waiting) or any(one.queue for one in found.holding),
        holding=[(each, share_url(each.name), each.user == mine) for each in found.holding],
        reservations=[row for each in held if (row := _reservation(each, visit))[3] != "over"],
        # One that can't start as things are has nobody ahead.
        ahead=next((each.place - 1 for each in found.waiting if each.user == mine and not each.reason), None),
    )  # fmt: skip


def _all(visit: Visit, kind: str) -> list[Document]:
    """Of a kind that is in no namespace; none for who may not see it."""
    if not visit.may("list", BY_NAME[kind].plural):
        return []
    return visit.service.objects.list(visit.identity, Query(kind)).items


def _reservation(document: Document, visit: Visit) -> tuple[str, str, str, str]:
    """Its name, for whom it is, of what, and how it is."""
    name = document["metadata"]["name"]
    try:
        return name, reservation.whom(document), reservation.devices(document), reservation.state(document, visit.now)
    except MALFORMED:
        return name, "?", "?", "damaged"


ROUTES = (Route("/ui/queue", page(show)),)
