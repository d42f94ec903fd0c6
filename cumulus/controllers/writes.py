"""Small helpers for writing."""

from __future__ import annotations

from cumulus.resources.key import Document
from cumulus.resources.meta import Resource
from cumulus.store.client import Client


def write_status(client: Client, resource: Resource) -> None:
    """`Client.update_status` without the way back: nobody needs the model of what was written."""
    client.store.update_status(resource.to_json(), fence=client.fence)


def unversioned(document: Document) -> Document:
    """The document without its version: for a later write of a transaction whose first write checks it."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "resourceVersion"}
    return {**document, "metadata": metadata}
