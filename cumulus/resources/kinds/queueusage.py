"""The registry's entry for QueueUsage."""

from __future__ import annotations

from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import CellView, Column, Kind


def _hours(usage: Document, _: CellView) -> str:
    return f"{(lookup(usage, 'status.deviceMicroseconds') or 0) / 3.6e9:.2f}"


def _decayed(usage: Document, _: CellView) -> str:
    return f"{(lookup(usage, 'status.decayed') or 0) / 3600:.2f}"


KIND = Kind(
    "QueueUsage",
    "queueusages",
    ("qu",),
    False,
    "cumulus.resources.queue_usage",
    (
        Column("QUEUE", "spec.queue", yields=1),
        Column("USER", "spec.user", yields=0),
        Column("LEASES", "status.leases", fit="whole", yields=2),
        Column("DEVICE-HOURS", cell=_hours, fit="whole", yields=0),
        Column("COUNTED", cell=_decayed, fit="whole", yields=1),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=3),
    ),
    user_made=False,
    named=False,
    tells=False,
    noun="usage",
)
