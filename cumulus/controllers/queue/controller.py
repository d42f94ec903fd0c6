"""Writes the status of all queues from one snapshot: one key for all of them, since each share counts in several.

Who goes first is decided by the binding controller, from the same figures; nothing depends on what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cumulus.clock import Clock, timestamp
from cumulus.controllers.live_claims import LiveClaims
from cumulus.errors import Conflict, NotFound
from cumulus.machinery.cache import Reader
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.resources.node import GPUNode
from cumulus.resources.queue import Queue, QueueStatus
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.queue_usage import QueueUsage
from cumulus.scheduling.queues import QueueAccounts, Standings, Tree
from cumulus.scheduling.snapshot import Assembler, Gang, Snapshot
from cumulus.store.base import Write
from cumulus.store.client import StoreClient

NAME = "queue"
ALL = Request("", "queues")
"""The controller's only key."""

SETTLE = 1.0
"""Seconds after a change until the figures are written: one write for all that changes meanwhile."""
REFRESH = 60.0
"""Seconds until they are counted again though nothing changed: use grows with time."""


class QueueReconciler:
    def __init__(self, reader: Reader, client: StoreClient, clock: Clock) -> None:
        self._reader = reader
        self._claims = LiveClaims(reader)
        self._assembler = Assembler()
        self._client = client
        self._clock = clock

    def reconcile(self, request: Request) -> Result:
        queues = self._reader.all(Queue)
        if not queues:
            return Done()
        claims = self._claims.refreshed()
        snapshot = self._assembler.assemble(self._reader.all(GPUNode), claims, self._clock.now())
        tree = Tree(queues)
        found = statuses(tree, Standings(tree, QueueAccounts(self._reader.all(QueueUsage)), snapshot), snapshot)
        changed = [q.replace(status=found[q.metadata.name]) for q in queues if found[q.metadata.name] != q.status]
        for queue in changed:
            try:
                self._client.store.transact([Write("status", queue.to_json())], fence=self._client.fence)
            except (Conflict, NotFound):
                return RequeueAfter(SETTLE)
        return RequeueAfter(REFRESH)


def statuses(tree: Tree, standings: Standings, snapshot: Snapshot) -> Mapping[str, QueueStatus]:
    """What is true of each queue. Use is told to a tenth of an hour: unchanged status is not written."""
    waiting = _waiting(tree, snapshot.pending)
    return {name: _status(tree, standings, name, waiting.get(name, [])) for name in tree.names}


def _waiting(tree: Tree, pending: Iterable[Gang]) -> Mapping[str, list[Gang]]:
    found: dict[str, list[Gang]] = {}
    for gang in pending:
        for rules in tree.path(gang.queue or DEFAULT_QUEUE):
            found.setdefault(rules.name, []).append(gang)
    return found


def _status(tree: Tree, standings: Standings, name: str, waiting: list[Gang]) -> QueueStatus:
    standing, rules = standings.queue(name), tree.rules(name)
    held = sum(standing.held.values())
    quota = sum(min(cap.thousandths, cap.of(standing.held)) for cap in rules.quota)
    promises = [gang.promised for gang in waiting if gang.promised is not None]
    return QueueStatus(
        held=held / 1000,
        borrowed=(held - quota) / 1000 if rules.quota else 0,
        used=round(standing.used / 3600, 1),
        waiting=len(waiting),
        next_promise=timestamp(min(promises)) if promises else None,
    )
