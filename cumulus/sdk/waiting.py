"""Says why a call waits, to who waits for it: a share that is free later, or a request that nothing can fulfil."""

from __future__ import annotations

import itertools
import sys
import threading
from typing import TYPE_CHECKING, Any

from cumulus.errors import CumulusError
from cumulus.lib.printable import one_line
from cumulus.resources.condition_types import JobCondition
from cumulus.resources.key import Document
from cumulus.resources.reasons import SchedulingReason

if TYPE_CHECKING:
    from cumulus.sdk.call import Call

LOOKS = (1.0, 2.0)
"""Seconds to the first two looks: what no node can run is told at the first, another wait at the second."""
SECONDS = 10.0
"""From there on."""


def tell(call: Call[Any], over: threading.Event) -> None:
    """Write to stderr why the call has not begun, after a while and when the reason changes; until it has, or until
    `over`."""
    said = ""
    for number in itertools.count():
        if over.wait(LOOKS[number] if number < len(LOOKS) else SECONDS):
            return
        try:
            job = call.job
        except CumulusError:
            return
        why = _why(job, hopeless_alone=number == 0)
        if why is None:
            return
        if why and why != said and sys.stderr is not None:
            print(f"{call.name} waits: {why} (more: cumulus why {call.name})", file=sys.stderr, flush=True)
        said = why


def _why(job: Document, *, hopeless_alone: bool) -> str | None:
    """None once it has begun; "" where nobody knows yet, and with `hopeless_alone` for what may well begin soon."""
    status = job.get("status") or {}
    if status.get("phase") not in (None, "Pending"):
        return None
    for condition in status.get("conditions") or ():
        if condition.get("type") == JobCondition.SCHEDULED and condition.get("status") == "False":
            why = one_line(str(condition.get("message") or condition.get("reason") or ""))
            if condition.get("reason") == SchedulingReason.NO_NODE_FITS:
                if SchedulingReason.RUNTIME_MISSING in why and (job.get("spec") or {}).get("image"):
                    return f"no node can run its image, for want of Docker's Swarm ({why})"
                return f"no node could ever hold it ({why})"
            return "" if hopeless_alone else why
    return ""
