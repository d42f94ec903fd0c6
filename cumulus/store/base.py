"""The Store protocol: versioned documents, optimistic concurrency, resumable watches.

A *document* is an object's JSON as a plain dict, always a well-formed Kubernetes object. Stores know
`metadata` and the split of `spec` from `status`, nothing of a kind's schema (`client` adds the types), but that a field
selector is checked against it: over a field that is not there it would match everything. What a kind allows is asked of
the `Admission` that a store is opened with, in the transaction of each write.
Documents given to and got from a store are never shared: callers may keep them but must not change
what `get`, `list` or a watch returned.

Contract of every implementation (the conformance suite in tests/store checks it):

* Each write is one revision of one global, gapless sequence; `metadata.resourceVersion` is the decimal
  revision that last wrote the object. Only a restore skips revisions, and what is before them is `Expired`.
* `create` sets uid, creationTimestamp, generation 1, resourceVersion. A new object's status is kept.
* `update` replaces spec, data and metadata but never status; generation grows by one when anything but
  metadata and status changed. `update_status` replaces status alone. uid, creationTimestamp,
  deletionTimestamp and generation are the store's own and are taken from what is stored.
* Writes that carry a resourceVersion lose with `Conflict` when the object has moved on; without one they win.
* A write that changes nothing is no write: the stored object is returned and no revision is spent.
* `delete` of an object with finalizers sets deletionTimestamp; the object goes when an update empties
  `finalizers`. No finalizer can be added after deletionTimestamp is set. deletionGracePeriodSeconds is the least
  `grace_seconds` that a deletion gave, or 0; it is the store's own as well.
* A create, update or status write that the store's admission refuses raises `InvalidObject`, and the transaction writes
  nothing. Deletions are not asked about: what is damaged can always go.
* A watch sees every revision after its start exactly once and in order, across processes.
* What `create`, `update` or `transact` returned is durable: it survives kill -9 and power loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cumulus.resources.key import API_VERSION, Document, Key, key_of
from cumulus.resources.packed import PackedPage
from cumulus.resources.query import Page, Query, Watch, WatchEvent

__all__ = [
    "API_VERSION", "Admission", "Document", "Documents", "Fence", "Key", "PackedPage", "Page", "Query",
    "Retention", "Store", "Watch", "WatchEvent", "Write", "key_of",
]  # fmt: skip

Documents = list[Document]


class Admission(Protocol):
    """What a store asks before a write."""

    def __call__(self, old: Document | None, new: Document) -> None:
        """Whether the object may become `new`; `old` is as stored, None where there is none. Both are whole, with what
        the store sets itself, and are not to be changed. Raises `InvalidObject`."""
        ...


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof of leadership, checked in the transaction of the write: the `Lease` object named here must
    hold `spec.token == token`, else the write raises `Fenced` and nothing is written."""

    namespace: str
    name: str
    token: int


@dataclass(frozen=True, slots=True)
class Write:
    """One operation of a transaction.

    `verb` create/update/status take `document`; delete takes `key`, and optionally `uid` and
    `resource_version` as preconditions (`NotFound` on another uid, `Conflict` on another version). With
    `grace_seconds` above 0 it says how long what runs of the object has, at most, from the stop signal on.
    """

    verb: Literal["create", "update", "status", "delete"]
    document: Document | None = None
    key: Key | None = None
    uid: str | None = None
    resource_version: str | None = None
    grace_seconds: int = 0

    @property
    def target(self) -> Key:
        """Which object it writes. Raises KeyError where the document does not say."""
        return self.key or key_of(self.document or {})


class Store(Protocol):
    """See the module's docstring for the contract. Every method may raise `StoreUnavailable`."""

    def create(self, document: Document, *, fence: Fence | None = None) -> Document:
        """Raises `AlreadyExists`, `Fenced`."""
        ...

    def get(self, key: Key) -> Document:
        """Raises `NotFound`."""
        ...

    def list(self, query: Query) -> Page:
        """Raises `Expired` for a compacted revision or continue token, `UsageError` for a bad selector."""
        ...

    def list_packed(self, query: Query) -> PackedPage:
        """As `list`, with each object as its JSON."""
        ...

    def update(self, document: Document, *, fence: Fence | None = None) -> Document:
        """Raises `NotFound`, `Conflict`, `Fenced`."""
        ...

    def update_status(self, document: Document, *, fence: Fence | None = None) -> Document:
        """Raises `NotFound`, `Conflict`, `Fenced`."""
        ...

    def delete(
        self,
        key: Key,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        fence: Fence | None = None,
    ) -> Document:
        """The object as deleted, or as marked where finalizers hold it. Raises `NotFound`, `Conflict`, `Fenced`."""
        ...

    def transact(self, writes: Sequence[Write], *, fence: Fence | None = None) -> Documents:
        """All writes in order as one atomic step, or none; each sees those before it. Raises as they do;
        the exception's `index` attribute tells which write failed."""
        ...

    def transact_each(
        self, transactions: Sequence[Sequence[Write]], *, fence: Fence | None = None
    ) -> Sequence[Documents | BaseException]:
        """Several transactions in order, each as by `transact`: its answers, or what that would have raised. They may
        share what makes them durable, so that many cost little more than one."""
        ...

    def watch(self, *, since: int, kinds: frozenset[str] | None = None) -> Watch:
        """Events of revisions after `since` (None: every kind). Raises `Expired` where they were compacted."""
        ...

    def revision(self) -> int:
        """The newest revision, 0 in an empty store."""
        ...

    def namespaces(self) -> Sequence[str]:
        """The namespaces that objects are in, sorted."""
        ...

    def compact(self, revision: int) -> None:
        """Forget history before `revision`; current objects stay. Lists and watches from before it raise `Expired`."""
        ...

    def retain(self) -> int:
        """Compact what the store's `Retention` no longer asks for; the oldest revision that is kept."""
        ...

    def close(self) -> None:
        """End every watch. Everything but `close` raises `StoreUnavailable` afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history a store keeps for watches and lists at a revision: the newest `revisions`, and
    everything younger than `seconds`."""

    revisions: int = 10_000
    seconds: float = 600.0
