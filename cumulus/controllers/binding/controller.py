"""The binding controller, which people see as `schedule`: one key for the whole queue. Builds a snapshot, asks
`scheduling` where each gang goes, writes it.

A gang's bindings are one transaction, each with its partition's version as precondition. A cycle never starts before
the reader shows the last cycle's writes, so that no share is given twice; the node's ledger would refuse it anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import structlog

from cumulus.clock import Clock, timestamp
from cumulus.controllers.binding.promised import by_partition, tell_of_late
from cumulus.controllers.binding.reclaimed import ReclaimWriter
from cumulus.controllers.context import Placed, nobody_told
from cumulus.controllers.live_claims import LiveClaims
from cumulus.errors import Conflict, InvalidObject, NotFound
from cumulus.machinery.cache import Reader, readable
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.machinery.recorder import EventRecorder
from cumulus.machinery.writes import unversioned
from cumulus.resources.conditions import condition_set
from cumulus.resources.finalizers import with_finalizer
from cumulus.resources.key import Key
from cumulus.resources.meta import condition
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import FINALIZER, GPUPartition, PartitionPhase
from cumulus.resources.queue import Queue
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.queue_usage import QueueUsage
from cumulus.resources.reasons import PartitionCondition, PartitionReason
from cumulus.resources.reservation import Reservation
from cumulus.scheduling import windows
from cumulus.scheduling.cycle import Binding, Cycle, Refusal
from cumulus.scheduling.fair import with_queues
from cumulus.scheduling.node_reasons import Explainer, NodeReason
from cumulus.scheduling.policy import DEFAULT, Policies
from cumulus.scheduling.promises import PromiseChange
from cumulus.scheduling.queues import Book, QueueAccounts, Tree
from cumulus.scheduling.snapshot import Assembler, Gang, Snapshot
from cumulus.scheduling.windows import Planned
from cumulus.store.base import Query, Write
from cumulus.store.client import StoreClient

log = structlog.get_logger("cumulus.controllers")

NAME = "schedule"
QUEUE = Request("", "queue")
"""The controller's only key."""

VISIBLE_WITHIN = 0.05
"""Seconds before the reader is looked at again where it lags behind what this controller wrote."""

REST = 9.0
LONGEST_REST = 3.0
"""After a cycle the controller rests for so many times as long as it thought, and no longer than that many seconds:
what happens meanwhile is one cycle's work, and a long queue does not keep the other controllers from theirs."""

GANGS_PER_WRITE = 64

EXPLAINED_PER_PASS = 64
"""How many waiting gangs get their reasons worked out in one cycle; the rest comes with the next ones."""

EXPLAINED_AFTER = 1.0
"""Seconds in the queue before a gang's reasons are written down: most leave it sooner."""

