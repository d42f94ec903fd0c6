"""What controllers read: the store as it was at one revision, possibly a while ago.

`Cache` is the view that an `informer` keeps up to date; it holds each object as compact JSON, so that ten thousand
jobs fit in little memory, and decodes on demand. `StoreReader` asks the store itself: for what must not be decided on
old knowledge, and for tests. A controller never changes what it reads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import orjson
import structlog

from cumulus.errors import InvalidObject, NotFound, Replaced
from cumulus.resources.documents import owners
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.meta import Resource
from cumulus.store.base import Query, Store
from cumulus.store.client import StoreClient, decode

log = structlog.get_logger("cumulus.controllers")

R = TypeVar("R", bound=Resource)

DECODED = 1024
"""How many decoded models a cache keeps beside the compact documents."""


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Finds the objects of one kind that have a value, without decoding any: client-go's indexer. `values` takes a
    document and tells its values; controllers declare the indexes that they read by."""

    kind: str
    values: Callable[[Document], Iterable[str]]


@dataclass(slots=True)
class Entry:
    """What is known of an object without decoding its model."""

    uid: str
    revision: int
    """Its resourceVersion."""
    data: bytes = b""
    tags: tuple[tuple[Index | str, str], ...] = ()
    """Where the cache finds it: an index and a value, or its kind and an owner's uid."""


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

    def by_uid(self, model: type[R], uid: str) -> R | None:
        """The object of that uid. Raises InvalidObject where the stored row is damaged."""
        ...

    def indexed(self, index: Index, value: str) -> Mapping[Key, Entry]:
        """The objects that the index has under the value, damaged ones too; in no particular order."""
        ...


def readable(reader: Reader, model: type[R], namespace: str, name: str) -> R | None:
    """`get`, and None where the stored row is damaged, which is logged."""
    try:
        return reader.get(model, namespace, name)
    except InvalidObject as error:
        log_damaged(error)
        return None


def log_damaged(error: InvalidObject) -> None:
    log.error("left out a damaged object", error=str(error))


