"""Sets of an object's fields, as Kubernetes keeps them (FieldsV1), and the values that they name. Pure.

A path is a tuple of steps, each as FieldsV1 writes it: `f:spec`, `k:{"name":"A"}` for an item of a list whose items
have names, `v:"x"` for an item of a set. A list of another kind (`args`) is one value. Only what users write is looked
at: all but status, and of metadata labels, annotations, finalizers and owners.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from cumulus.resources.annotations import LAST_APPLIED
from cumulus.resources.key import Document
from cumulus.resources.values import KEYED_LISTS, SET_LISTS, is_name

_Path = tuple[str, ...]
FieldSet = frozenset[_Path]

_Nodes = dict[_Path, Any]
"""Each value of an object by its path, and _ITEM for each item of a list that has fields of its own."""

_ITEM = object()
KNOWN, KNOWN_BYTES = 256, 4096
"""Of what is remembered, and of the JSON of each at most: objects that are made in numbers have the same few fields."""
MAX_DEPTH = 32
"""Steps of a path. The deepest field of any kind has six."""
USERS_METADATA = ("labels", "annotations", "finalizers", "ownerReferences")

_NOT_USERS = frozenset({"apiVersion", "kind", "metadata", "status"})
_METADATA = ("f:metadata",)
_GONE = object()
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _steps(names: Iterable[str]) -> _Path:
    return tuple(f"f:{name}" for name in names)


_KEYS: Mapping[_Path, str] = {_steps(path): key for path, key in KEYED_LISTS.items()}
_SETS = frozenset(map(_steps, SET_LISTS))


class Difference(NamedTuple):
    """Which fields two objects differ in."""

    changed: FieldSet
    """Those that the second has and the first has not, or with another value."""
    removed: FieldSet

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


NO_DIFFERENCE = Difference(frozenset(), frozenset())


def encode(fields: FieldSet) -> Document:
    """The set as FieldsV1."""
    tree: Document = {}
    for path in sorted(fields):
        below = tree
        for step in path:
            below = below.setdefault(step, {})
        below["."] = {}
    return _without_leaf_marks(tree)


def decode(fields: Any) -> FieldSet:
    """The set that FieldsV1 tells. Raises ValueError."""
    text = _short(fields)
    return _known_set(text) if text else _decoded(fields)


def text(path: _Path) -> str:
    """A path as Kubernetes tells it: .spec.env[name="A"].value"""
    return "".join(_step_text(step) for step in path)


def plain(path: _Path) -> tuple[str, ...]:
    """A path as admission has it, up to the first item of a list."""
    names = []
    for step in path:
        if not step.startswith("f:"):
            break
        names.append(step[2:])
    return tuple(names)


def users_part(document: Mapping[str, Any]) -> Document:
    """Of an object, what users write, without parts of metadata that are empty. What another program noted may hold
    anything: it is taken as far as it has the shape of an object."""
    found = {name: value for name, value in document.items() if name not in _NOT_USERS and value is not None}
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    parts = {name: metadata[name] for name in USERS_METADATA if metadata.get(name)}
    annotations = parts.get("annotations")
    if isinstance(annotations, Mapping) and LAST_APPLIED in annotations:
        parts["annotations"] = {name: value for name, value in annotations.items() if name != LAST_APPLIED}
        if not parts["annotations"]:
            del parts["annotations"]
    return {**found, "metadata": parts}


def fields(document: Mapping[str, Any]) -> FieldSet:
    """What somebody who applies the document sets by it: its values and its named items."""
    part = users_part(document)
    text = _short(part)
    return _known_fields(text) if text else frozenset(_nodes(part, ()))


def encoded_fields(document: Mapping[str, Any]) -> tuple[FieldSet, Document]:
    """The same, and as FieldsV1. That must not be changed: it may be another object's too."""
    part = users_part(document)
    if text := _short(part):
        return _known_fields(text), _known_encoding(text)
    found = frozenset(_nodes(part, ()))
    return found, encode(found)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference:
    """Of what users write of an object. It costs what differs, not what there is."""
    changed: set[_Path] = set()
    removed: set[_Path] = set()
    _compare(users_part(old), users_part(new), (), changed, removed)
    return Difference(frozenset(changed), frozenset(removed))


