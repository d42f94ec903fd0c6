"""Plans what applying one manifest does to one object: created, configured, unchanged, or what forbids it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal

from cumulus.admission.admit import refusals
from cumulus.admission.problems import Rejected
from cumulus.apply import server_side
from cumulus.apply.server_side import Applier
from cumulus.clock import to_the_second
from cumulus.errors import ApplyConflict, FieldConflict, InvalidObject
from cumulus.manifest import Manifest, Problem
from cumulus.resources.key import Document, Key
from cumulus.resources.kind import Kind
from cumulus.store.base import Write
from cumulus.store.codec import check_room

_Action = Literal["created", "configured", "unchanged", "pruned", "recreated"]


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What happened, or would happen, to one object. `str` is the line that `apply` prints.

    `before` is the object as stored (None: there was none), `after` as it is to be, or is (None: pruned).
    """

    action: _Action
    kind: Kind
    key: Key
    before: Document | None
    after: Document | None

    def __str__(self) -> str:
        return f"{self.kind.qualified}/{self.key.name} {self.action}"

    def write(self) -> Write | None:
        """What makes it so, None where that is nothing or several; it loses with `Conflict` or `NotFound` once the
        object is no more as it was read."""
        if self.action == "created":
            return Write("create", self.after)
        if self.action == "configured":
            return Write("update", self.after)
        if self.action == "pruned":
            assert self.before is not None
            metadata = self.before["metadata"]
            return Write("delete", key=self.key, uid=metadata["uid"], resource_version=metadata["resourceVersion"])
        return None


def plan(manifest: Manifest, live: Document | None, by: Applier) -> ApplyResult | list[Problem]:
    """What applying `manifest` does where `live` is stored, or all that forbids it. Raises InvalidObject where what
    is stored is damaged."""
    if live is None:
        return _creation(manifest, by)
    forbidden = _forbidden(manifest, live)
    if forbidden is not None:
        return [forbidden]
    try:
        change = server_side.combined(manifest.kind, manifest.document, live, by.manager)
    except Rejected as rejected:
        return _does_not_fit(manifest, rejected)
    if immutable := change.immutable(manifest.kind):
        made = _creation(manifest, by) if by.recreate else sorted(manifest.placed(immutable))
        return replace(made, action="recreated", before=live) if isinstance(made, ApplyResult) else made
    if manifest.printed and not change.difference:
        # An object as `get -o yaml` printed it asks for no change, so defaults and others' fields do not become the
        # user's.
        return ApplyResult("unchanged", manifest.kind, manifest.key, live, live)
    try:
        after = server_side.owned(change, manifest.document, by)
    except ApplyConflict as error:
        return [_conflict(manifest, conflict) for conflict in error.conflicts]
    if after is live:
        return ApplyResult("unchanged", manifest.kind, manifest.key, live, live)
    if (large := _too_large(manifest, after)) is not None:
        return [large]
    return ApplyResult("configured", manifest.kind, manifest.key, live, after)


def immutable(manifest: Manifest, live: Document, manager: str) -> bool:
    """Whether applying `manifest` would change immutable fields of what is stored."""
    try:
        change = server_side.combined(manifest.kind, manifest.document, live, manager)
    except Rejected:
        return False
    return bool(change.immutable(manifest.kind))


def _creation(manifest: Manifest, by: Applier) -> ApplyResult | list[Problem]:
    if refused := refusals(manifest.kind, manifest.resource):
        return manifest.placed(refused)
    document = server_side.created(manifest.resource.to_json(), manifest.document, by)
    if (large := _too_large(manifest, document)) is not None:
        return [large]
    return ApplyResult("created", manifest.kind, manifest.key, None, document)


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


def _does_not_fit(manifest: Manifest, rejected: Rejected) -> list[Problem]:
    said = f"does not go with what others set on {manifest.key}"
    return [manifest.problem(found.path, f"{said}: {found.message}") for found in rejected.problems]


def _conflict(manifest: Manifest, conflict: FieldConflict) -> Problem:
    # A part of a list has no place of its own.
    part = "" if conflict.field == f".{'.'.join(conflict.path)}" else f" ({conflict.field})"
    since = f" at {conflict.time}" if conflict.time else ""
    message = (
        f"has another value, which {json.dumps(conflict.manager, ensure_ascii=False)} set{since}{part}; take it out of "
        "the manifest, or take it over with --force-conflicts"
    )
    return manifest.problem(conflict.path, message)
