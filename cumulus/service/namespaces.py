"""Namespaces: none is ever made, each is there. Those that have something in them can be listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cumulus.resources.key import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from cumulus.service.access.access import Access
    from cumulus.service.identity import Identity
    from cumulus.store.base import Store


class Namespaces:
    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    def list(self, identity: Identity) -> tuple[Sequence[str], int]:
        """Those that objects and role bindings are in, with `default`, sorted; and the revision at which it was so.
        Raises Forbidden."""
        self._access.check(identity, "list", "namespaces")
        # Before they are read: a watch from there misses none.
        revision = self._store.revision()
        return sorted({DEFAULT_NAMESPACE, *self._store.namespaces()}), revision
