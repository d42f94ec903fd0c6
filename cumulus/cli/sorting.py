"""Sorts what `get` shows: by a field that a person names, else as the kind says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.quantity import parse_bytes, parse_cpus, parse_duration, parse_fraction

if TYPE_CHECKING:
    from cumulus.resources.jsonpath import JsonPath


def parse_order(path: str, kinds: Sequence[Kind]) -> JsonPath | None:
    """The field to sort by. Raises UsageError, also where none of `kinds` has it."""
    if not path:
        return None
    from cumulus.resources.jsonpath import JsonPath

    order = JsonPath(path)
    order.check(kinds)
    return order


def in_order(kind: Kind, documents: list[Document], order: JsonPath | None) -> list[Document]:
    """Sorted by a field where asked, else as the kind says."""
    if order is not None:
        keys = ranks([order.find(document) for document in documents])
        return [document for _, document in sorted(zip(keys, documents, strict=True), key=lambda pair: pair[0])]
    return sorted(documents, key=kind.order) if kind.order is not None else documents


_READERS: tuple[Callable[[str], float], ...] = (
    lambda text: float(parse_fraction(text)),
    parse_cpus,
    parse_bytes,
    parse_duration,
)
_Rank = tuple[int, float, str]


def ranks(rows: Sequence[Sequence[Any]]) -> list[list[_Rank]]:
    """What to sort by: text as the first measure that reads all texts of the column, so that 500Mi comes before 2Gi and
    90s before 1h; else as text. Numbers come before text, so that mixed values still have an order."""
    texts = {value for row in rows for value in row if isinstance(value, str)}
    sizes = next((sizes for reader in _READERS if (sizes := _read(texts, reader)) is not None), {})

    def rank(value: Any) -> _Rank:
        size = value if isinstance(value, int | float) else sizes.get(value) if isinstance(value, str) else None
        if size is None:
            # Lists and objects have no order.
            return 1, 0.0, "" if isinstance(value, dict | list) else str(value)
        return 0, float(size), ""

    return [[rank(value) for value in row] for row in rows]


def _read(texts: set[str], reader: Callable[[str], float]) -> dict[str, float] | None:
    try:
        return {text: reader(text) for text in texts}
    except ValueError:
        return None
