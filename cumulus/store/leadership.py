"""Reads the leader's Lease, for those who do not write it."""

from __future__ import annotations

from cumulus.errors import BackendError, NotFound, StoreError
from cumulus.resources.key import Key
from cumulus.resources.kinds.lease import KIND, LEADER
from cumulus.store.base import Store

_KEY = Key(KIND.name, "", LEADER)


def holder_identity(store: Store) -> str:
    """Who leads, or led last; "" where nobody did."""
    try:
        return str(store.get(_KEY)["spec"].get("holderIdentity", ""))
    except StoreError:
        return ""


def store_id(store: Store) -> str:
    """A name for the store that its backups keep. Raises `BackendError` where no daemon has led on it yet."""
    try:
        return str(store.get(_KEY)["metadata"]["uid"])
    except NotFound:
        raise BackendError(
            "the store has no id yet, since no daemon has led on it", hint="start one: cumulus serve"
        ) from None
