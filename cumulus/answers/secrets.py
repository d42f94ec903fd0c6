"""What the service tells about secrets."""

from __future__ import annotations

from typing import NamedTuple

from cumulus.secrets import MAX_BYTES

__all__ = ["MAX_BYTES", "SecretKey", "SecretMove"]


class SecretKey(NamedTuple):
    """One key of a secret; `namespace` is "" for the daemon's own. Its value never leaves the node."""

    namespace: str
    name: str
    key: str


class SecretMove(NamedTuple):
    """Where a secret from before secrets had namespaces goes: `to` has namespaces, and "" for the daemon's own."""

    name: str
    to: tuple[str, ...]
