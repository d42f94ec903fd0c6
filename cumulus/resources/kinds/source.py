"""The registry's entry for Source."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cumulus.resources.annotations import APPROVED_BY, PINNED_BY
from cumulus.resources.condition_types import SourceCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import DEFAULT_NAMESPACE, Document, Key
from cumulus.resources.kind import CellView, Column, Kind, detail
from cumulus.resources.roles import Role
from cumulus.resources.sections import Fields, Rows, Section, Surroundings, flat, moment

_SHORT = 12
"""Digits of a commit that are shown."""


def place(source: Document) -> str:
    """The URL or directory."""
    return str(lookup(source, "spec.git.url") or lookup(source, "spec.directory.path") or "")


def short(revision: object) -> str:
    return str(revision or "")[:_SHORT]


def approval(key: Key, hash: str) -> str:
    """The command that allows the pending sync."""
    return f"cumulus source approve {key.name} {hash}{elsewhere(key)}"


def elsewhere(key: Key) -> str:
    """The option with which a command finds what is not in the default namespace."""
    return "" if key.namespace == DEFAULT_NAMESPACE else f" -n {key.namespace}"


def state(source: Document, now: datetime) -> str:
    """The first condition that is not as it should be: what a person has to know."""
    if lookup(source, "spec.suspend"):
        return "Suspended"
    for type in SourceCondition:
        found = condition(source, type)
        if found and found.get("status") != "True":
            return f"not {type}{detail(found)}"
    return "Synced" if condition(source, SourceCondition.SYNCED) else "no status yet"


def sections(source: Document, around: Surroundings) -> Iterator[Section]:
    status, now = source.get("status") or {}, around.now
    synced, observed = status.get("synced") or {}, status.get("observed") or {}
    error, pending = status.get("lastError") or {}, status.get("pendingSync") or {}
    yield Fields(flat(source.get("spec") or {}), "Spec")
    yield Fields(
        [
            ("Synced", " ".join(filter(None, (short(synced.get("revision")), synced.get("subject"))))),
            ("By", str(synced.get("author") or "")),
            ("Synced at", moment(status.get("syncTime"), now)),
            ("Seen", short(observed.get("revision"))),
            ("Error", str(error.get("message") or "")),
            ("Waits for approval", str(pending.get("hash") or "")),
            ("Because", tuple(pending.get("reasons") or ())),
            ("It would", tuple(pending.get("objects") or ())),
        ],
        "Revision",
    )
    counts = status.get("counts") or {}
    yield Fields([(name.capitalize(), str(count)) for name, count in counts.items() if count], "Objects")
    rows = [
        (str(e.get("time") or ""), short(e.get("revision")), str(e.get("result") or ""), str(e.get("why") or ""))
        for e in status.get("history") or ()
    ]
    yield Rows("History", ("TIME", "REVISION", "RESULT", "WHY"), rows)


def _revision(source: Document, _: CellView) -> str:
    return short(lookup(source, "status.synced.revision"))


def _synced(source: Document, view: CellView) -> str:
    if lookup(source, "spec.suspend"):
        return "Suspended"
    ready = condition(source, SourceCondition.READY)
    if ready.get("status") == "False":
        return str(ready.get("reason"))
    found = condition(source, SourceCondition.SYNCED)
    return "True" if found.get("status") == "True" else str(found.get("reason") or found.get("status") or "")


KIND = Kind(
    "Source",
    "sources",
    ("src",),
    True,
    "cumulus.resources.source",
    (
        Column("URL", cell=lambda source, _: place(source), yields=3),
        Column("REVISION", cell=_revision, fit="whole", yields=1),
        Column("SYNCED", cell=_synced, fit="whole", yields=0),
        Column("HEALTHY", cell=lambda s, _: str(condition(s, SourceCondition.HEALTHY).get("status", "")), yields=2),
        Column("OBJECTS", "status.counts.objects", fit="whole", yields=4),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
    ),
    writers=Role.USER,
    guarded=True,
    signed=(("approve", APPROVED_BY), ("pin", PINNED_BY)),
    reads_as_submitter=frozenset({"git", "directory"}),
    sections=sections,
    conditions=tuple(SourceCondition),
    state=state,
)
