"""The phases of a job. Light: no model is loaded."""

from __future__ import annotations

from enum import StrEnum


class JobPhase(StrEnum):
    PENDING = "Pending"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    CHECKPOINTING = "Checkpointing"
    SUSPENDED = "Suspended"
    PARKED = "Parked"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def finished(self) -> bool:
        return self in FINAL_PHASES


FINAL_PHASES = frozenset({JobPhase.SUCCEEDED, JobPhase.FAILED})
"""Those of a job that is over."""
RUNNING_PHASES = frozenset({JobPhase.RUNNING, JobPhase.CHECKPOINTING})
"""Those in which processes of the job run."""