NAMED_NODES = 5
"""How many nodes a condition names for each reason."""


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A gang that waits, and why."""

    gang: Gang
    reason: str
    message: str


class BindingReconciler:
    def __init__(
        self, reader: Reader, client: StoreClient, clock: Clock, policies: Policies = DEFAULT,
        placed: Placed = nobody_told, recorder: EventRecorder | None = None,
    ) -> None:  # fmt: skip
        self._placed = placed
        self._recorder = recorder
        self._tree: tuple[object, Tree] = ((), Tree(()))
        self._reader = reader
        self._client = client
        self._clock = clock
        self._policies = policies
        self._claims = LiveClaims(reader)
        self._reclaim = ReclaimWriter(reader, self._write_all, recorder, NAME)
        self._assembler = Assembler()
        self._written = 0
        self._unanswered = False
        """Whether the answer to a write was lost: it may have been done, at a revision that is not known."""
        self._explain_from = 0
        self._not_before = 0.0

    @property
    def rest(self) -> float:
        """Seconds until a new cycle may begin, 0 when it may now."""
        return max(0.0, self._not_before - self._clock.monotonic())

    def reconcile(self, request: Request) -> Result:
        began = self._clock.monotonic()
        if began < self._not_before:
            return RequeueAfter(self._not_before - began)
        if self._unanswered:
            self._written = self._client.store.list(Query(GPUPartition.KIND, limit=1)).revision
            self._unanswered = False
        if self._reader.revision < self._written:
            return RequeueAfter(VISIBLE_WITHIN)
        claims = self._claims.refreshed()
        snapshot = self._assembler.assemble(self._reader.all(GPUNode), claims, self._clock.now())
        book = self._book()
        planned = windows.plan(self._reader.all(Reservation), snapshot, book.tree)
        policies = windows.with_windows(with_queues(self._policies, book), planned)
        cycle = Cycle(snapshot, policies)
        unplaced, refusals, young = self._place(snapshot, cycle)
        ended = self._clock.monotonic()
        self._not_before = ended + min(LONGEST_REST, REST * (ended - began))
        # What is held is said before anybody is bound by it. Where that changed meanwhile, this cycle looked too early.
        if not self._hold(planned):
            return RequeueAfter(VISIBLE_WITHIN)
        bound = self._bind_all(list(_gangs(cycle.bindings)), counts=bool(book.tree))
        self._placed(cycle.bindings, refusals, snapshot.now)
        told = self._refuse(unplaced, cycle.promises.moved)
        told = self._reclaim.write(cycle.victims, snapshot) and told
        if not (bound and told) or cycle.promises.unsettled:
            # The change that made it stale need not be one that wakes this controller, as that of a label.
            return RequeueAfter(VISIBLE_WITHIN)
        waits = [EXPLAINED_AFTER] if young or self._explain_from else []
        opens = book.tree.opens_at(snapshot.now)
        changes = windows.next_change(policies.windows, snapshot.now)
        waits += [(at - snapshot.now).total_seconds() for at in (opens, changes) if at is not None]
        return RequeueAfter(min(waits)) if waits else Done()

    def _book(self) -> Book:
        """The queues, and what was used before. Empty where there are no queues."""
        queues = self._reader.all(Queue)
        if not queues:
            return Book(Tree(()), QueueAccounts(()))
        versions = tuple((queue.uid, queue.metadata.generation) for queue in queues)
        if self._tree[0] != versions:
            self._tree = (versions, Tree(queues))
        return Book(self._tree[1], QueueAccounts(self._reader.all(QueueUsage)))

    def _partition(self, key: Key) -> GPUPartition | None:
        """None where it went, or is damaged: the node's ledger still knows what it holds."""
        return readable(self._reader, GPUPartition, key.namespace, key.name)

    def _place(self, snapshot: Snapshot, cycle: Cycle) -> tuple[list[Unplaced], list[Refusal], bool]:
        """Consider the whole queue; the gangs that stay in it and whose turn it is to be told why, all that stay in it,
        and whether some have yet to wait long enough to be told. Turns go on from where the last cycle stopped."""
        explain = Explainer(snapshot, cycle.availability)
        unplaced: list[Unplaced] = []
        refusals: list[Refusal] = []
        last, young = 0, False
        for gang in cycle.queue:
            if cycle.bind(gang):
                continue
            position = len(refusals) + 1
            told = _waited(gang, snapshot)
            young = young or not told
            # Worked out before the refusal, whose reservation would be in the way of the gang itself.
            message = ""
            if told and position > self._explain_from and len(unplaced) < EXPLAINED_PER_PASS:
                last = position
                why = cycle.not_admitted
                with cycle.windows.lifted(gang):
                    message = why.message if why else summary(explain.node_reasons(cycle.admitted(gang)))
            refusals.append(cycle.refuse(gang))
            if last == position:
                unplaced.append(Unplaced(gang, refusals[-1].reason.code, message))
        self._explain_from = last if len(unplaced) == EXPLAINED_PER_PASS else 0
        return unplaced, refusals, young

    def _bind_all(self, gangs: Sequence[Sequence[Binding]], *, counts: bool) -> bool:
        """Write bindings, each gang's all or none. False where a partition changed meanwhile.

        Many gangs share a transaction, since each costs a sync to disk; where one of them is stale, the rest is
        written one by one.
        """
        stale = False
        for start in range(0, len(gangs), GANGS_PER_WRITE):
            some = gangs[start : start + GANGS_PER_WRITE]
            if not self._bind(some, counts=counts):
                written = [self._bind([gang], counts=counts) for gang in some] if len(some) > 1 else [False]
                stale = stale or not all(written)
        return not stale

    def _bind(self, gangs: Sequence[Sequence[Binding]], *, counts: bool) -> bool:
        writes = []
        for binding in (binding for gang in gangs for binding in gang):
            partition = self._partition(binding.partition)
            if partition is None or not partition.waits:
                return False
            writes += self._binding(binding, partition, counts=counts)
        return self._write_all(writes, alone=len(gangs) == 1)

    def _binding(self, binding: Binding, partition: GPUPartition, *, counts: bool) -> list[Write]:
        """`counts`: there are queues, so that its use is counted for one."""
        now = timestamp(self._clock.now())
        parked = partition.status.phase is PartitionPhase.PARKED
        status = partition.status.model_copy(
            update={
                "observed_generation": partition.metadata.generation or 0,
                "phase": PartitionPhase.UNPARKING if parked else PartitionPhase.BOUND,
                "conditions": condition_set(
                    partition.status.conditions, now, PartitionCondition.BOUND, True, PartitionReason.BOUND
                ),
                "node": binding.node,
                "device": binding.device,
                "device_name": binding.device_name,
                "memory_bytes": binding.memory_bytes,
                "compute": binding.compute,
                "enforcement": binding.enforcement,
                "queue": (binding.queue or DEFAULT_QUEUE) if counts else None,
                "share": binding.share if counts else None,
                "promise": None,
                "activated_at": now if parked else None,
            }
        )
        document = partition.replace(status=status).to_json()
        if FINALIZER in partition.metadata.finalizers:
            return [Write("status", document)]
        # Whatever holds a lease is kept until the node has confirmed its end.
        return [Write("update", with_finalizer(document, FINALIZER)), Write("status", unversioned(document))]

    def _refuse(self, unplaced: Iterable[Unplaced], moved: Sequence[PromiseChange]) -> bool:
        """Say on each waiting partition why, and what it was promised, where that changed. False where one changed
        meanwhile."""
        now = timestamp(self._clock.now())
        why = {member.partition: item for item in unplaced for member in item.gang.members}
        promised = by_partition(moved)
        writes = []
        for key in dict.fromkeys((*why, *promised)):
            partition = self._partition(key)
            if partition is None or not partition.waits:
                continue
            update: dict[str, object] = {}
            if (item := why.get(key)) is not None:
                old = condition(partition.status.conditions, PartitionCondition.BOUND)
                if old is None or (old.status, old.reason, old.message) != ("False", item.reason, item.message):
                    update["conditions"] = condition_set(
                        partition.status.conditions, now, PartitionCondition.BOUND, False, item.reason, item.message
                    )
            if key in promised and promised[key] != partition.status.promise:
                update["promise"] = promised[key]
            if update:
                status = partition.status.model_copy(update=update)
                writes.append(Write("status", partition.replace(status=status).to_json()))
        if self._recorder is not None:
            tell_of_late(moved, self._reader, self._recorder, NAME)
        if not writes or self._write_all(writes, alone=len(writes) == 1):
            return True
        told = [self._write_all([write], alone=True) for write in writes] if len(writes) > 1 else [False]
        return all(told)

    def _hold(self, planned: Iterable[Planned]) -> bool:
        """Say of each reservation what is held. False where one changed meanwhile."""
        changed = [each for each in planned if each.status != each.reservation.status]
        told = [
            self._write_all([Write("status", each.reservation.replace(status=each.status).to_json())], alone=True)
            for each in changed
        ]
        return all(told)

    def _write_all(self, writes: Sequence[Write], *, alone: bool) -> bool:
        """Write them all or none. False where one is stale, or where one cannot be written and they do not stand
        `alone`: it must not keep the others from their places, so that the caller writes them one by one."""
        try:
            self._write(writes)
        except (Conflict, NotFound) as error:
            log.debug("stale", writes=len(writes), error=str(error))
            return False
        except InvalidObject as error:
            # Its status has no room, say.
            if alone:
                log.error("left out an object", error=str(error))
            return alone
        return True

    def _write(self, writes: Sequence[Write]) -> None:
        """Write, and note at which revision: no cycle decides on a view from before that."""
        self._unanswered = True
        try:
            documents = self._client.store.transact(writes, fence=self._client.fence)
        except (Conflict, NotFound, InvalidObject):
            self._unanswered = False
            raise
        self._unanswered = False
        self._written = max(self._written, *(int(found["metadata"]["resourceVersion"]) for found in documents))


def summary(reasons: Sequence[NodeReason]) -> str:
    """Why, by node, without figures that change all the time: `InsufficientMemory: gpu-1, gpu-2; NotReady: gpu-3`."""
    if not reasons:
        return "there are no nodes"
    ordered = sorted((item.reason.code, item.node) for item in reasons)
    return "; ".join(_group(code, [node for _, node in found]) for code, found in groupby(ordered, lambda i: i[0]))


def _waited(gang: Gang, snapshot: Snapshot) -> bool:
    """Whether it waits for long enough to be told why."""
    return (snapshot.now - gang.since).total_seconds() >= EXPLAINED_AFTER


def _group(code: str, nodes: list[str]) -> str:
    named = [node for node in nodes[:NAMED_NODES] if node]
    more = f" and {len(nodes) - NAMED_NODES} more" if len(nodes) > NAMED_NODES else ""
    return f"{code}: {', '.join(named)}{more}" if named else code


def _gangs(bindings: Sequence[Binding]) -> Iterator[list[Binding]]:
    for _, found in groupby(bindings, lambda binding: binding.gang):
        yield list(found)
