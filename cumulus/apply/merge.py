"""The three-way merge: what was applied before, what is applied now, what is stored -> what to store. Pure.

The semantics of `kubectl apply`, with one difference, by which nothing that others set is ever lost:

* A value in the new manifest wins. A field that was applied before and is in the manifest no more goes. Every
  other field stays as it is: somebody else set it.
* Maps are merged key by key, at any depth. A map that is gone from the manifest loses the keys that were applied
  and keeps those of others, where kubectl would remove the whole map (all labels, say).
* Lists are replaced as a whole, since their items have no names; but those in KEYED_LISTS are merged item by item, by
  the field named there, as maps are: the manifest's items in its order, then those of others in theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cumulus.resources.values import KEYED_LISTS, by_name

_GONE = object()


def merge(last: Mapping[str, Any], new: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """`live` changed as one does who applied `last` before and applies `new` now. Nothing given is changed.

    `live` should not hold defaults that nobody set: they would count as set by others.
    """
    merged = _merge_maps(last, new, live, ())
    return {} if merged is _GONE else merged


def _merge_maps(last: Mapping[str, Any], new: Mapping[str, Any], live: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    merged: dict[str, Any] = {}
    for key in [*live, *(key for key in new if key not in live)]:
        value = _merge_values(last.get(key, _GONE), new.get(key, _GONE), live.get(key, _GONE), (*path, key))
        if value is not _GONE:
            merged[key] = value
    return merged


def _merge_values(last: Any, new: Any, live: Any, path: tuple[str, ...]) -> Any:
    if new is _GONE:
        return _without(last, live, path)
    if isinstance(new, Mapping):
        return _merge_maps(_map(last), new, _map(live), path)
    if path in KEYED_LISTS and isinstance(new, list):
        return _merge_items(_list(last), new, _list(live), path)
    return new


def _without(last: Any, live: Any, path: tuple[str, ...]) -> Any:
    """`live` less what was applied: the leaves of `last`, and the maps and items that are empty without them."""
    if last is _GONE or live is _GONE:
        return live
    if isinstance(last, Mapping) and isinstance(live, Mapping):
        left = _merge_maps(last, {}, live, path)
        return left if left else _GONE
    if path in KEYED_LISTS and isinstance(last, list) and isinstance(live, list):
        return _merge_items(last, [], live, path) or _GONE
    return _GONE


def _merge_items(last: list[Any], new: list[Any], live: list[Any], path: tuple[str, ...]) -> list[Any]:
    name = KEYED_LISTS[path]
    before, wanted, there = (by_name(items, name) for items in (last, new, live))
    merged = [_merge_maps(_map(before.get(key)), item, _map(there.get(key)), path) for key, item in wanted.items()]
    others = [item for key, item in there.items() if key not in wanted and key not in before]
    return merged + others


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
