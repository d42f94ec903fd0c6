"""Which replicas of a job there are."""

from __future__ import annotations

from cumulus.errors import UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document


def replicas_of(job: Document, asked: int | None = None) -> int:
    """How many replicas a job has. Raises UsageError where the one that is asked for is none of them."""
    replicas: int = lookup(job, "spec.replicas") or 1
    if asked is not None and not 0 <= asked < replicas:
        there = "one replica, 0" if replicas == 1 else f"{replicas} replicas, counted from 0"
        raise UsageError(f"gpujob/{job['metadata']['name']} has {there}: there is no replica {asked}")
    return replicas
