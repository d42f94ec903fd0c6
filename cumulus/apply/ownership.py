"""Who set which field of an object: Kubernetes' managedFields, and how a write changes them. Pure.

    document = created(document, given, "kubectl-create", now=now)
    after = updated(live, after, "kubectl-edit", now=now)      # for each write of a user that is no apply
    owners = applied(of(live), "cumulus", config, live, fieldset.difference(live, after), now=now)

A manager that applies owns what it applied; one that updates, what it changed. Defaults are nobody's. Whoever changes a
value takes it from its other owners; two may own a value that both want.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cumulus.apply import fieldset
from cumulus.apply.fieldset import Difference, FieldSet
from cumulus.errors import ApplyConflict, FieldConflict, InvalidObject
from cumulus.resources.annotations import KUBECTL_LAST_APPLIED, LAST_APPLIED
from cumulus.resources.field_managers import ANCIENT, CUMULUS, KUBECTL
from cumulus.resources.key import API_VERSION, Document

MAX_UPDATERS = 10
"""Managers by update that are kept apart. The oldest beyond them become one, as in Kubernetes."""
MAX_MANAGERS = 64
MAX_NAME = 128


class FieldOwner(NamedTuple):
    """A manager in one role."""

    manager: str
    operation: str
    api_version: str = API_VERSION
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Owned:
    fields: FieldSet
    time: str = ""
    encoded: Document | None = field(default=None, compare=False)
    """The fields as they are stored, where that is known."""

    def without(self, lost: FieldSet) -> Owned:
        return self if self.fields.isdisjoint(lost) else Owned(self.fields - lost, self.time)


Owners = dict[FieldOwner, Owned]


def of(document: Mapping[str, Any]) -> Owners:
    """The owners of a stored object's fields. What an earlier version noted in an annotation counts; what cannot be
    read does not."""
    metadata = document.get("metadata") or {}
    entries = metadata.get("managedFields")
    owners: Owners = {}
    for entry in entries if isinstance(entries, list | tuple) else ():
        try:
            owner, owned = _read(entry)
        except ValueError:
            continue
        owners[owner] = owned
    applier = FieldOwner(CUMULUS, "Apply")
    note = _note(metadata, LAST_APPLIED)
    if note is not None and applier not in owners:
        owners[applier] = Owned(fieldset.fields(note))
    return owners


def written(document: Document, owners: Owners) -> Document:
    """`document` with these owners. The note of an earlier version goes, since they say the same. Raises
    InvalidObject where there are too many."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    annotations = metadata.get("annotations")
    if isinstance(annotations, Mapping) and LAST_APPLIED in annotations:
        metadata["annotations"] = {name: value for name, value in annotations.items() if name != LAST_APPLIED}
    if len(owners) > MAX_MANAGERS:
        raise InvalidObject(
            f"the object has more than {MAX_MANAGERS} field managers",
            field="metadata.managedFields", hint="forget them by setting metadata.managedFields to [{}]",
        )  # fmt: skip
    if owners:
        in_order = sorted(owners, key=lambda owner: (owner.operation, owners[owner].time, owner))
        metadata["managedFields"] = [_entry(owner, owners[owner]) for owner in in_order]
    return {**document, "metadata": metadata}


def created(document: Document, given: Mapping[str, Any], manager: str, *, now: str) -> Document:
    """A new object as somebody asked for it by `given`. Raises InvalidObject for a bad name of a manager."""
    me = FieldOwner(check_manager(manager), "Update")
    said, encoded = fieldset.encoded_fields(given)
    return written(document, {me: Owned(said, now, encoded)} if said else {})


def updated(
    live: Document, after: Document, manager: str, *, now: str, given: Mapping[str, Any] | None = None
) -> Document:
    """`live` changed to `after`, with its owners. `given`: what was said of it, where `after` has defaults too.

    managedFields in `given` are taken, where they can be read; `[]` and `[{}]` forget every owner. Raises
    InvalidObject.
    """
    me = FieldOwner(check_manager(manager), "Update")
    said = after if given is None else given
    change = fieldset.difference(live, after)
    wanted = said["metadata"].get("managedFields")
    if wanted is None or wanted == live["metadata"].get("managedFields"):
        if not change:
            return _as_it_was(after, live)
        owners = of(live)
    else:
        owners = _wanted(wanted)
    if change:
        names = change.changed if given is None else change.changed & fieldset.fields(given)
        owners = _updated(owners, me, change, names, now)
    return written(after, owners)


def applied(
    owners: Owners, manager: str, config: Mapping[str, Any], live: Mapping[str, Any], change: Difference, *,
    now: str, force: bool = False,
) -> Owners:  # fmt: skip
    """The owners once `manager` has applied `config`, which changes `live` so. The same ones where nothing changes,
    times included.

    Raises ApplyConflict, unless `force`, with each field that another owns and that would change.
    """
    me = FieldOwner(check_manager(manager), "Apply")
    if not force:
        _check_conflicts(owners, me, change, live)
    mine, encoded = fieldset.encoded_fields(config)
    same = me in owners and owners[me].fields == mine and not change
    left = {**_left(owners, me, change), me: owners[me] if same else Owned(mine, now, encoded)}
    return {owner: left[owner] for owner in [*owners, me] if left[owner].fields}


