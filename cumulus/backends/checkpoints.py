"""`CheckpointStore`: what a backend asks of the place that keeps a job's checkpoints.

Implemented by `rundir.checkpoint.CheckpointFiles` for files of this machine, and by `swarm.checkpoint.NodeFiles` for
those that a container has of its node. Standard library only: each supervisor imports this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

_MOST = 2**63


class CheckpointUnseen(Exception):
    """The place of the checkpoints does not answer, or may not be read."""


class SealedCheckpoint(NamedTuple):
    """A checkpoint with a manifest, which was written last. Whether its files are as they were, only `verify` tells."""

    step: int
    time: str
    """When the manifest was written: the kernel's word, which a program cannot set back (RFC 3339, UTC)."""
    size: int
    """Bytes of its files."""
    seconds: float
    """How long the save took."""
    path: str
    """The directory of the checkpoint."""
    uploaded: int = -1
    """The newest step that is whole beyond the node; -1: none, or nobody copies them."""
    upload_error: str = ""
    """Why it does not get there, as the uploader says."""


class LastCheckpoint(NamedTuple):
    """What was written last."""

    location: str
    """Where it is: a path, or a URI."""
    written_at: str
    """When the last byte of it was written, as objects carry times (RFC 3339, UTC)."""


class CheckpointStore(Protocol):
    """The checkpoints of one job."""

    def newest(self) -> LastCheckpoint | None:
        """The one from which a new attempt would go on; None where there is none. Raises `CheckpointUnseen`."""
        ...

    def saved(self, known: SealedCheckpoint | None = None) -> SealedCheckpoint | None:
        """The newest one with a manifest; None where there is none. Where it is still the `known` one, it is not read
        again. Raises `CheckpointUnseen`."""
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


def saved(store: CheckpointStore | None, known: SealedCheckpoint | None = None) -> SealedCheckpoint | None:
    """The newest checkpoint with a manifest; the `known` one where nobody could see."""
    if store is None:
        return known
    try:
        return store.saved(known)
    except CheckpointUnseen:
        return known


def read_saved(fields: Any) -> SealedCheckpoint | None:
    """What `document_of` made; None where it is damaged."""
    try:
        found = SealedCheckpoint(**fields)
        texts = all(isinstance(text, str) for text in (found.time, found.path, found.upload_error))
        _size(found.step), _size(found.size), _seconds(found.seconds), _size(found.uploaded + 1)
    except (ValueError, TypeError):
        return None
    return found if texts else None


def document_of(found: SealedCheckpoint | None) -> Mapping[str, Any] | None:
    """As `read_saved` reads it."""
    return None if found is None else found._asdict()


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e9:
        raise ValueError
    return float(value)
