"""The GPUNodes that the service itself reaches for somebody whom it has let: whole, and so never to be shown."""

from __future__ import annotations

from cumulus.errors import NotFound
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import gpunode
from cumulus.store.base import Store


def reached_node(store: Store, name: str) -> Document | None:
    """The GPUNode with this name as it is stored. None where there is none, or where `name` is ""."""
    if not name:
        return None
    try:
        return store.get(Key(gpunode.KIND.name, "", name))
    except NotFound:
        return None
