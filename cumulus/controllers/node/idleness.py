"""Since when devices do nothing. A node tells how busy each is at every look; this makes one time of it, which is
written only once a device has done nothing for a while, and when it works again: not at each of its pauses."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from cumulus.clock import parse_timestamp, timestamp
from cumulus.resources.node import DeviceStatus, GPUNode, GPUNodeStatus

SETTLE = timedelta(seconds=60)
"""A device that does nothing for less is not said to be idle."""


class Idleness:
    """Of one controller; safe for several threads that look at different nodes."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], datetime] = {}
        self._lock = threading.Lock()

    def told(self, node: GPUNode, status: GPUNodeStatus, now: datetime) -> GPUNodeStatus:
        """The status that was observed just now, with since when each of its devices does nothing."""
        before = {device.id: device.idle_since for device in node.status.devices}
        devices = tuple(self._device(node.uid, device, before.get(device.id), now) for device in status.devices)
        return status.model_copy(update={"devices": devices})

    def _device(self, node: str, device: DeviceStatus, before: str | None, now: datetime) -> DeviceStatus:
        key = node, device.id
        busy = None if device.figures is None else device.figures.busy
        with self._lock:
            if busy != 0:
                # Also where the driver does not tell: nobody is taken to do nothing for that.
                self._since.pop(key, None)
                return device
            since = self._since.setdefault(key, parse_timestamp(before) if before else now)
        if before is None and now - since < SETTLE:
            return device
        return device.model_copy(update={"idle_since": timestamp(since)})
