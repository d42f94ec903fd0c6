"""`CheckpointStore`: what a backend asks of the place that keeps a job's checkpoints.

Implemented by `rundir.checkpoint.CheckpointFiles` for files of this machine, and by `swarm.checkpoint.NodeFiles` for
those that a container has of its node. Standard library only: each supervisor imports this.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class CheckpointUnseen(Exception):
    """The place does not answer, or may not be read."""


class Checkpoint(NamedTuple):
    """One complete checkpoint."""

    location: str
    """Where it is: a path, or a URI."""
    written_at: str
    """When the last byte of it was written, as objects carry times (RFC 3339, UTC)."""


class CheckpointStore(Protocol):
    """The checkpoints of one job."""

    def newest(self) -> Checkpoint | None:
        """The one from which a new attempt would go on; None where there is none. Raises `CheckpointUnseen`."""
        ...


def written_at(store: CheckpointStore | None) -> str | None:
    """When the newest checkpoint was written, "" where there is none; None where nobody could see it, or where the job
    has no store: as `Observed.checkpoint_at` has it."""
    if store is None:
        return None
    try:
        newest = store.newest()
    except CheckpointUnseen:
        return None
    return newest.written_at if newest is not None else ""
