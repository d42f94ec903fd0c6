"""The registry's entry for Reservation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cumulus.clock import parse_timestamp, to_the_second
from cumulus.resources.columns import until
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind
from cumulus.resources.sections import Fields, Section, Surroundings, flat


def state(reservation: Document, now: datetime) -> str:
    """Held until 17:00; from …; over."""
    start, end = lookup(reservation, "status.start"), lookup(reservation, "status.end")
    if not start or not end:
        return "no status yet"
    if parse_timestamp(end) <= now:
        return "over"
    if parse_timestamp(start) <= now:
        return f"held for {until(end, now)} more"
    return f"held in {until(start, now)}"


def whom(reservation: Document) -> str:
    names = [*(lookup(reservation, "spec.for.queues") or ()), *(lookup(reservation, "spec.for.users") or ())]
    return ", ".join(names) or "nobody"


def devices(reservation: Document) -> str:
    """2 of gpu-1, 1 of gpu-2."""
    counts: dict[str, int] = {}
    for found in lookup(reservation, "status.devices") or ():
        counts[found["node"]] = counts.get(found["node"], 0) + 1
    missing = lookup(reservation, "status.missing") or 0
    parts = [f"{count} of {node}" for node, count in counts.items()]
    return ", ".join([*parts, *([f"{missing} missing"] if missing else [])])


def sections(reservation: Document, around: Surroundings) -> Iterator[Section]:
    status = reservation.get("status") or {}
    yield Fields(
        [
            ("State", state(reservation, around.now)),
            ("From", to_the_second(status.get("start") or "")),
            ("Until", to_the_second(status.get("end") or "")),
            ("Devices", ", ".join(f"{d['node']}, device {d['device']}" for d in status.get("devices") or ())),
            ("Missing", str(status.get("missing") or "")),
        ]
    )
    yield Fields(flat(reservation.get("spec") or {}), "Spec")


KIND = Kind(
    "Reservation",
    "reservations",
    ("resv",),
    False,
    "cumulus.resources.reservation",
    (
        Column("FOR", cell=lambda found, _: whom(found), yields=1),
        Column("DEVICES", cell=lambda found, _: devices(found), yields=2),
        Column("FROM", cell=lambda found, _: to_the_second(lookup(found, "status.start") or ""), fit="whole", yields=1),
        Column("UNTIL", cell=lambda found, _: to_the_second(lookup(found, "status.end") or ""), fit="whole", yields=1),
        Column("STATE", cell=lambda found, view: state(found, view.now), fit="whole", yields=0),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
    ),
    guarded=True,
    remembered_as="reservation",
    tells=False,
    sealed=frozenset({"status.devices"}),
    sections=sections,
    state=state,
)
