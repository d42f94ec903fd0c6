"""Whether two texts say the same: 60m and 1h, 0.5 and 50%, 1Gi and 1024Mi. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cumulus.resources import quantity

_PARSERS: dict[str, Callable[[Any], object]] = {
    "duration": quantity.parse_duration,
    "share": quantity.parse_share,
    "percentage": quantity.parse_fraction,
    "bytes": quantity.parse_bytes,
    "cpus": quantity.parse_cpus,
}


def same_value(type: str, old: object, new: object) -> bool:
    """Whether values of a field of that type (a word of `schema.Field.type`) are equal in meaning."""
    if old == new:
        return True
    parse = _PARSERS.get(type)
    return parse is not None and isinstance(old, str) and isinstance(new, str) and parse(old) == parse(new)
