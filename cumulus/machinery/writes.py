"""Writes of controllers that are no plain update: a status alone, an end with its event, removing a finalizer."""

from __future__ import annotations

from collections.abc import Sequence

from cumulus.errors import AlreadyExists
from cumulus.resources.finalizers import without_finalizer
from cumulus.resources.key import Document
from cumulus.resources.meta import Resource
from cumulus.store.base import Write
from cumulus.store.client import StoreClient


def write_status(client: StoreClient, resource: Resource) -> None:
    """`StoreClient.update_status` without the way back: nobody needs the model of what was written."""
    client.store.update_status(resource.to_json(), fence=client.fence)


def write_with_events(client: StoreClient, writes: Sequence[Write], events: Sequence[Write]) -> None:
    """The writes and, in the same transaction, the events that tell of them: for ends, which nobody must miss because a
    daemon died in between. Events that are there already were told before."""
    try:
        client.store.transact([*writes, *events], fence=client.fence)
    except AlreadyExists:
        client.store.transact(writes, fence=client.fence)


def remove_finalizer(client: StoreClient, resource: Resource, finalizer: str) -> None:
    """Take the finalizer off that very object, whatever else was changed on it since it was read."""
    if finalizer not in resource.metadata.finalizers:
        return
    found = client.store.get(resource.key)
    if found["metadata"]["uid"] == resource.uid:
        client.store.update(without_finalizer(found, finalizer), fence=client.fence)


def unversioned(document: Document) -> Document:
    """The document without its version: for a later write of a transaction whose first write checks it."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "resourceVersion"}
    return {**document, "metadata": metadata}
