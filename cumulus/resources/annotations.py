"""Annotations that clients and the service keep on objects. Standard library only."""

import json
from collections.abc import Mapping
from typing import Any

LAST_APPLIED = "cumulus.dev/last-applied-configuration"
"""Of versions of `cumulus apply` from before there were managedFields, which say the same. It goes with the next
change."""

KUBECTL_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Of client-side `kubectl apply`."""
SUBMISSION = "cumulus.dev/submission"
"""Of a job that was submitted with an idempotency key: the key's hash. See `service.submissions`."""

SAME_DIRECTORY = "cumulus.dev/same-directory"
"""Of a job without an image: the nodes, with commas, on which its directory was found to be the same as where it was
submitted. See `service.directories`."""

TERMINAL_SIZE = "cumulus.dev/terminal-size"
"""Of a job at a terminal: `COLUMNSxROWS` of the one at which it was submitted, which its own has from the start."""

SYNC_REQUESTED = "cumulus.dev/sync-requested"
"""Of a Source: another value has its repository asked at once."""
UNPARK_REQUESTED = "cumulus.dev/unpark-requested"
"""Of a job: another value has it come back, if it was parked for want of work."""
APPROVED_BY = "cumulus.dev/approved-by"
"""Of a Source: who set spec.approve. The service writes it."""
PINNED_BY = "cumulus.dev/pinned-by"
"""Of a Source: who set spec.pin. The service writes it."""
EDITED_BY = "cumulus.dev/edited-by"
"""Of an object of a Source: who set something of it by hand, by field manager. The service writes it."""

DELETED_BY = "cumulus.dev/deleted-by"
"""Of the event that an object of a Source was deleted by hand: by whom. The service writes it."""


def editors_of(document: Mapping[str, Any]) -> dict[str, str]:
    """People by the field manager with which they set something; none where nobody knows."""
    text = (document["metadata"].get("annotations") or {}).get(EDITED_BY)
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return {str(manager): str(name) for manager, name in found.items()} if isinstance(found, dict) else {}


def terminal_size(annotations: Mapping[str, Any]) -> tuple[int, int] | None:
    """Columns and rows; None where nobody said, or said what no terminal can have."""
    columns, _, rows = str(annotations.get(TERMINAL_SIZE, "")).partition("x")
    if not all(number.isascii() and number.isdigit() and len(number) <= 5 for number in (columns, rows)):
        return None
    size = int(columns), int(rows)
    return size if all(0 < number < 2**16 for number in size) else None
