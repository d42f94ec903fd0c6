"""Whether two values mean the same: 60m and 1h, 0.5 and 50%, `env` in another order. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cumulus.resources import quantity

KEYED_LISTS: Mapping[tuple[str, ...], str] = {
    ("spec", "env"): "name",
    ("spec", "mounts"): "target",
    # Not the container's port, to which several of the node may lead.
    ("spec", "ports"): "hostPort",
    # The same of a template: clients of the API know one schema of both.
    ("spec", "jobTemplate", "spec", "env"): "name",
    ("spec", "jobTemplate", "spec", "mounts"): "target",
    ("spec", "jobTemplate", "spec", "ports"): "hostPort",
    ("status", "conditions"): "type",
    ("metadata", "ownerReferences"): "uid",
}
"""Path of each list whose items have names -> the field that names them: Kubernetes' lists of type map. They are merged
by item, as maps are."""

SET_LISTS = frozenset({("metadata", "finalizers")})
"""Path of each list in which a value is there once or not at all: Kubernetes' lists of type set. Every other list is
atomic: it is one value."""

_PARSERS: dict[str, Callable[[Any], object]] = {
    "duration": quantity.parse_duration,
    "share": quantity.parse_share,
    "percentage": quantity.parse_fraction,
    "bytes": quantity.parse_bytes,
    "cpus": quantity.parse_cpus,
}


def same_value(type: str, old: object, new: object) -> bool:
    """Whether values of a field of that type (a word of `schema.SchemaField.type`) are equal in meaning."""
    if old == new:
        return True
    parse = _PARSERS.get(type)
    return parse is not None and isinstance(old, str) and isinstance(new, str) and parse(old) == parse(new)


def by_name(items: list[Any], name: str) -> dict[Any, Any]:
    """The items of a list of KEYED_LISTS by what its field `name` says; those without are left out."""
    return {item[name]: item for item in items if isinstance(item, Mapping) and is_name(item.get(name))}


def is_name(value: object) -> bool:
    """Whether an item of such a list can have this name."""
    return isinstance(value, str | int) and not isinstance(value, bool)
