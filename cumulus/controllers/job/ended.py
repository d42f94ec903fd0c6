"""Ends all that a job of some uid still has: its programs first, then their leases."""

from __future__ import annotations

from collections.abc import Sequence

from cumulus.backends.base import Backend
from cumulus.controllers.job.plan import STOP_POLL
from cumulus.resources.partition import GPUPartition
from cumulus.store.base import Query, key_of
from cumulus.store.client import StoreClient

DELETE_POLL = 30.0
"""Seconds between looks at partitions that are going; their events usually come first."""


def end_all(client: StoreClient, uid: str, backends: Sequence[Backend], grace: float, reason: str) -> float | None:
    """Ask for the end of what is left: seconds until the next look, None once nothing is."""
    alive = [(backend, o) for backend in backends for o in backend.list(uid) if not o.state.finished]
    for backend, observed in alive:
        backend.stop(observed.name, grace, reason)
    if alive:
        return STOP_POLL
    partitions = client.store.list(Query(GPUPartition.KIND, owner_uid=uid)).items
    for partition in partitions:
        if "deletionTimestamp" not in partition["metadata"]:
            client.store.delete(key_of(partition), uid=partition["metadata"]["uid"], fence=client.fence)
    return DELETE_POLL if partitions else None
