"""What is said of a GPUJob."""

from __future__ import annotations

from cumulus.resources.columns import until
from cumulus.resources.condition_types import JobCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind, View
from cumulus.resources.quantity import format_duration


def job_node(job: Document) -> str:
    """The nodes of the last attempt, unless the job only waits for its next."""
    attempts = lookup(job, "status.attempts") or []
    if not attempts:
        return ""
    last = attempts[-1]
    if last.get("endTime") and lookup(job, "status.phase") in ("Pending", "Suspended"):
        return ""
    nodes = list(dict.fromkeys(last.get("nodes") or [last.get("node", "")]))
    return ",".join(nodes)


def job_attempts(job: Document) -> str:
    """How many attempts have started: one is counted by the controllers when it begins to wait for its share."""
    waiting = [a for a in lookup(job, "status.attempts") or () if not a.get("startTime")]
    return str((lookup(job, "status.attemptCount") or 0) - len(waiting))


def job_gpu(job: Document) -> str:
    """What a job leases: `0.5 for 1h`, with devices and replicas where there are several: `4x2x 20Gi for 1h`."""
    gpu = lookup(job, "spec.gpu") or {}
    counts = [n for n in (lookup(job, "spec.replicas") or 1, gpu.get("count") or 1) if n != 1]
    times = "".join(f"{n}x" for n in counts) + (" " if counts else "")
    return f"{times}{gpu.get('memory', '?')} for {duration(gpu.get('duration', ''))}"


def duration(value: str) -> str:
    """A duration as written, plain seconds in larger units."""
    return format_duration(float(value)) if value.isdigit() else value


def job_reason(job: Document) -> str:
    """Why the job is where it is: the reason of the condition that its phase rests on."""
    phase = lookup(job, "status.phase") or "Pending"
    for type in _REASON_OF_PHASE.get(phase, ()):
        found = condition(job, type)
        if found.get("reason") and (type == phase) == (found.get("status") == "True"):
            return str(found["reason"])
    return ""


def job_lease(job: Document, view: View) -> str:
    """When the first of its live leases ends."""
    ends = [p["status"]["expiresAt"] for p in view.owned_by(job) if lookup(p, "status.phase") == "Active"]
    return f"in {until(min(ends), view.now)}" if ends else ""


_REASON_OF_PHASE = {
    "Pending": (JobCondition.SCHEDULED, JobCondition.PARTITIONS_READY, JobCondition.RUNNING),
    "Scheduled": (JobCondition.PARTITIONS_READY, JobCondition.RUNNING),
    "Running": (JobCondition.RUNNING,),
    "Checkpointing": (JobCondition.RUNNING,),
    "Suspended": (JobCondition.SUSPENDED,),
    "Succeeded": (JobCondition.SUCCEEDED,),
    "Failed": (JobCondition.FAILED,),
}

KIND = Kind(
    "GPUJob",
    "gpujobs",
    ("jobs", "job", "gj"),
    True,
    "cumulus.resources.job",
    (
        Column("PHASE", "status.phase", fit="whole", yields=0),
        Column("NODE", cell=lambda job, _: job_node(job), yields=2),
        Column("GPU", cell=lambda job, _: job_gpu(job), yields=4),
        Column("ATTEMPTS", cell=lambda job, _: job_attempts(job), yields=5),
        Column("LEASE ENDS", cell=job_lease, wide=True, fit="whole", yields=1),
        Column("IMAGE", "spec.image", wide=True, yields=6),
        Column("REASON", cell=lambda job, _: job_reason(job), wide=True, fit="whole", yields=0),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=3),
    ),
    work=True,
    owns="GPUPartition",
    leaves_files=True,
    conditions=tuple(JobCondition),
    final_phases=frozenset({"Succeeded", "Failed"}),
    phase_rests_on=((JobCondition.SCHEDULED, False), (JobCondition.PARTITIONS_READY, False)),
)