class Cache:
    """The reader that an informer feeds. Safe for use by several threads."""

    def __init__(self, indexes: Iterable[Index] = ()) -> None:
        """`indexed` answers for these indexes only."""
        self._indexes: defaultdict[str, list[Index]] = defaultdict(list)
        for index in indexes:
            self._indexes[index.kind].append(index)
        self._entries: defaultdict[str, dict[Key, Entry]] = defaultdict(dict)
        self._tagged: defaultdict[tuple[Index | str, str], dict[Key, Entry]] = defaultdict(dict)
        self._uids: dict[str, Key] = {}
        self._decoded: OrderedDict[Key, tuple[int, Resource]] = OrderedDict()
        self._revision = 0
        self._changed = threading.Condition()

    @property
    def revision(self) -> int:
        return self._revision

    def get(self, model: type[R], namespace: str, name: str) -> R | None:
        with self._changed:
            return self._model(model, Key(model.KIND, namespace, name))

    def all(self, model: type[R]) -> list[R]:
        with self._changed:
            return list(self._models(model, sorted(self._entries[model.KIND])))

    def owned(self, model: type[R], uid: str) -> list[R]:
        with self._changed:
            return list(self._models(model, sorted(self._tagged.get((model.KIND, uid), ()))))

    def by_uid(self, model: type[R], uid: str) -> R | None:
        with self._changed:
            key = self._uids.get(uid)
            return None if key is None or key.kind != model.KIND else self._model(model, key)

    def indexed(self, index: Index, value: str) -> dict[Key, Entry]:
        with self._changed:
            found = self._tagged.get((index, value))
            return {} if found is None else found.copy()

    def has(self, uid: str) -> bool:
        """Whether there is an object of that uid."""
        return uid in self._uids

    def keys(self, kind: str, *, owner: str | None = None) -> list[tuple[str, str]]:
        """Namespaces and names of a kind, all or those of one owner's uid, sorted, without decoding anything."""
        with self._changed:
            found: Iterable[Key] = self._entries[kind] if owner is None else self._tagged.get((kind, owner), ())
            return sorted(key[1:] for key in found)

    def document(self, key: Key) -> Document | None:
        with self._changed:
            entry = self._entries[key.kind].get(key)
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
        metadata = document["metadata"]
        revision = int(metadata["resourceVersion"])
        # A copy, since what orjson returns keeps its whole buffer, several times as long.
        data = bytes(memoryview(orjson.dumps(document)))
        entry = Entry(metadata["uid"], revision, data, self._tags(key.kind, document))
        with self._changed:
            old = self._entries[key.kind].get(key)
            if old is not None and old.revision >= revision:
                return False, old.data
            self._forget(key, old)
            self._entries[key.kind][key] = entry
            self._uids[entry.uid] = key
            for tag in entry.tags:
                self._tagged[tag][key] = entry
        return True, None if old is None else old.data

    def drop(self, key: Key, revision: int) -> bytes | None:
        """The informer's way in: the object was deleted at `revision`. Returns the JSON of what it was."""
        with self._changed:
            old = self._entries[key.kind].get(key)
            if old is not None and old.revision <= revision:
                del self._entries[key.kind][key]
                self._forget(key, old)
                self._decoded.pop(key, None)
        return None if old is None else old.data

    def advance(self, revision: int) -> None:
        """The informer's way in: all changes up to `revision` have been put or dropped."""
        with self._changed:
            if revision > self._revision:
                self._revision = revision
                self._changed.notify_all()

    def _tags(self, kind: str, document: Document) -> tuple[tuple[Index | str, str], ...]:
        tags: list[tuple[Index | str, str]] = [(kind, owner["uid"]) for owner in owners(document)]
        for index in self._indexes.get(kind, ()):
            tags += [(index, value) for value in index.values(document)]
        return tuple(tags)

    def _forget(self, key: Key, entry: Entry | None) -> None:
        """Take what is no more out of the indexes."""
        if entry is None:
            return
        for tag in entry.tags:
            found = self._tagged[tag]
            found.pop(key, None)
            if not found:
                del self._tagged[tag]
        self._uids.pop(entry.uid, None)

    def _models(self, model: type[R], keys: Iterable[Key]) -> Iterator[R]:
        for key in keys:
            try:
                found = self._model(model, key)
            except InvalidObject as error:
                log_damaged(error)
                continue
            if found is not None:
                yield found

    def _model(self, model: type[R], key: Key) -> R | None:
        entry = self._entries[key.kind].get(key)
        if entry is None:
            return None
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

    def by_uid(self, model: type[R], uid: str) -> R | None:
        items = self._store.list(Query(model.KIND)).items
        return next((decode(model, item) for item in items if item["metadata"]["uid"] == uid), None)

    def indexed(self, index: Index, value: str) -> dict[Key, Entry]:
        return {
            key_of(item): Entry(item["metadata"]["uid"], int(item["metadata"]["resourceVersion"]))
            for item in self._store.list(Query(index.kind)).items
            if value in index.values(item)
        }

    def _decoded(self, model: type[R], query: Query) -> list[R]:
        return StoreClient(self._store).list(model, query, damaged=log_damaged)


def as_stored(store: Store, seen: R) -> R:
    """The object as the store has it now: ask before you do what cannot be taken back, for what a cache showed may be
    old. Raises NotFound where it is gone, `Replaced` where another has its name."""
    document = store.get(seen.key)
    if document["metadata"]["uid"] != seen.uid:
        raise Replaced(f"{seen.key} with uid {seen.uid} is gone; another object has its name now")
    if document["metadata"]["resourceVersion"] == seen.metadata.resource_version:
        return seen
    return decode(type(seen), document)


def all_owned(reader: Reader, store: Store, owner: Resource, model: type[R], names: Iterable[str]) -> list[R]:
    """All of a kind that an object owns, in its namespace. `names`: those that its status knows. The store is asked for
    them where the reader does not show them: absence is never believed of a cache, which may be older than what it
    lacks. Raises InvalidObject where the stored row of such a name is damaged."""
    found = reader.owned(model, owner.uid)
    own = StoreReader(store)
    for name in sorted({*names} - {each.metadata.name for each in found}):
        missing = own.get(model, owner.metadata.namespace or "", name)
        if missing is not None and missing.is_owned_by(owner.uid):
            found.append(missing)
    return found
