"""Objects without a kind, and what is done to them: server-side apply without defaults and rules."""

from __future__ import annotations

from typing import Any

from cumulus.apply import fieldset, ownership, server_side
from cumulus.resources.key import Document

NOW, LATER = "2030-01-01T12:00:00Z", "2030-01-01T13:00:00Z"


def thing(annotations: dict[str, str] | None = None, **spec: Any) -> Document:
    metadata = {"name": "x"} | ({"annotations": annotations} if annotations else {})
    return {"apiVersion": "v1", "kind": "Thing", "metadata": metadata, "spec": spec}


def owned(document: Document) -> dict[tuple[str, str], list[str]]:
    """Manager and operation -> the fields, as people read them."""
    owners = ownership.of(document)
    return {owner[:2]: sorted(map(fieldset.text, found.fields)) for owner, found in owners.items()}


def apply(live: Document, manager: str, config: Document, *, force: bool = False, now: str = NOW) -> Document:
    """As server-side apply, of an object without defaults."""
    owners = ownership.of(live)
    merged = server_side.merged(live, config, owners, manager)
    kept = {name: live[name] for name in ("apiVersion", "kind", "status") if name in live}
    before = live["metadata"].get("managedFields")
    metadata = {"name": "x", **merged.get("metadata", {})} | ({"managedFields": before} if before else {})
    after = {**kept, **merged, "metadata": metadata}
    change = fieldset.difference(live, after)
    return ownership.written(after, ownership.applied(owners, manager, config, live, change, now=now, force=force))
