"""What names an object, and the version of all schemas. Standard library only."""

from __future__ import annotations

from typing import Any, NamedTuple

GROUP, VERSION = "cumulus.dev", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

DEFAULT_NAMESPACE = "default"
"""The namespace of an object that names none."""

NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""Those of Kubernetes' generated names: no vowel, so that no word comes out."""

Document = dict[str, Any]
"""An object's JSON."""


class Key(NamedTuple):
    """What names one object in a store. `namespace` is "" for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        path = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind.lower()}/{path}"


def key_of(document: Document) -> Key:
    """The key of a document. Raises KeyError where kind or metadata.name is missing."""
    metadata = document["metadata"]
    return Key(document["kind"], metadata.get("namespace") or "", metadata["name"])
