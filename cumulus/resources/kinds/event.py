"""The registry's entry for Event."""

from __future__ import annotations

from collections.abc import Iterator

from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind
from cumulus.resources.sections import Fields, Section, Surroundings


def event_object(event: Document) -> str:
    """`gpujob/NAME`."""
    about = event.get("involvedObject") or {}
    return f"{about.get('kind', '?').lower()}/{about.get('name', '?')}"


def last_seen(event: Document) -> str:
    return str(event.get("lastTimestamp"))


def sections(event: Document, _: Surroundings) -> Iterator[Section]:
    yield Fields([(name, str(event[name])) for name in ("type", "reason", "message", "count") if name in event])


KIND = Kind(
    "Event",
    "events",
    ("ev",),
    True,
    "cumulus.resources.event",
    (
        Column("LAST SEEN", "lastTimestamp", form="age", fit="whole", yields=1),
        Column("TYPE", "type", fit="whole", yields=3),
        Column("REASON", "reason", fit="whole", yields=0),
        Column("OBJECT", cell=lambda event, _: event_object(event), fit="wrap", yields=2),
        Column("COUNT", "count", wide=True, yields=4),
        Column("SOURCE", "source.component", wide=True, yields=5),
        Column("MESSAGE", "message", fit="wrap", yields=0),
    ),
    user_made=False,
    selected=frozenset({"involvedObject.kind", "involvedObject.name"}),
    named=False,
    order=last_seen,
    tells=False,
    sections=sections,
)
