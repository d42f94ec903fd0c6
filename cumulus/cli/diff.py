"""What an apply would change, as a unified diff of YAML for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from cumulus.client.base import Applied
from cumulus.manifest import dump
from cumulus.resources.annotations import LAST_APPLIED
from cumulus.resources.key import Document


def diff(results: Iterable[Applied]) -> str:
    """The differences of a dry run's results, "" where there is none. Status, the server's metadata and the note of
    an earlier version's apply are left out."""
    return "".join(_differences(result) for result in results)


def _differences(result: Applied) -> str:
    before, after = _lines(result.before), _lines(result.after)
    path = f"{result.key.kind.lower()}/{result.key.namespace or '-'}/{result.key.name}"
    return "".join(difflib.unified_diff(before, after, f"live/{path}", f"merged/{path}"))


def _lines(document: Document | None) -> list[str]:
    if document is None:
        return []
    shown = {name: value for name, value in document.items() if name != "status"}
    metadata = {name: document["metadata"][name] for name in _SHOWN if document["metadata"].get(name)}
    annotations = {key: value for key, value in metadata.pop("annotations", {}).items() if key != LAST_APPLIED}
    if annotations:
        metadata["annotations"] = annotations
    shown["metadata"] = metadata
    return dump(_sorted(shown)).splitlines(keepends=True)


def _sorted(value: Any) -> Any:
    """Keys in one order on both sides, whatever order the store keeps."""
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


_SHOWN = ("name", "namespace", "labels", "annotations")
