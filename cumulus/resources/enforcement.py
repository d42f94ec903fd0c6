"""The three strengths of enforcement. Standard library only."""

from __future__ import annotations

from enum import StrEnum


class Enforcement(StrEnum):
    """How strongly a node holds a job to its share, weakest first."""

    NONE = "none"
    GUARDED = "guarded"
    HARD = "hard"

    def satisfies(self, least: Enforcement) -> bool:
        """Whether this is at least as strong as `least`."""
        order = list(Enforcement)
        return order.index(self) >= order.index(least)
