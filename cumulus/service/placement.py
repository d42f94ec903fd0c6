"""The policies by which the daemon places, for what the service works out itself: it must come to the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus import job_limit
from cumulus.resources.queue import Queue
from cumulus.resources.queue_usage import QueueUsage
from cumulus.resources.reservation import Reservation
from cumulus.scheduling.fair import with_queues
from cumulus.scheduling.policy import Policies, policies_of
from cumulus.scheduling.queues import Book, QueueAccounts, Tree
from cumulus.scheduling.snapshot import Snapshot
from cumulus.scheduling.windows import plan, with_windows


def policies(
    home: Path, queues: Sequence[Queue], usages: Sequence[QueueUsage], reservations: Sequence[Reservation],
    snapshot: Snapshot,
) -> Policies:  # fmt: skip
    """Those of the daemon of that state directory, with these queues and reservations."""
    book = Book(Tree(queues), QueueAccounts(usages))
    return with_windows(with_queues(policies_of(job_limit.recall(home)), book), plan(reservations, snapshot, book.tree))
