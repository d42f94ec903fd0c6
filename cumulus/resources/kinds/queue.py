"""The registry's entry for Queue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from cumulus.clock import to_the_second
from cumulus.resources.columns import until
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import CellView, Column, Kind, Related
from cumulus.resources.query import Query
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.sections import Fields, Section, Surroundings, flat


def amounts(queue: Document, path: str) -> str:
    """4, or 4 of *H100*, 8 of *A100*."""
    found = [a for a in lookup(queue, path) or () if isinstance(a, dict)]
    return ", ".join(
        f"{a.get('devices', 0):g}" + (f" of {a['device']}" if a.get("device", "*") != "*" else "") for a in found
    )


def state(queue: Document, now: datetime) -> str:
    held, waiting = lookup(queue, "status.held") or 0, lookup(queue, "status.waiting") or 0
    return f"{held:g} devices held, {waiting} waiting"


def losses(queue: Document, below: Sequence[Document]) -> list[str]:
    """What becomes of its jobs, and of the queues below it, as the rest of a sentence."""
    said = []
    own = {
        field: (lookup(queue, path) or 0) - sum(lookup(each, path) or 0 for each in below)
        for field, path in (("waiting", "status.waiting"), ("held", "status.held"))
    }
    name = queue["metadata"]["name"]
    if (waiting := own["waiting"]) > 0:
        jobs = "1 job that waits" if waiting == 1 else f"{waiting} jobs that wait"
        after = (
            "without its rules from then on"
            if name == DEFAULT_QUEUE
            else f"until there is a queue {name} again: the queue of a job does not change"
        )
        said.append(f"has {jobs} in it, {after}")
    if (held := round(own["held"], 3)) > 0:
        said.append(f"holds {held:g} device{'' if held == 1 else 's'}, whose jobs go on to the end of their leases")
    if below:
        names = ", ".join(each["metadata"]["name"] for each in below)
        said.append(
            f"is the parent of {names}: its limits and quota hold for {'that' if len(below) == 1 else 'those'} no more"
        )
    return said


def sections(queue: Document, around: Surroundings) -> Iterator[Section]:
    status, now = queue.get("status") or {}, around.now
    yield Fields(
        [
            ("Devices held", f"{status.get('held', 0):g}, of which {status.get('borrowed', 0):g} are borrowed"),
            ("Used", f"{status.get('used', 0):g} device-hours that still count"),
            ("Jobs waiting", str(status.get("waiting", 0))),
            ("Next promise", _ahead(status.get("nextPromise"), now)),
        ]
    )
    spec = dict(queue.get("spec") or {})
    for name in ("quota", "limit"):
        if shown := amounts(queue, f"spec.{name}"):
            spec[name] = shown
    yield Fields(flat(spec), "Spec")


def _ahead(moment: str | None, now: datetime) -> str:
    return f"{to_the_second(moment)} (in {until(moment, now)})" if moment else ""


def _number(path: str) -> Column:
    title = path.rpartition(".")[2].upper()

    def cell(queue: Document, view: CellView) -> str:
        return f"{lookup(queue, path) or 0:g}"

    return Column(title, cell=cell, fit="whole", yields=1)


KIND = Kind(
    "Queue",
    "queues",
    ("q",),
    False,
    "cumulus.resources.queue",
    (
        Column("PARENT", "spec.parent", yields=4),
        Column("WEIGHT", "spec.weight", fit="whole", yields=3),
        Column("QUOTA", cell=lambda queue, _: amounts(queue, "spec.quota"), yields=3),
        Column("LIMIT", cell=lambda queue, _: amounts(queue, "spec.limit"), yields=3),
        _number("status.held"),
        _number("status.borrowed"),
        _number("status.used"),
        Column("WAITING", "status.waiting", fit="whole", yields=0),
        Column("NEXT", "status.nextPromise", form="until", fit="whole", yields=2),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
    ),
    guarded=True,
    parent="spec.parent",
    related=Related("Queues below it", lambda queue: Query("Queue", fields=f"spec.parent={queue['metadata']['name']}")),
    sections=sections,
    state=state,
    losses=losses,
)
