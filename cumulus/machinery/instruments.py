"""What controllers can be measured by: what the machinery tells while it works. Who wants figures makes a subclass."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cumulus.machinery.workqueue import WorkQueue


class ReconcileOutcome(Enum):
    """What came of a reconcile."""

    SUCCESS = auto()
    REQUEUE = auto()
    """It read what was stale, or another daemon leads."""
    REQUEUE_AFTER = auto()
    ERROR = auto()
    """Something that passes failed."""
    TERMINAL = auto()
    """It is given up until the object changes."""
    PANIC = auto()
    """A defect of the controller."""


class Instruments:
    """Measures nothing. Any thread calls these, some with a queue's lock held: they must not block."""

    def leads(self, queues: Mapping[str, WorkQueue], workers: Mapping[str, int]) -> None:
        """A term began: its queues, and the threads that work on each, by the controller's name. With none it ended."""

    def added(self, queue: str) -> None:
        """A key was queued that was not there."""

    def taken(self, queue: str, waited: float) -> None:
        """A worker took a key that was to be looked at for so many seconds."""

    def retried(self, queue: str) -> None:
        """A key is looked at again after a back-off."""

    def reconciled(self, controller: str, outcome: ReconcileOutcome, seconds: float) -> None:
        """A reconcile ended that took so long."""
