"""The exception tree. Every error that a person may see is a `CumulusError` with a one-line message.

Library errors are translated where the library is owned, so that callers need to know this tree only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class CumulusError(Exception):
    """Base of all. `str(error)` is one line fit for a person; `hint` says what would make it right."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CumulusError):
    """The caller asked for something malformed (command line: exit code 2)."""


class InvalidObject(CumulusError):
    """An object breaks its schema or an immutable field was changed. `field` is a dotted path or None."""

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class Unauthenticated(CumulusError):
    """Who asks did not show who they are."""


class Forbidden(CumulusError):
    """Who asks may not do this. The message says what would have to be allowed, and to whom."""


class TooManyRequests(CumulusError):
    """Who asks has too much open, or asks too fast: again in `seconds`."""

    def __init__(self, message: str, *, seconds: float = 1.0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.seconds = seconds


class TooLarge(CumulusError):
    """What was sent is larger than a request may be."""


class NotSupported(CumulusError):
    """What was sent is of a media type that is not taken."""


class JobFinished(CumulusError):
    """The job is over: it can be neither suspended nor resumed."""


class NotExtended(CumulusError):
    """The lease cannot be longer: others were told when they start, or there is none that runs."""


class NotRunning(CumulusError):
    """Nothing of the job runs that a program could be started beside, or that could be attached to."""


class AlreadySet(CumulusError):
    """A label or annotation has another value, and overwriting was not asked for."""


class WaitTimedOut(CumulusError):
    """Time was up before the condition was met."""


class ConditionUnreachable(CumulusError):
    """What is waited for can't come true any more."""


class NoLog(CumulusError):
    """There is no log to show: the job has not started, or did elsewhere."""


class NodeRefused(CumulusError):
    """What was asked of a node can't be done with the node as it is."""


class InvalidEnvironment(UsageError):
    """What describes a Python environment is malformed."""


class EnvironmentFailed(CumulusError):
    """A Python environment can't be made on the node: no such package, no network, no such Python."""


class StoreError(CumulusError):
    """Base of what a store raises."""


class NotFound(StoreError):
    """No such object (or it has another uid than the precondition demands)."""


class Replaced(NotFound):
    """Another object has the name now: it has another uid than the precondition demands."""


class AlreadyExists(StoreError):
    """An object of that kind, namespace and name is there."""


class Conflict(StoreError):
    """The object changed since it was read: read again, plan again, write again."""


class FieldConflict(NamedTuple):
    """A field that an apply would change and another manager owns. `field`: as Kubernetes writes it, .spec.priority;
    `path`: as admission has it, up to the first item of a list."""

    field: str
    path: tuple[str, ...]
    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str

    @property
    def owner(self) -> str:
        """As Kubernetes tells it: "kubectl-edit" using cumulus.dev/v1alpha1 at 2030-01-31T12:00:00Z."""
        where = f' with subresource "{self.subresource}"' if self.subresource else ""
        since = f" at {self.time}" if self.time else ""
        how = f" using {self.api_version}{since}" if self.operation == "Update" else ""
        return f'"{self.manager}"{where}{how}'


class ApplyConflict(Conflict):
    """An apply would change fields that other managers own, and was not told to take them over. Worded as in
    Kubernetes, in several lines where there are several conflicts."""

    def __init__(self, conflicts: Sequence[FieldConflict]) -> None:
        self.conflicts = tuple(conflicts)
        if len(self.conflicts) == 1:
            super().__init__(f"Apply failed with 1 conflict: conflict with {conflicts[0].owner}: {conflicts[0].field}")
            return
        lines = []
        for owner in sorted({conflict.owner for conflict in conflicts}):
            lines.append(f"conflicts with {owner}:")
            lines += [f"- {conflict.field}" for conflict in conflicts if conflict.owner == owner]
        super().__init__(f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines))


class Expired(StoreError):
    """The revision asked for was compacted: list again and watch from the list's revision."""


class Fenced(StoreError):
    """The writer's leadership has passed to another daemon: it must not write any more."""


class StoreUnavailable(StoreError):
    """The store cannot be used: full disk, read-only directory, corrupt file, newer schema."""


class StoreInUse(StoreError):
    """A daemon has the store open: what was asked needs it to itself."""


class StoreReplaced(StoreUnavailable):
    """The store's file was removed, moved or replaced while it was in use: what this process knows is of another."""


class ChronosError(CumulusError):
    """Base of what leases raise."""


class NoSuchDevice(ChronosError):
    """The device index or id is not on this node."""


class InsufficientShare(ChronosError):
    """The device has not enough free memory or compute for the lease."""


class NoSuchLease(ChronosError):
    """No live lease has that partition id."""


class StaleToken(ChronosError):
    """The fencing token presented is older than the lease's current one."""


class ParkRefused(ChronosError):
    """The lease cannot be parked, and its program goes on. `reason` is a `ParkingReason`."""

    def __init__(self, message: str, *, reason: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class LedgerUnavailable(ChronosError):
    """The ledger's directory cannot be used: no permission, full disk, damaged, newer version."""


class LedgerFull(LedgerUnavailable):
    """The disk of the ledger is full: no lease is granted until there is room. Those that are live end as ever."""


class LedgerReplaced(LedgerUnavailable):
    """The ledger was removed, moved or replaced, and leases of the one that was there may still be live."""


class NodeUnreachable(ChronosError):
    """The node did not answer in time. Its leases may well be live: unreachable is not dead."""


class BackendError(CumulusError):
    """A backend could not do what was asked; trying again may help."""


class NotOurs(BackendError):
    """The engine's cluster belongs to another control plane: nothing on it may be touched."""


class BackendRefused(BackendError):
    """A backend will never do what was asked (an impossible workload): trying again does not help."""


class BlobError(CumulusError):
    """Base of what a store of blobs raises."""


class NoSuchBlob(BlobError):
    """The owner has no such blob, or not the whole of it."""


class BlobOffset(BlobError):
    """The content of an upload goes on from another place than was given: from `received`."""

    def __init__(self, message: str, *, received: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.received = received


class BlobBusy(BlobError):
    """Another upload of the blob runs: ask again when it has ended."""


class BlobMismatch(BlobError):
    """The content is not what its sha256 and size say. Nothing of it was kept."""


class BlobDamaged(BlobError):
    """The content that was stored has changed since."""


class BlobTooLarge(BlobError):
    """The blob is larger than blobs may be, or its owner's blobs are together."""


class BlobStoreFull(BlobError):
    """There is no room for the blob. Nothing of it was kept."""


class BlobStoreUnavailable(BlobError):
    """The place of the blobs can't be used; trying again may help."""


class BucketUnavailable(BlobStoreUnavailable):
    """The bucket did not answer, or asked for patience: trying again helps."""


class BucketRefused(BlobStoreUnavailable):
    """The bucket does not take what was asked: keys, name, region, clock. A person must mend that."""


class ObjectChanged(BlobError):
    """What is in the bucket is not what the writer read: read again, then write again."""
