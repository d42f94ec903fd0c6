"""What the end of a lease means for the run inside it, the same with every backend. Standard library only."""

from __future__ import annotations

from cumulus.resources.reasons import AttemptReason


def reason_of(ended: str, circumstance: str) -> tuple[AttemptReason, str] | None:
    """Reason and message of a run whose lease has `ended`, as its node says (`EndReason`); None where it has not ("").

    `circumstance` ends the sentence: " before the command was started", ", and it ended with exit code 1"."""
    match ended:
        case "expired":
            return AttemptReason.LEASE_EXPIRED, f"its lease expired{circumstance}"
        case "released":
            return AttemptReason.STOPPED, f"its lease was released{circumstance}"
        case "overused":
            return AttemptReason.OVERUSED, f"it held more GPU memory than it leases{circumstance}"
        case "lost":
            return AttemptReason.LOST, f"its GPU failed{circumstance}"
        case "unpark-failed":
            return AttemptReason.LOST, f"it was parked and could not be brought back{circumstance}"
        case "rebooted":
            return AttemptReason.LOST, f"its node was restarted while it was parked{circumstance}"
    return None
