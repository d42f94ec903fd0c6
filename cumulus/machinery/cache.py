"""What controllers read from: a view of the store as it was at one revision, possibly a while ago.

`Cache` is the view that an `informer` keeps up to date; it holds each object as compact JSON, so that ten thousand
jobs fit in little memory, and decodes on demand. `StoreReader` asks the store itself: for what must not be decided on
old knowledge, and for tests. A controller never changes what it reads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import orjson
import structlog

from cumulus.errors import InvalidObject, NotFound
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.meta import Resource
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.store.base import Query, Store
from cumulus.store.client import Client, decode

log = structlog.get_logger("cumulus.controllers")

R = TypeVar("R", bound=Resource)

DECODED = 1024
"""How many decoded models a cache keeps beside the compact documents."""


class Reader(Protocol):
    """All that a reader returns was true at `revision`, all of it at once."""

    @property
    def revision(self) -> int: ...

    def get(self, model: type[R], namespace: str, name: str) -> R | None:
        """Raises InvalidObject where the stored row is damaged."""
        ...

    def all(self, model: type[R]) -> list[R]:
        """All of a kind; damaged rows are left out and logged."""
        ...

    def owned(self, model: type[R], uid: str) -> list[R]:
        """Those with an ownerReference of that uid, by name."""
        ...

    def on_node(self, node: str) -> list[Bound]:
        """The partitions bound to that node whose phase has not ended, by name."""
        ...

    def partition(self, uid: str) -> GPUPartition | None:
        """The partition of that uid, also one that has ended. Raises InvalidObject where the stored row is damaged."""
        ...

    def live(self) -> dict[Key, int]:
        """The partitions whose phase has not ended, each with its resourceVersion; in no particular order."""
        ...


class Bound(NamedTuple):
    """What a node's look needs of a partition on it, known without decoding its model."""

    key: Key
    uid: str
    active: bool


def readable(reader: Reader, model: type[R], namespace: str, name: str) -> R | None:
    """`get`, and None where the stored row is damaged, which is logged."""
    try:
        return reader.get(model, namespace, name)
    except InvalidObject as error:
        log_damaged(error)
        return None


def log_damaged(error: InvalidObject) -> None:
    log.error("left out a damaged object", error=str(error))


@dataclass(slots=True)
class _Entry:
    data: bytes
    revision: int
    uid: str
    active: bool
    tags: tuple[tuple[str, str], ...]


