"""The conditions of a job between its attempts and on the way into one. Pure; used by `job_plan`."""

from __future__ import annotations

from datetime import datetime

from cumulus.clock import timestamp
from cumulus.resources.conditions import condition_set
from cumulus.resources.job import GPUJobStatus, JobPhase
from cumulus.resources.meta import condition


def waiting(status: GPUJobStatus, reason: str, message: str, now: datetime) -> GPUJobStatus:
    """Pending, with why."""
    conditions = condition_set(status.conditions, timestamp(now), "Scheduled", False, reason, message)
    for type in ("PartitionsReady", "Running"):
        conditions = condition_set(conditions, timestamp(now), type, False, "Waiting")
    return status.model_copy(update={"phase": JobPhase.PENDING, "conditions": conditions})


def ran(status: GPUJobStatus, now: datetime) -> GPUJobStatus:
    """With the conditions of an attempt that got to run, also where its end was the first that was seen of it."""
    conditions = condition_set(status.conditions, timestamp(now), "Scheduled", True, "Bound")
    conditions = condition_set(conditions, timestamp(now), "PartitionsReady", True, "Active")
    return status.model_copy(update={"conditions": conditions})


def suspended(status: GPUJobStatus, now: datetime) -> GPUJobStatus:
    """Held by its spec. Its clock starts anew when it is resumed, as that of a Kubernetes Job does."""
    conditions = condition_set(
        status.conditions, timestamp(now), "Suspended", True, "Suspended", "spec.suspend is true"
    )
    return status.model_copy(update={"phase": JobPhase.SUSPENDED, "conditions": conditions, "start_time": None})


def resumed(status: GPUJobStatus, now: datetime) -> GPUJobStatus:
    """No longer held, where it ever was."""
    if condition(status.conditions, "Suspended") is None:
        return status
    conditions = condition_set(status.conditions, timestamp(now), "Suspended", False, "Resumed")
    return status.model_copy(update={"conditions": conditions})
