"""What leases, promises and use were, and are: the timeline of devices, reports, and how a job used its leases.

What is held now comes of the store, and what is over of the history (`cumulus.history`). Everybody may know that a
share is held and whose it is now, as `redaction` says; by which job, and by whom it was held before, is for those who
may read the namespace.
"""

from __future__ import annotations

from cumulus.answers.history import Timeline
from cumulus.clock import Clock
from cumulus.errors import UsageError
from cumulus.history import facts
from cumulus.history.timeline import Lanes, Window
from cumulus.service.identity import Identity
from cumulus.service.live_shares import SharesNow
from cumulus.service.redaction import Redaction
from cumulus.store.base import Store

MOST_PIXELS = 20_000
_LATEST = 253_402_300_800_000
"""The year 10000."""


class History:
    def __init__(self, store: Store, redaction: Redaction, clock: Clock) -> None:
        self._redaction = redaction
        self._clock = clock
        self._live = SharesNow(store, clock)

    def timeline(self, identity: Identity, start: int, end: int, pixels: int) -> Timeline:
        """Each device's leases, promises and drains from `start` to `end` (milliseconds since 1970), for a picture so
        many pixels wide: what is smaller than one of them is merged. Raises UsageError."""
        if not 0 <= start < end <= _LATEST:
            raise UsageError("start must be before end, both in milliseconds since 1970")
        if not 1 <= pixels <= MOST_PIXELS:
            raise UsageError(f"pixels must be from 1 to {MOST_PIXELS}")
        window = Window(start, end, facts.to_milliseconds(self._clock.now()))
        live = self._live.now()
        lanes = Lanes(window, live.nodes, lambda namespace: self._redaction.sees(identity, namespace))
        for node in live.nodes:
            for device in node.devices:
                if node.cordoned:
                    lanes.add_states(device, "Drain", window.now, None)
                if not node.ready or device.index in node.faults:
                    lanes.add_states(device, "Down", window.now, None)
        lanes.add_held([*live.leases, *(lease for node in live.nodes for lease in node.leases)], {})
        lanes.add_promised(live.promised)
        return Timeline(now=window.now, start=start, end=end, lanes=lanes.made())
