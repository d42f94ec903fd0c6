"""The Reservation by which a node is drained at a time: all its devices, for nobody. Pure; no model is loaded."""

from __future__ import annotations

from datetime import datetime

from cumulus.clock import parse_timestamp, timestamp
from cumulus.resources.documents import lookup
from cumulus.resources.key import API_VERSION, Document, Key
from cumulus.resources.kinds.reservation import KIND

UNTIL_UNCORDONED = "365d"
"""Of a drain whose end nobody said."""


def key_of(node: str) -> Key:
    return Key(KIND.name, "", f"drain-{node}")


def document(node: str, start: datetime, duration: str) -> Document:
    return {
        "apiVersion": API_VERSION, "kind": KIND.name, "metadata": {"name": key_of(node).name},
        "spec": {"nodes": [node], "start": timestamp(start), "duration": duration},
    }  # fmt: skip


def is_of(reservation: Document, node: str) -> bool:
    """Whether it drains that node, and nobody has made something else of it."""
    spec = reservation.get("spec") or {}
    whole = spec.get("nodes") == [node] and spec.get("devices") is None and spec.get("device") in (None, "*")
    return whole and bool(spec.get("start")) and not any((spec.get("for") or {}).values())


def begins(reservation: Document) -> datetime:
    return parse_timestamp(lookup(reservation, "spec.start"))
