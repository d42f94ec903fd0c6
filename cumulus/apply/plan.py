"""Plans what applying one manifest does to one object: created, configured, unchanged, or what forbids it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cumulus.admission import immutability
from cumulus.admission.admit import refusals
from cumulus.admission.problems import Rejected
from cumulus.admission.validation import validated
from cumulus.apply.merge import merge
from cumulus.clock import to_the_second
from cumulus.errors import InvalidObject
from cumulus.manifest import Manifest, Problem
from cumulus.resources.key import Document, Key
from cumulus.resources.kind import Kind
from cumulus.resources.meta import LAST_APPLIED, Resource
from cumulus.resources.schema import root
from cumulus.store.base import Write
from cumulus.store.client import decode
from cumulus.store.codec import check_room

Action = Literal["created", "configured", "unchanged", "pruned"]


@dataclass(frozen=True, slots=True)
class Result:
    """What happened, or would happen, to one object. `str` is the line that `apply` prints.

    `before` is the object as stored (None: there was none), `after` as it is to be, or is (None: pruned).
    """

    action: Action
    kind: Kind
    key: Key
    before: Document | None
    after: Document | None

    def __str__(self) -> str:
        return f"{self.kind.qualified}/{self.key.name} {self.action}"

    def write(self) -> Write | None:
        """What makes it so; it loses with `Conflict` or `NotFound` once the object is no more as it was read."""
        if self.action == "created":
            return Write("create", self.after)
        if self.action == "configured":
            return Write("update", self.after)
        if self.action == "pruned":
            assert self.before is not None
            metadata = self.before["metadata"]
            return Write("delete", key=self.key, uid=metadata["uid"], resource_version=metadata["resourceVersion"])
        return None


def plan(manifest: Manifest, live: Document | None) -> Result | list[Problem]:
    """What applying `manifest` does where `live` is stored, or all that forbids it. Raises InvalidObject where what
    is stored is damaged."""
    if live is None:
        return _creation(manifest)
    forbidden = _forbidden(manifest, live)
    if forbidden is not None:
        return [forbidden]
    stored = decode(manifest.kind.model(), live)
    try:
        wanted = validated(manifest.kind, _merged(manifest, stored))
    except Rejected as rejected:
        return _does_not_fit(manifest, rejected)
    old, new = _fields(stored), _fields(wanted)
    if "spec" in new:
        # The manifest's word for the same value (60m for 1h) is no change.
        new["spec"] = immutability.spec_in_old_words(manifest.kind, old["spec"], new["spec"])
        changed = sorted(manifest.placed(immutability.changed(manifest.kind, manifest.key, old["spec"], new["spec"])))
        if changed:
            return changed
    kept = {name: value for name, value in live.items() if name not in old}
    after = kept | new | {"metadata": _others_metadata(live["metadata"]) | _user_metadata(wanted)}
    unchanged = old == new and _same_metadata(manifest, _user_metadata(stored), _user_metadata(wanted))
    if not unchanged and (large := _too_large(manifest, after)) is not None:
        return [large]
    action: Action = "unchanged" if unchanged else "configured"
    return Result(action, manifest.kind, manifest.key, live, live if unchanged else after)


def last_applied(document: Document) -> Document | None:
    """What `apply` applied to this object last; None where it never did, or where the note is damaged."""
    note = (document["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    try:
        found = json.loads(note) if note is not None else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _creation(manifest: Manifest) -> Result | list[Problem]:
    if refused := refusals(manifest.kind, manifest.resource):
        return manifest.placed(refused)
    document = manifest.resource.to_json()
    metadata = document["metadata"]
    metadata["annotations"] = metadata.get("annotations", {}) | {LAST_APPLIED: _note(manifest)}
    if (large := _too_large(manifest, document)) is not None:
        return [large]
    return Result("created", manifest.kind, manifest.key, None, document)


def _too_large(manifest: Manifest, document: Document) -> Problem | None:
    try:
        check_room(document, manifest.key)
    except InvalidObject as error:
        return manifest.problem((), f"{error}; {error.hint}")
    return None


def _forbidden(manifest: Manifest, live: Document) -> Problem | None:
    since = live["metadata"].get("deletionTimestamp")
    if since is None:
        return None
    word = f"{manifest.kind.name.lower()}/{manifest.key.name}"
    message = f"is being deleted since {to_the_second(since)}; wait until it is gone: cumulus wait {word} --for=delete"
    return manifest.problem(("metadata", "name"), message)


def _merged(manifest: Manifest, stored: Resource) -> Document:
    """The user's part of the stored object after the merge: labels, annotations, spec, and what a kind has in its
    place."""
    # Without defaults: a default that nobody set must not look like a value that somebody else set.
    sparse = stored.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
    last = last_applied(sparse) or {}
    live = _users_part(sparse)
    live.get("metadata", {}).get("annotations", {}).pop(LAST_APPLIED, None)
    merged = merge(_users_part(last), _users_part(manifest.document), live)
    metadata = merged.setdefault("metadata", {})
    metadata["annotations"] = metadata.get("annotations", {}) | {LAST_APPLIED: _note(manifest)}
    metadata |= _others_metadata(sparse["metadata"])
    return merged | {"apiVersion": manifest.resource.api_version, "kind": manifest.kind.name}


def _users_part(document: Mapping[str, Any]) -> Document:
    """Labels, annotations and all but metadata and status. A note that somebody damaged may hold anything: maps are
    taken as far as they are maps."""
    metadata = document.get("metadata")
    maps = {name: metadata.get(name) for name in _USERS_METADATA} if isinstance(metadata, Mapping) else {}
    part: Document = {"metadata": {name: dict(value) for name, value in maps.items() if isinstance(value, Mapping)}}
    others = {name: value for name, value in document.items() if name not in _NOT_USERS}
    return part | {name: value for name, value in others.items() if name != "spec" or isinstance(value, Mapping)}


def _does_not_fit(manifest: Manifest, rejected: Rejected) -> list[Problem]:
    said = f"does not go with what others set on {manifest.key}"
    return [manifest.problem(found.path, f"{said}: {found.message}") for found in rejected.problems]


def _fields(resource: Resource) -> Document:
    """What a user says of the object besides its labels and annotations: its spec, or a binding's role and subjects."""
    return {name: value for name, value in resource.to_json().items() if name not in _NOT_USERS}


