"""Says why a call waits, to who waits for it: a share that is free later, or a request that nothing can fulfil."""

from __future__ import annotations

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

FIRST_SECONDS, SECONDS = 3.0, 10.0


def tell(call: Call[Any], over: threading.Event) -> None:
    """Write to stderr why the call has not begun, after a while and when the reason changes; until it has, or until
    `over`."""
    said = ""
    pause = FIRST_SECONDS
    while not over.wait(pause):
        pause = SECONDS
        try:
            job = call.job
        except CumulusError:
            return
        why = _why(job)
        if why is None:
            return
        if why and why != said and sys.stderr is not None:
            print(f"{call.name} waits: {why} (more: cumulus why {call.name})", file=sys.stderr, flush=True)
        said = why


def _why(job: Document) -> str | None:
    """None once it has begun; "" where nobody knows yet."""
    status = job.get("status") or {}
    if status.get("phase") not in (None, "Pending"):
        return None
    for condition in status.get("conditions") or ():
        if condition.get("type") == JobCondition.SCHEDULED and condition.get("status") == "False":
            why = one_line(str(condition.get("message") or condition.get("reason") or ""))
            if condition.get("reason") == SchedulingReason.NO_NODE_FITS:
                return f"no node could ever hold it ({why})"
            return why
    return ""
