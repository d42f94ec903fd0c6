"""Which changes of a node wake other controllers."""

from __future__ import annotations

from cumulus.machinery.informer import Change
from cumulus.resources.key import Document

_OWN = ("heartbeatTime", "term", "devices", "parking")
_OWN_OF_DEVICE = ("freeMemoryBytes", "freeCompute", "figures", "idleSince")


def matters_to_others(change: Change) -> bool:
    """All but when it was last heard, how its devices are, and what is free of them, which the partitions tell."""
    before = change.old
    return before is None or change.type == "DELETED" or _fields(before) != _fields(change.new)


def _fields(document: Document) -> object:
    """Node fields whose change wakes other controllers."""
    status = document.get("status") or {}
    devices = [{k: v for k, v in device.items() if k not in _OWN_OF_DEVICE} for device in status.get("devices", ())]
    meta = document["metadata"]
    others = {k: v for k, v in status.items() if k not in _OWN}
    return document.get("spec"), meta.get("labels"), meta.get("deletionTimestamp"), others, devices
