"""Which changes of a job wake what it is a part of."""

from __future__ import annotations

from cumulus.machinery.informer import Change
from cumulus.resources.documents import lookup


def phase_changed(change: Change) -> bool:
    """It came, went, or is in another phase."""
    if change.type != "MODIFIED" or change.old is None:
        return True
    return bool(lookup(change.old, "status.phase") != lookup(change.new, "status.phase"))
