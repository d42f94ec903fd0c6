"""What the service tells about secrets."""

from __future__ import annotations

from typing import NamedTuple

from cumulus.secrets import MAX_BYTES

__all__ = ["MAX_BYTES", "SecretKey"]


class SecretKey(NamedTuple):
    """One key of a secret. Its value never leaves the node."""

    name: str
    key: str
