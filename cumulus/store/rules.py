"""What a write does to an object: pure functions that every store shares.

`plan` takes the writes of a transaction and a way to read what is stored, and returns the rows to append and
the documents to answer with. It reads no clock and writes nowhere, so that a store has only to keep rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cumulus.errors import AlreadyExists, Conflict, CumulusError, Fenced, InvalidObject, NotFound, Replaced
from cumulus.resources.documents import owners
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import lease
from cumulus.store.base import Admission, Fence, Write
from cumulus.store.codec import ADDED, DELETED, MODIFIED, LogRow, canonical, check_room, encode, has_room

LEASE_KIND = lease.KIND.name
_OWN = frozenset(
    ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion")
)
"""Metadata that only the store sets."""

Read = Callable[[Key], Document | None]
"""What is stored under a key. The document is never changed by these rules."""


@dataclass(slots=True)
class Transaction:
    """`rows` to append in order; `answers`, one document (as bytes) for each write; `current`, each key's new
    state (None: gone), which later transactions of the same batch read."""

    rows: list[LogRow] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    current: dict[Key, Document | None] = field(default_factory=dict)


def prepare(
    writes: Sequence[Write],
    fence: Fence | None,
    read: Read,
    *,
    revision: int,
    now: str,
    new_uid: Callable[[], str],
    admission: Admission | None = None,
) -> Transaction:
    """The transaction's rows, numbered from `revision` + 1. Raises what `Store.transact` raises, with `index`."""
    made = Transaction()

    def current(key: Key) -> Document | None:
        return made.current[key] if key in made.current else read(key)

    if fence is not None:
        check_fence(fence, read)
    for index, write in enumerate(writes):
        try:
            _apply(made, write, current, revision + len(made.rows) + 1, now, new_uid, admission)
        except CumulusError as error:
            error.index = index  # type: ignore[attr-defined]
            raise
    return made


def keys(writes: Sequence[Write]) -> list[Key]:
    """The keys that well-formed writes name, to read ahead. They are checked when their turn comes."""
    found = []
    for write in writes:
        with suppress(AttributeError, KeyError, TypeError):
            key = write.target
            if all(type(part) is str for part in key):
                found.append(key)
    return found


def check_fence(fence: Fence, read: Read) -> None:
    """Raises Fenced unless the Lease named holds the token."""
    key = Key(LEASE_KIND, fence.namespace, fence.name)
    lease = read(key)
    spec = lease.get("spec") if lease is not None else None
    held = spec.get("token") if isinstance(spec, dict) else None
    if held != fence.token:
        raise Fenced(f"{key} has token {held}, this writer's token {fence.token} is no longer the leader's")


def new_uid() -> str:
    """A random UUID (RFC 9562, version 4). The uuid module would cost each command milliseconds to import."""
    text = f"{int.from_bytes(os.urandom(16)) & ~(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def not_found(key: Key) -> NotFound:
    """In one line, whatever the key holds."""
    return NotFound(f"{key} is not there" if str(key).isprintable() else f"{str(key)!r} is not there")


def owner_uids(document: Document) -> frozenset[str]:
    """The uids in ownerReferences."""
    return frozenset(reference["uid"] for reference in owners(document))


def checked_key(document: Any) -> Key:
    """The key of a document that is well-formed enough to be stored. Raises InvalidObject, naming the field."""
    if not isinstance(document, dict):
        raise InvalidObject(f"an object is a JSON object, not {type(document).__name__}")
    kind = _text(document, "kind", "kind")
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise InvalidObject(f"{kind}: metadata must be an object with a name", field="metadata")
    name = _text(metadata, "name", "metadata.name")
    namespace = metadata.get("namespace")
    if namespace is not None and not (isinstance(namespace, str) and _is_plain(namespace)):
        raise _wrong(kind, name, "metadata.namespace", "a text of printable characters without '/'")
    for part in ("labels", "annotations"):
        pairs = metadata.get(part)
        if pairs is not None and not _is_text_map(pairs):
            raise _wrong(kind, name, f"metadata.{part}", "a map of text to text")
    finalizers = metadata.get("finalizers")
    if finalizers is not None and not (_is_list_of(finalizers, str) and all(map(str.isprintable, finalizers))):
        raise _wrong(kind, name, "metadata.finalizers", "a list of text of printable characters")
    _check_owners(kind, name, metadata.get("ownerReferences"))
    return Key(kind, namespace or "", name)


def _check_owners(kind: str, name: str, given: Any) -> None:
    if given is None:
        return
    if not _is_list_of(given, dict) or not all(isinstance(owner.get("uid"), str) for owner in given):
        raise _wrong(kind, name, "metadata.ownerReferences", "a list of objects that each have a uid")


def _text(part: dict[str, Any], name: str, path: str) -> str:
    value = part.get(name)
    if not isinstance(value, str) or not value or not _is_plain(value):
        raise InvalidObject(f"an object needs {path}, a text of printable characters without '/'", field=path)
    return value


def _is_plain(value: str) -> bool:
    """Names stand in paths and in one-line messages."""
    return value.isprintable() and "/" not in value


def _wrong(kind: str, name: str, path: str, right: str) -> InvalidObject:
    return InvalidObject(f"{kind.lower()}/{name}: {path} must be {right}", field=path)


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)