def same(old: Mapping[str, Any], new: Mapping[str, Any]) -> FieldSet:
    """The fields that both objects have, with the same value."""
    before, after = _nodes(users_part(old), ()), _nodes(users_part(new), ())
    return frozenset(path for path, value in after.items() if path in before and _equal(before[path], value))


def merge(live: Any, config: Any, path: _Path = ()) -> Any:
    """`live` with the values of `config`. Maps are merged by key at any depth, lists whose items have names by item:
    those of `config` in its order, then the others. Every other list is replaced. Nothing given is changed."""
    if isinstance(config, Mapping):
        merged = dict(live) if isinstance(live, Mapping) else {}
        for name, value in config.items():
            merged[name] = merge(merged.get(name), value, (*path, f"f:{name}"))
        return merged
    if not _has_items(path) or not isinstance(config, list | tuple) or not isinstance(live, list | tuple):
        return config
    there = {_item_step(path, item): item for item in live}
    wanted = {_item_step(path, item): item for item in config}
    if None in wanted or len(wanted) != len(config):
        # Not valid: whoever is asked next whether it is will say so.
        return config
    items = [merge(there.get(step), item, (*path, step)) for step, item in wanted.items() if step is not None]
    return items + [item for step, item in there.items() if step not in wanted]


def prune(document: Document, gone: FieldSet, held: FieldSet) -> Document:
    """`document` without the fields of `gone`, and without the maps and items that are empty then. An item goes with
    everything in it. Fields of `held` stay, and so do the maps around them."""
    gone -= held
    if not gone:
        return document
    left = _Pruning(gone, _prefixes(gone), _prefixes(held)).of(document, ())
    return {} if left is _GONE else left


class _Pruning(NamedTuple):
    gone: FieldSet
    on_the_way: FieldSet
    """Whatever has a field of `gone` in it, or is one."""
    holding: FieldSet

    def of(self, value: Any, path: _Path) -> Any:
        if path not in self.on_the_way:
            return value
        if path and path[-1][0] in "kv" and path in self.gone:
            return _GONE
        if isinstance(value, Mapping):
            # An item that stays keeps its name.
            key = _KEYS.get(path[:-1])
            left: Document = {}
            for name, below in value.items():
                kept = below if name == key else self.of(below, (*path, f"f:{name}"))
                if kept is not _GONE:
                    left[name] = kept
            return left if left or path in self.holding else _GONE
        if _has_items(path) and isinstance(value, list | tuple):
            steps = [(_item_step(path, item), item) for item in value]
            items = [item if step is None else self.of(item, (*path, step)) for step, item in steps]
            kept_items = [item for item in items if item is not _GONE]
            return kept_items if kept_items or path in self.holding else _GONE
        return _GONE if path in self.gone else value


def _nodes(value: Any, path: _Path) -> _Nodes:
    found: _Nodes = {}
    _walk(value, path, found)
    return found


def _walk(value: Any, path: _Path, found: _Nodes) -> None:
    if isinstance(value, dict) and (value or path in ((), _METADATA)):
        if path and path[-1].startswith("k:"):
            found[path] = _ITEM
        for name, below in value.items():
            if below is not None:
                _walk(below, (*path, f"f:{name}"), found)
    elif value and _has_items(path) and isinstance(value, list | tuple):
        for step, item in _items(path, value).items():
            _walk(item, (*path, step), found)
    else:
        found[path] = value


