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
from typing import Any, Protocol, TypeVar

import orjson
import structlog

from cumulus.errors import InvalidObject, NotFound
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.meta import Resource
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.store.base import Query, Store
from cumulus.store.client import decode

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

    def on_node(self, node: str) -> list[GPUPartition]:
        """The partitions bound to that node, ended ones too."""
        ...

    def live(self) -> dict[Key, int]:
        """The partitions whose phase has not ended, each with its resourceVersion; by key, in order."""
        ...


@dataclass(slots=True)
class _Entry:
    data: bytes
    revision: int
    tags: tuple[tuple[str, str], ...]


class Cache:
    """The reader that an informer feeds. Safe for use by several threads."""

    def __init__(self) -> None:
        self._entries: defaultdict[str, dict[tuple[str, str], _Entry]] = defaultdict(dict)
        self._index: defaultdict[tuple[str, str, str], set[tuple[str, str]]] = defaultdict(set)
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

    def on_node(self, node: str) -> list[GPUPartition]:
        return self._tagged(GPUPartition, "node", node)

    def live(self) -> dict[Key, int]:
        kind = GPUPartition.KIND
        with self._changed:
            entries = self._entries[kind]
            names = sorted(self._index.get((kind, "live", ""), ()))
            return {Key(kind, *name): entries[name].revision for name in names}

    def keys(self, kind: str, *, owner: str | None = None, node: str | None = None) -> list[tuple[str, str]]:
        """Names of a kind, all or those of one owner's uid or one node, without decoding anything."""
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

    def put(self, document: Document) -> Document | None:
        """The informer's way in: the object is now this. Returns what it was; an older version changes nothing."""
        key = key_of(document)
        revision = int(document["metadata"]["resourceVersion"])
        with self._changed:
            old = self._entries[key.kind].get((key.namespace, key.name))
            if old is not None and old.revision >= revision:
                return document
            self._untag(key, old)
            # A copy, since what orjson returns keeps its whole buffer, several times as long.
            entry = _Entry(bytes(memoryview(orjson.dumps(document))), revision, _tags(document))
            self._entries[key.kind][key.namespace, key.name] = entry
            for tag in entry.tags:
                self._index[key.kind, *tag].add((key.namespace, key.name))
        return None if old is None else orjson.loads(old.data)

    def drop(self, key: Key, revision: int) -> Document | None:
        """The informer's way in: the object was deleted at `revision`. Returns what it was."""
        with self._changed:
            old = self._entries[key.kind].get((key.namespace, key.name))
            if old is not None and old.revision <= revision:
                del self._entries[key.kind][key.namespace, key.name]
                self._untag(key, old)
                self._decoded.pop(key, None)
        return None if old is None else orjson.loads(old.data)

    def advance(self, revision: int) -> None:
        """The informer's way in: all changes up to `revision` have been put or dropped."""
        with self._changed:
            if revision > self._revision:
                self._revision = revision
                self._changed.notify_all()

    def _untag(self, key: Key, entry: _Entry | None) -> None:
        for tag in entry.tags if entry is not None else ():
            names = self._index[key.kind, *tag]
            names.discard((key.namespace, key.name))
            if not names:
                del self._index[key.kind, *tag]

    def _tagged(self, model: type[R], tag: str, value: str) -> list[R]:
        with self._changed:
            return list(self._models(model, sorted(self._index.get((model.KIND, tag, value), ()))))

    def _models(self, model: type[R], names: Iterable[tuple[str, str]]) -> Iterator[R]:
        for name in names:
            try:
                found = self._model(model, name)
            except InvalidObject as error:
                log.error("left out a damaged object", error=str(error))
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
        return [decode(model, item) for item in self._store.list(Query(model.KIND)).items]

    def owned(self, model: type[R], uid: str) -> list[R]:
        return [decode(model, item) for item in self._store.list(Query(model.KIND, owner_uid=uid)).items]

    def on_node(self, node: str) -> list[GPUPartition]:
        return [partition for partition in self.all(GPUPartition) if partition.status.node == node]

    def live(self) -> dict[Key, int]:
        return {
            partition.key: int(partition.metadata.resource_version or 0)
            for partition in self.all(GPUPartition)
            if not partition.status.phase.ended
        }


def _tags(document: Document) -> tuple[tuple[str, str], ...]:
    tags = [("owner", owner["uid"]) for owner in document["metadata"].get("ownerReferences", ())]
    if document["kind"] == GPUPartition.KIND:
        status = document.get("status") or {}
        if status.get("node"):
            tags.append(("node", status["node"]))
        if status.get("phase", PartitionPhase.PENDING) not in _ENDED:
            tags.append(("live", ""))
    return tuple(tags)


_ENDED = frozenset(phase.value for phase in PartitionPhase if phase.ended)
