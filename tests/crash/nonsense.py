"""Values and documents of no sense, made from a seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

VALUES: Sequence[Any] = (
    None, True, 0, -1, 1, 2**53, 1e300, "", "x", "\0", "é" * 300, "50%", "-5%", "1e999", "2030-01-01T00:00:00Z",
    "9999-99-99T99:99:99Z", "True", "Active", "Running", "[bold]", [], [None], [[]], ["x"], {}, {"": None}, {"name": 1},
)  # fmt: skip


def damage_row(document: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """With its identity as it was, for which the store answers: what else is there may be anything."""
    identity = {name: document[name] for name in ("apiVersion", "kind", "metadata")}
    rest = damage({name: value for name, value in document.items() if name not in identity}, rng)
    return {**rest, **identity}


def damage(document: Any, rng: random.Random) -> Any:
    """The document with a few of its parts gone or replaced."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        at: Any = document
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(at[key], dict | list) and rng.random() < 0.8:
                at = at[key]
                continue
            if rng.random() < 0.3:
                del at[key]
            else:
                at[key] = copy.deepcopy(rng.choice(VALUES))
            break
    return document
