"""Pack or Spread: how placement chooses among the nodes that have room."""

from __future__ import annotations

from enum import StrEnum


class Placement(StrEnum):
    """Pack leaves whole devices and nodes free for large jobs; Spread keeps neighbours apart."""

    PACK = "Pack"
    SPREAD = "Spread"
