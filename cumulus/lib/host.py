"""Names of this machine. Standard library only."""

from __future__ import annotations

import re


def object_name(hostname: str) -> str:
    """The host's name as an object's name: lower case, what does not belong there replaced by '-'."""
    name = re.sub(r"[^a-z0-9.-]+", "-", hostname.lower()).strip("-.")
    return re.sub(r"-*\.[-.]*", ".", name)[:253] or "node"
