"""The policies by which the daemon places, for what the service works out itself: it must come to the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus import job_limit
from cumulus.resources.queue import Queue
from cumulus.resources.queue_usage import QueueUsage
from cumulus.scheduling.fair import with_queues
from cumulus.scheduling.policy import Policies, policies_of
from cumulus.scheduling.queues import Accounts, Book, Tree


def policies(home: Path, queues: Sequence[Queue], usages: Sequence[QueueUsage]) -> Policies:
    """Those of the daemon of that state directory, with these queues."""
    return with_queues(policies_of(job_limit.recall(home)), Book(Tree(queues), Accounts(usages)))