class Cache:
    """The reader that an informer feeds. Safe for use by several threads."""

    def __init__(self) -> None:
        self._entries: defaultdict[str, dict[tuple[str, str], _Entry]] = defaultdict(dict)
        self._index: defaultdict[tuple[str, str, str], set[tuple[str, str]]] = defaultdict(set)
        self._live: dict[Key, int] = {}
        self._uids: dict[str, tuple[str, str]] = {}
        """Names of all partitions by uid."""
        self._decoded: OrderedDict[Key, tuple[int, Resource]] = OrderedDict()
        self._revision = 0
        self._changed = threading.Condition()

    @property
    def revision(self) -> int:
        return self._revision

    def get(self, model: type[R], namespace: str, name: str) -> R | None:
        with self._changed:
            return self._model(model, (namespace, name))

    def all(self, model: type[R]) -> list[R]:
        with self._changed:
            return list(self._models(model, sorted(self._entries[model.KIND])))

    def owned(self, model: type[R], uid: str) -> list[R]:
        return self._tagged(model, "owner", uid)

    def on_node(self, node: str) -> list[Bound]:
        kind = GPUPartition.KIND
        with self._changed:
            entries = self._entries[kind]
            names = sorted(self._index.get((kind, "node", node), ()))
            return [Bound(Key(kind, *name), entries[name].uid, entries[name].active) for name in names]

    def partition(self, uid: str) -> GPUPartition | None:
        with self._changed:
            name = self._uids.get(uid)
            return None if name is None else self._model(GPUPartition, name)

    def live(self) -> dict[Key, int]:
        with self._changed:
            return self._live.copy()

    def keys(self, kind: str, *, owner: str | None = None, node: str | None = None) -> list[tuple[str, str]]:
        """Names of a kind, all or those of one owner's uid, or of the partitions that `on_node` has of one node,
        without decoding anything."""
        with self._changed:
            if owner is not None:
                return sorted(self._index.get((kind, "owner", owner), ()))
            if node is not None:
                return sorted(self._index.get((kind, "node", node), ()))
            return sorted(self._entries[kind])

    def document(self, key: Key) -> Document | None:
        with self._changed:
            entry = self._entries[key.kind].get((key.namespace, key.name))
        return None if entry is None else orjson.loads(entry.data)

    def wait_for(self, revision: int, timeout: float) -> bool:
        """Block until the view has reached `revision`; False when `timeout` seconds passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._revision >= revision, timeout)

    def put(self, document: Document) -> tuple[bool, bytes | None]:
        """The informer's way in: the object is now this. An older version changes nothing.

        Returns whether it changed anything, and the JSON of what the object was (None: not there).
        """
        key = key_of(document)
        name = (key.namespace, key.name)
        revision = int(document["metadata"]["resourceVersion"])
        # A copy, since what orjson returns keeps its whole buffer, several times as long.
        data = bytes(memoryview(orjson.dumps(document)))
        active = _phase(document) == PartitionPhase.ACTIVE
        entry = _Entry(data, revision, document["metadata"]["uid"], active, _tags(document))
        with self._changed:
            old = self._entries[key.kind].get(name)
            if old is not None and old.revision >= revision:
                return False, old.data
            self._forget(key, old)
            self._entries[key.kind][name] = entry
            for tag in entry.tags:
                self._index[key.kind, *tag].add(name)
            if key.kind == GPUPartition.KIND:
                self._uids[entry.uid] = name
                if _is_live(document):
                    self._live[key] = revision
        return True, None if old is None else old.data

    def drop(self, key: Key, revision: int) -> bytes | None:
        """The informer's way in: the object was deleted at `revision`. Returns the JSON of what it was."""
        with self._changed:
            old = self._entries[key.kind].get((key.namespace, key.name))
            if old is not None and old.revision <= revision:
                del self._entries[key.kind][key.namespace, key.name]
                self._forget(key, old)
                self._decoded.pop(key, None)
        return None if old is None else old.data

    def advance(self, revision: int) -> None:
        """The informer's way in: all changes up to `revision` have been put or dropped."""
        with self._changed:
            if revision > self._revision:
                self._revision = revision
                self._changed.notify_all()

    def _forget(self, key: Key, entry: _Entry | None) -> None:
        """Take what is no more out of the indexes."""
        if entry is None:
            return
        for tag in entry.tags:
            names = self._index[key.kind, *tag]
            names.discard((key.namespace, key.name))
            if not names:
                del self._index[key.kind, *tag]
        if key.kind == GPUPartition.KIND:
            self._uids.pop(entry.uid, None)
            self._live.pop(key, None)

    def _tagged(self, model: type[R], tag: str, value: str) -> list[R]:
        with self._changed:
            return list(self._models(model, sorted(self._index.get((model.KIND, tag, value), ()))))

    def _models(self, model: type[R], names: Iterable[tuple[str, str]]) -> Iterator[R]:
        for name in names:
            try:
                found = self._model(model, name)
            except InvalidObject as error:
                log_damaged(error)
                continue
            if found is not None:
                yield found

    def _model(self, model: type[R], name: tuple[str, str]) -> R | None:
        entry = self._entries[model.KIND].get(name)
        if entry is None:
            return None
        key = Key(model.KIND, *name)
        known = self._decoded.get(key)
        if known is not None and known[0] == entry.revision:
            self._decoded.move_to_end(key)
            found: Any = known[1]
        else:
            found = decode(model, orjson.loads(entry.data))
            self._decoded[key] = (entry.revision, found)
            self._decoded.move_to_end(key)
            if len(self._decoded) > DECODED:
                self._decoded.popitem(last=False)
        return found  # type: ignore[no-any-return]


class StoreReader:
    """A reader that asks the store itself each time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def revision(self) -> int:
        return self._store.revision()

    def get(self, model: type[R], namespace: str, name: str) -> R | None:
        try:
            return decode(model, self._store.get(Key(model.KIND, namespace, name)))
        except NotFound:
            return None

    def all(self, model: type[R]) -> list[R]:
        return self._decoded(model, Query(model.KIND))

    def owned(self, model: type[R], uid: str) -> list[R]:
        return self._decoded(model, Query(model.KIND, owner_uid=uid))

    def _decoded(self, model: type[R], query: Query) -> list[R]:
        return Client(self._store).list(model, query, damaged=log_damaged)

    def on_node(self, node: str) -> list[Bound]:
        return [
            Bound(p.key, p.uid, p.status.phase is PartitionPhase.ACTIVE)
            for p in self.all(GPUPartition)
            if p.status.node == node and not p.status.phase.ended
        ]

    def partition(self, uid: str) -> GPUPartition | None:
        return next((partition for partition in self.all(GPUPartition) if partition.uid == uid), None)

    def live(self) -> dict[Key, int]:
        return {
            partition.key: int(partition.metadata.resource_version or 0)
            for partition in self.all(GPUPartition)
            if not partition.status.phase.ended
        }


def _tags(document: Document) -> tuple[tuple[str, str], ...]:
    tags = [("owner", owner["uid"]) for owner in document["metadata"].get("ownerReferences", ())]
    if document["kind"] == GPUPartition.KIND and _is_live(document):
        node = (document.get("status") or {}).get("node")
        if node:
            tags.append(("node", node))
    return tuple(tags)


def _is_live(document: Document) -> bool:
    return _phase(document) not in _ENDED


def _phase(document: Document) -> object:
    return (document.get("status") or {}).get("phase", PartitionPhase.PENDING)


_ENDED = frozenset(phase.value for phase in PartitionPhase if phase.ended)
