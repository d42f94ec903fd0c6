"""The nodes: how each is, what of its devices is leased, used and free, and processes that hold one without a lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.answers.usage import DeviceUse
from cumulus.resources.condition_types import NodeCondition
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import gpunode
from cumulus.resources.query import Query
from cumulus.server.http.ui import described
from cumulus.server.http.ui.pages import page

if TYPE_CHECKING:
    from starlette.responses import Response

    from cumulus.server.http.ui.pages import Visit


@dataclass(frozen=True)
class NodeRow:
    name: str
    state: str
    well: bool
    cordoned: bool
    devices: Sequence[DeviceUse]
    unleased: Sequence[tuple[int, Document]]


def show(visit: Visit) -> Response:
    devices = visit.service.usage.now(visit.identity).devices
    found = visit.service.objects.list(visit.identity, Query(gpunode.KIND.name)).items
    rows = [_row(node, devices, visit) for node in found]
    return visit.render("nodes.html", active="nodes", kinds="GPUNode GPUPartition", rows=rows)


def show_one(visit: Visit) -> Response:
    name = visit.path["name"]
    found = visit.service.descriptions.describe(visit.identity, Key(gpunode.KIND.name, "", name))
    row = _row(found.document, visit.service.usage.now(visit.identity).devices, visit)
    return visit.render(
        "node.html", active="nodes", keys=f"gpunode/{name}", kinds="GPUPartition", name=name, row=row,
        sections=list(described.sections(found, visit.now)), related=described.related(found, visit.now),
        conditions=described.conditions(found.document), events=list(reversed(found.events)),
    )  # fmt: skip


def _row(node: Document, devices: Sequence[DeviceUse], visit: Visit) -> NodeRow:
    name = node["metadata"]["name"]
    state = gpunode.node_state(node, visit.now)
    well = gpunode.node_condition(node, NodeCondition.READY, visit.now) == "True"
    unleased = [
        (device.get("index", 0), process)
        for device in gpunode.devices(node)
        for process in device.get("unleasedProcesses") or ()
    ]
    mine = [each for each in devices if each.node == name]
    return NodeRow(name, state, well, bool(lookup(node, "spec.unschedulable")), mine, unleased)


ROUTES = (Route("/ui/nodes", page(show)), Route("/ui/nodes/{name}", page(show_one)))
