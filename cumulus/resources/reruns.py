"""A job that is made anew under its name, and the runs before it. Reads documents; no model is loaded.

The new job takes the place of the old one in one transaction, so that a crash leaves the one or the other. What is left
of the old one (programs, leases, logs) is the new one's to end and to delete: `status.earlierRuns` lists it by uid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cumulus.resources.documents import lookup
from cumulus.resources.finalizers import JOB_FINALIZER, with_finalizer
from cumulus.resources.key import Document

KEPT_RUNS = 10
"""Earlier runs whose logs and files are kept at most."""
KEPT_ATTEMPTS = 5
"""The last attempts of each that can still be read."""
_MOST_NODES = 64
"""The nodes of a larger gang are not kept: their names would fill the status."""


def successor(old: Document, new: Document, *, from_checkpoint: bool = False) -> Document:
    """The job `new`, which is to take the place of `old`. With `from_checkpoint` it goes on from what that one saved
    last."""
    status = {**(new.get("status") or {}), "phase": "Pending", "run": run_number(old) + 1}
    status["earlierRuns"] = [*(lookup(old, "status.earlierRuns") or ()), _run(old, from_checkpoint)]
    # It must not go before what it has to end.
    return with_finalizer({**new, "status": status}, JOB_FINALIZER)


def run_number(job: Document) -> int:
    """The number of the run that the job is, from 1."""
    return int(lookup(job, "status.run") or 1)


def as_it_was(job: Document, number: int) -> Document | None:
    """An earlier run of the job, as far as it is known, in the shape of a job; None where there is none of that number,
    or where its logs are gone."""
    for run in kept(job):
        if run["number"] == number:
            spec = {"replicas": run.get("replicas", 1), **({"image": "?"} if run.get("runtime") == "container" else {})}
            # Whatever it was, it is over.
            phase = "Succeeded" if run["phase"] == "Succeeded" else "Failed"
            status = {"phase": phase, "attempts": run.get("attempts") or []}
            return {**job, "metadata": {**job["metadata"], "uid": run["uid"]}, "spec": spec, "status": status}
    return None


def kept(job: Document) -> list[Document]:
    """Its earlier runs whose logs are still there."""
    return [run for run in lookup(job, "status.earlierRuns") or () if not run.get("purged")]


def uids(job: Document) -> list[str]:
    """Those of the runs that are kept."""
    return [run["uid"] for run in kept(job)]


def still_ending(job: Document) -> Iterator[str]:
    """The uids of its earlier runs of which something may still run or be leased."""
    return (run["uid"] for run in lookup(job, "status.earlierRuns") or () if not run.get("released"))


def _run(job: Document, continued: bool) -> Document:
    spec, status = job.get("spec") or {}, job.get("status") or {}
    checkpoint = spec.get("checkpoint")
    found: dict[str, Any] = {
        "number": run_number(job),
        "uid": job["metadata"]["uid"],
        "phase": status.get("phase") or "Pending",
        "runtime": "container" if spec.get("image") is not None else "process",
        "replicas": spec.get("replicas", 1),
        "attempts": [_kept(attempt) for attempt in (status.get("attempts") or [])[-KEPT_ATTEMPTS:]],
        "startTime": status.get("startTime"),
        "completionTime": status.get("completionTime"),
        "ttlAfterFinished": spec.get("ttlAfterFinished"),
        "checkpointPath": checkpoint.get("path") if checkpoint else None,
        "checkpointUri": checkpoint.get("uri") if checkpoint else None,
        "gracePeriod": checkpoint.get("gracePeriod") if checkpoint else None,
        "continued": continued,
    }
    return {name: value for name, value in found.items() if value is not None}


def _kept(attempt: Document) -> Document:
    few = len(attempt.get("nodes") or ()) <= _MOST_NODES
    left_out = {"partitions"} if few else {"partitions", "nodes", "node"}
    return {name: value for name, value in attempt.items() if name not in left_out}
