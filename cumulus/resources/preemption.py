"""How a job gives up its share where the queue whose quota that is needs it."""

from __future__ import annotations

from enum import StrEnum


class Preemptible(StrEnum):
    CHECKPOINT = "Checkpoint"
    """It is asked for a checkpoint, ends, and goes on from there."""
    KILL = "Kill"
    """It gets the stop signal, and begins anew."""