def _user_metadata(resource: Resource) -> Document:
    metadata = resource.to_json()["metadata"]
    return {name: metadata[name] for name in _USERS_METADATA if name in metadata}


def _same_metadata(manifest: Manifest, before: Document, after: Document) -> bool:
    """Whether labels and annotations are the same, and the note of what was applied says the same in whatever words.
    An object as `get -o yaml` printed it asks for no change, so its note stays as it was: defaults and others' fields
    do not become the user's."""
    if before == after or LAST_APPLIED not in before.get("annotations", {}):
        return before == after
    same_note = manifest.printed or _says_the_same(manifest, last_applied({"metadata": before}))
    return same_note and _without_note(before) == _without_note(after)


def _says_the_same(manifest: Manifest, last: Document | None) -> bool:
    return last is not None and immutability.in_old_words(last, manifest.document, root(manifest.kind), ()) == last


def _without_note(metadata: Document) -> Document:
    annotations = {key: value for key, value in metadata["annotations"].items() if key != LAST_APPLIED}
    return metadata | {"annotations": annotations}


def _others_metadata(metadata: Document) -> Document:
    return {name: value for name, value in metadata.items() if name not in _USERS_METADATA}


def _note(manifest: Manifest) -> str:
    return json.dumps(manifest.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


_USERS_METADATA = ("labels", "annotations")
_NOT_USERS = frozenset({"apiVersion", "kind", "metadata", "status"})