def check_manager(manager: str) -> str:
    """A name for a field manager. Raises InvalidObject."""
    if not manager or len(manager) > MAX_NAME or not manager.isprintable():
        raise InvalidObject(
            f"fieldManager must have 1 to {MAX_NAME} printable characters, got {manager[:40]!r}", field="fieldManager"
        )
    return manager


def _check_conflicts(owners: Owners, me: FieldOwner, change: Difference, live: Mapping[str, Any]) -> None:
    # What `cumulus label` and the like changed, `cumulus apply` takes back: it is one person's tool.
    mine = {me, FieldOwner(CUMULUS, "Update")} if me.manager == CUMULUS else {me}
    taken = {owner: owned.fields & change.changed for owner, owned in owners.items() if owner not in mine}
    if not any(taken.values()):
        return
    allowed = _kubectls_own(live) if me.manager == KUBECTL else frozenset()
    conflicts = [
        FieldConflict(fieldset.text(path), fieldset.plain(path), *owner, owners[owner].time)
        for owner in sorted(taken)
        for path in sorted(taken[owner] - allowed)
    ]
    if conflicts:
        raise ApplyConflict(conflicts)


def _updated(owners: Owners, me: FieldOwner, change: Difference, names: FieldSet, now: str) -> Owners:
    left = _left(owners, me, change)
    before = owners[me].fields if me in owners else frozenset()
    mine = (before - change.removed) | names
    left[me] = owners[me] if me in owners and mine == before else Owned(mine, now)
    return _capped({owner: left[owner] for owner in [*owners, me] if left[owner].fields})


def _left(owners: Owners, me: FieldOwner, change: Difference) -> Owners:
    """What the others still own."""
    lost = change.changed | change.removed
    return {owner: owned.without(lost) for owner, owned in owners.items() if owner != me}


def _capped(owners: Owners) -> Owners:
    ancient = FieldOwner(ANCIENT, "Update")
    updaters = sorted((o for o in owners if o.operation == "Update"), key=lambda o: (owners[o].time, o))
    over = len(updaters) - MAX_UPDATERS
    if over <= 0:
        return owners
    # What becomes one with `ancient` is one less; the first two become it.
    count = over if ancient in owners else over + 1
    oldest = [owner for owner in updaters if owner != ancient][:count]
    parts = [owners[owner] for owner in (*oldest, ancient) if owner in owners]
    merged = Owned(frozenset().union(*(part.fields for part in parts)), max(part.time for part in parts))
    return {ancient: merged} | {o: owned for o, owned in owners.items() if o not in oldest and o != ancient}


def _as_it_was(after: Document, live: Document) -> Document:
    """`after`, in which nothing changed: who set it has not changed either, nor has the note of an earlier version."""
    metadata = {name: value for name, value in after["metadata"].items() if name != "managedFields"}
    before = live["metadata"]
    if "managedFields" in before:
        metadata["managedFields"] = before["managedFields"]
    if LAST_APPLIED in (before.get("annotations") or {}):
        metadata["annotations"] = before["annotations"]
    return {**after, "metadata": metadata}


def _kubectls_own(live: Mapping[str, Any]) -> FieldSet:
    """What client-side `kubectl apply` noted and nobody changed since. Server-side it is in no conflict with itself."""
    note = _note(live.get("metadata") or {}, KUBECTL_LAST_APPLIED)
    if note is None:
        return frozenset()
    return fieldset.same(live, note) | {("f:metadata", "f:annotations", f"f:{KUBECTL_LAST_APPLIED}")}


def _note(metadata: Mapping[str, Any], annotation: str) -> Document | None:
    annotations = metadata.get("annotations")
    text = annotations.get(annotation) if isinstance(annotations, Mapping) else None
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _wanted(entries: Any) -> Owners:
    """Raises InvalidObject."""
    if not isinstance(entries, list | tuple):
        raise _not_readable("must be a list")
    if not entries or list(entries) == [{}]:
        return {}
    try:
        return dict(map(_read, entries))
    except ValueError as error:
        raise _not_readable(str(error)) from None


def _not_readable(problem: str) -> InvalidObject:
    return InvalidObject(f"metadata.managedFields: {problem}", field="metadata.managedFields")


def _read(entry: Any) -> tuple[FieldOwner, Owned]:
    """Raises ValueError."""
    if not isinstance(entry, Mapping) or entry.get("operation") not in ("Apply", "Update"):
        raise ValueError("each entry needs a manager, and an operation: Apply or Update")
    words = [entry.get(name) or "" for name in ("manager", "operation", "apiVersion", "subresource", "time")]
    if not all(isinstance(word, str) and len(word) <= MAX_NAME and word.isprintable() for word in words):
        raise ValueError(f"manager, apiVersion, subresource and time are texts of at most {MAX_NAME} characters")
    manager, operation, api_version, subresource, time = words
    encoded = entry.get("fieldsV1") or {}
    found = Owned(fieldset.decode(encoded), time, encoded)
    return FieldOwner(manager, operation, api_version or API_VERSION, subresource), found


def _entry(owner: FieldOwner, owned: Owned) -> Document:
    found: Document = {"manager": owner.manager, "operation": owner.operation, "apiVersion": owner.api_version}
    if owned.time:
        found["time"] = owned.time
    encoded = fieldset.encode(owned.fields) if owned.encoded is None else owned.encoded
    found |= {"fieldsType": "FieldsV1", "fieldsV1": encoded}
    return found | ({"subresource": owner.subresource} if owner.subresource else {})
