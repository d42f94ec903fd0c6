"""Finds the client of a state directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cumulus import paths

if TYPE_CHECKING:
    from cumulus.client.base import Client


def connect(home: Path, *, create: bool = False, objects: bool = True) -> Client:
    """The client of a state directory, to be used with `with`. Raises StoreUnavailable; StoreReplaced where a daemon
    has another store open.

    Without `create`, a store that is not there is not made, and there is no object then. Without `objects` the store is
    opened, and these are raised, when an object is first asked for.
    """
    from cumulus.client.embedded import EmbeddedClient

    client = EmbeddedClient.of(home, create=create)
    if objects:
        client.open()
    return client


def has_store(home: Path) -> bool:
    """Whether anything was ever stored in this state directory."""
    return paths.store_dir(home).exists()