def _apply(
    made: Transaction,
    write: Write,
    current: Read,
    revision: int,
    now: str,
    new_uid: Callable[[], str],
    admission: Admission | None,
) -> None:
    if write.verb == "delete":
        if write.key is None:
            raise InvalidObject("a delete needs a key")
        key = write.key
        stored = _found(key, current(key))
        _check_preconditions(key, stored, write.uid, write.resource_version)
        kind, document = _deleted(stored, now, write.grace_seconds)
    else:
        key = checked_key(write.document)
        given: Document = write.document  # type: ignore[assignment]
        if write.verb == "create":
            if current(key) is not None:
                raise AlreadyExists(f"{key} is there already")
            document = _created(given, now, new_uid())
            check_room(document, key)
            if admission is not None:
                admission(None, document)
            _append(made, revision, ADDED, 0, key, document)
            return
        if write.verb not in ("update", "status"):
            raise InvalidObject(f"a write is create, update, status or delete, not {write.verb!r}")
        stored = _found(key, current(key))
        metadata = given["metadata"]
        _check_preconditions(key, stored, write.uid or metadata.get("uid"), write.resource_version)
        _check_preconditions(key, stored, None, metadata.get("resourceVersion"))
        if write.verb == "status":
            kind, document = MODIFIED, _with_status(stored, given.get("status"))
        else:
            kind, document = _updated(key, stored, given)
            if _users(document) != _users(stored) and has_room(stored, key):
                # An object from before there was this limit can still be suspended and labelled.
                check_room(document, key)
    blob = encode(document, key)
    if kind == MODIFIED and blob == encode(stored, key):
        made.answers.append(blob)
        return
    if admission is not None and kind == MODIFIED and write.verb != "delete":
        admission(stored, document)
    previous = int(stored["metadata"]["resourceVersion"])
    _append(made, revision, kind, previous, key, document)


def _append(made: Transaction, revision: int, type: int, previous: int, key: Key, document: Document) -> None:
    document["metadata"]["resourceVersion"] = str(revision)
    blob = encode(document, key)
    made.rows.append(LogRow(revision, type, previous, key, blob))
    made.answers.append(blob)
    made.current[key] = None if type == DELETED else document


def _found(key: Key, stored: Document | None) -> Document:
    if stored is None:
        raise not_found(key)
    return stored


def _check_preconditions(key: Key, stored: Document, uid: str | None, version: str | None) -> None:
    metadata = stored["metadata"]
    if uid and uid != metadata["uid"]:
        raise Replaced(f"{key} with uid {uid} is gone; another object has its name now")
    if version and version != metadata["resourceVersion"]:
        raise Conflict(
            f"{key} changed since it was read: version {version} was given, {metadata['resourceVersion']} is stored",
            hint="read it again and repeat the change",
        )


def _created(given: Document, now: str, uid: str) -> Document:
    """The new object: status is kept, so that objects made by controllers need one write."""
    metadata = _given_metadata(given)
    metadata |= {"uid": uid, "creationTimestamp": now, "generation": 1}
    document = {**given, "metadata": metadata}
    if document.get("status") is None:
        document.pop("status", None)
    return document


def _updated(key: Key, stored: Document, given: Document) -> tuple[int, Document]:
    old = stored["metadata"]
    metadata = _given_metadata(given) | {name: old[name] for name in _OWN if name in old}
    deleting = "deletionTimestamp" in old
    if deleting:
        added = set(metadata.get("finalizers", ())) - set(old.get("finalizers", ()))
        if added:
            raise InvalidObject(
                f"{key} is being deleted: no finalizer can be added ({', '.join(sorted(added))})",
                field="metadata.finalizers",
            )
    document = _with_status({**given, "metadata": metadata}, stored.get("status"))
    if _body(document, key) != _body(stored, key):
        document["metadata"]["generation"] = old["generation"] + 1
    gone = deleting and not metadata.get("finalizers")
    return (DELETED if gone else MODIFIED), document


def _deleted(stored: Document, now: str, grace: int) -> tuple[int, Document]:
    metadata = dict(stored["metadata"])
    if not metadata.get("finalizers"):
        return DELETED, {**stored, "metadata": metadata}
    known = metadata.get("deletionGracePeriodSeconds", 0)
    metadata["deletionGracePeriodSeconds"] = min(filter(None, (known, grace)), default=0)
    metadata.setdefault("deletionTimestamp", now)
    return MODIFIED, {**stored, "metadata": metadata}


def _users(document: Document) -> Document:
    """What users write of an object, and who set what of it."""
    metadata = document["metadata"]
    mine = {name: value for name, value in document.items() if name not in ("metadata", "status")}
    return mine | {name: metadata.get(name) for name in ("labels", "annotations", "managedFields")}


def _with_status(document: Document, status: Any) -> Document:
    changed = {**document, "metadata": dict(document["metadata"])}
    changed.pop("status", None)
    if status is not None:
        changed["status"] = status
    return changed


def _given_metadata(given: Document) -> dict[str, Any]:
    """What a writer may set, without empty parts: absent and empty labels are the same."""
    return {
        name: value
        for name, value in given["metadata"].items()
        if name not in _OWN and value is not None and value not in ("", {}, [], ())
    }


def _body(document: Document, key: Key) -> bytes:
    return canonical({name: value for name, value in document.items() if name not in ("metadata", "status")}, key)