def _compare(old: Any, new: Any, path: _Path, changed: set[_Path], removed: set[_Path]) -> None:
    """The value at `path` in both objects; None where there is none."""
    if old == new:
        return
    if old and new and isinstance(old, dict) and isinstance(new, dict):
        for name in [*new, *(name for name in old if name not in new)]:
            _compare(old.get(name), new.get(name), (*path, f"f:{name}"), changed, removed)
        return
    if old and new and _has_items(path) and isinstance(old, list | tuple) and isinstance(new, list | tuple):
        before, after = _items(path, old), _items(path, new)
        for step in [*after, *(step for step in before if step not in after)]:
            _compare(before.get(step), after.get(step), (*path, step), changed, removed)
        return
    was = _nodes(old, path) if old is not None else {}
    now = _nodes(new, path) if new is not None else {}
    changed.update(path for path, value in now.items() if path not in was or not _equal(was[path], value))
    removed.update(was.keys() - now.keys())


def _prefixes(fields: FieldSet) -> FieldSet:
    return frozenset(path[:length] for path in fields for length in range(len(path) + 1))


def _has_items(path: _Path) -> bool:
    return path in _KEYS or path in _SETS


def _items(path: _Path, value: Iterable[Any]) -> dict[str, Any]:
    """Each item that has a name, by its step."""
    return {step: item for item in value if (step := _item_step(path, item)) is not None}


def _item_step(path: _Path, item: Any) -> str | None:
    """None for what is no item: it has no name."""
    if path in _SETS:
        return f"v:{_json(item)}" if isinstance(item, str) else None
    key = _KEYS[path]
    name = item.get(key) if isinstance(item, dict) else None
    return f"k:{_json({key: name})}" if is_name(name) else None


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return list(old) == list(new)
    return bool(old == new)


def _without_leaf_marks(tree: Document) -> Document:
    """A field that has no fields below it is `{}`; only one that is in the set beside them has a "."."""
    return {
        step: {} if step == "." or below.keys() == {"."} else _without_leaf_marks(below) for step, below in tree.items()
    }


def _decoded(fields: Any) -> FieldSet:
    found: set[_Path] = set()
    _decode(fields, (), found)
    return frozenset(found)


def _short(value: Any) -> bytes:
    """The JSON of what is remembered; none of what is long, or no JSON."""
    try:
        text = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return b""
    return text if len(text) <= KNOWN_BYTES else b""


@lru_cache(maxsize=KNOWN)
def _known_set(text: bytes) -> FieldSet:
    return _decoded(orjson.loads(text))


@lru_cache(maxsize=KNOWN)
def _known_fields(text: bytes) -> FieldSet:
    return frozenset(_nodes(orjson.loads(text), ()))


@lru_cache(maxsize=KNOWN)
def _known_encoding(text: bytes) -> Document:
    return encode(_known_fields(text))


def _decode(tree: Any, path: _Path, found: set[_Path]) -> None:
    if not isinstance(tree, Mapping):
        raise ValueError(f"{text(path) or 'fieldsV1'} must be a map")
    if len(path) > MAX_DEPTH:
        raise ValueError(f"has a path of more than {MAX_DEPTH} steps")
    if not tree and path:
        found.add(path)
    for step, below in tree.items():
        if step == ".":
            if path:
                found.add(path)
        else:
            _decode(below, (*path, _checked_step(str(step))), found)


def _checked_step(step: str) -> str:
    """In the one form in which the same step is the same text."""
    kind, colon, rest = step.partition(":")
    try:
        if colon and kind == "f":
            return step
        if colon and kind == "i":
            return f"i:{int(rest)}"
        if colon and kind in ("k", "v"):
            value = json.loads(rest)
            if kind == "v" or (isinstance(value, dict) and value):
                return f"{kind}:{_json(value)}"
    except (ValueError, RecursionError):
        pass
    raise ValueError(f"{step[:80]!r} is no step of a path; steps begin with f:, k:, v: or i:")


def _step_text(step: str) -> str:
    kind, _, rest = step.partition(":")
    if kind == "f":
        return f".{rest}"
    if kind == "k":
        named = ",".join(f"{name}={_json(value)}" for name, value in json.loads(rest).items())
        return f"[{named}]"
    return f"[={rest}]" if kind == "v" else f"[{rest}]"
