"""Small helpers for the writes of a transaction."""

from __future__ import annotations

from cumulus.resources.key import Document


def unversioned(document: Document) -> Document:
    """The document without its version: for a later write of a transaction whose first write checks it."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "resourceVersion"}
    return {**document, "metadata": metadata}
