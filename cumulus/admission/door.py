"""Checks each write of a store, inside its transaction. Light: the first write loads the models."""

from __future__ import annotations

from cumulus.resources.key import Document
from cumulus.resources.registry import BY_NAME


def check(old: Document | None, new: Document) -> None:
    """Whether what is stored may go from `old` (None: nothing) to `new`. A kind that is not known passes. Raises
    InvalidObject."""
    kind = BY_NAME.get(new["kind"])
    if kind is None:
        return
    from cumulus.admission import admit

    if old is None:
        admit.check_create(kind, new)
        return
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    if "status" in changed:
        admit.check_status(kind, old, new)
    if changed - {"status"}:
        admit.check_update(kind, old, new)
