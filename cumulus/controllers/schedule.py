"""The schedule loop: one key for the whole queue. Builds a snapshot, asks `scheduling` where each gang goes, writes it.

A gang's bindings are one transaction, each with its partition's version as precondition. A pass never starts before the
reader shows the last pass's writes, so that no share is given twice; the node's ledger would refuse it anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import structlog

from cumulus.clock import Clock, timestamp
from cumulus.controllers.conditions import condition_set
from cumulus.controllers.partition_plan import FINALIZER
from cumulus.controllers.reader import Reader
from cumulus.controllers.reconcile import After, Done, Request, Result
from cumulus.controllers.writes import unversioned
from cumulus.errors import Conflict, InvalidObject, NotFound
from cumulus.resources.key import Key
from cumulus.resources.meta import condition
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.scheduling.claim import Claim, claim_of
from cumulus.scheduling.place import Binding, Pass
from cumulus.scheduling.reasons import NodeReason, node_reasons
from cumulus.scheduling.snapshot import Gang, Snapshot, assemble
from cumulus.store.base import Documents, Write
from cumulus.store.client import Client

log = structlog.get_logger("cumulus.controllers")

NAME = "schedule"
QUEUE = Request("", "queue")
"""The loop's only key."""

VISIBLE_WITHIN = 0.05
"""Seconds before the reader is looked at again where it lags behind what this loop wrote."""

REST = 3.0
LONGEST_REST = 3.0
"""After a pass the loop rests for so many times as long as it thought, and no longer than that many seconds: what
happens meanwhile is one pass's work, and a long queue does not keep the other loops from theirs."""

GANGS_PER_WRITE = 64

EXPLAINED_PER_PASS = 64
"""How many waiting gangs get their reasons worked out in one pass; the rest comes with the next ones."""

EXPLAINED_AFTER = 1.0
"""Seconds in the queue before a gang's reasons are written down: most leave it sooner."""

NAMED_NODES = 5
"""How many nodes a condition names for each reason."""


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A gang that waits, and why on each node; `reasons` is None where they were not worked out this time."""

    gang: Gang
    reason: str
    reasons: tuple[NodeReason, ...] | None


class ScheduleController:
    name = NAME

    def __init__(self, reader: Reader, client: Client, clock: Clock) -> None:
        self._reader = reader
        self._client = client
        self._clock = clock
        self._claims: dict[Key, tuple[int, Claim]] = {}
        self._written = 0
        self._explain_from = 0
        self._not_before = 0.0

    def reconcile(self, request: Request) -> Result:
        began = self._clock.monotonic()
        if began < self._not_before:
            return After(self._not_before - began)
        if self._reader.revision < self._written:
            return After(VISIBLE_WITHIN)
        self._refresh()
        claims = (claim for _, claim in self._claims.values())
        snapshot = assemble(self._reader.all(GPUNode), claims, self._clock.now())
        run = Pass(snapshot)
        unplaced = list(self._place(snapshot, run))
        ended = self._clock.monotonic()
        self._not_before = ended + min(LONGEST_REST, REST * (ended - began))
        bound = self._bind_all(list(_gangs(run.bindings)))
        self._refuse(unplaced)
        if not bound:
            return After(VISIBLE_WITHIN)
        young = any(not _waited(item.gang, snapshot) for item in unplaced)
        return After(EXPLAINED_AFTER) if young or self._explain_from else Done()

    def _refresh(self) -> None:
        """Bring the claims up to the reader's view; only what changed is decoded."""
        claims = {}
        for key, revision in self._reader.live().items():
            known = self._claims.get(key)
            if known is None or known[0] != revision:
                partition = self._partition(key)
                if partition is None:
                    continue
                known = (revision, claim_of(partition))
            claims[key] = known
        self._claims = claims

    def _partition(self, key: Key) -> GPUPartition | None:
        """None where it went, or is damaged: the node's ledger still knows what it holds."""
        try:
            return self._reader.get(GPUPartition, key.namespace, key.name)
        except InvalidObject as error:
            log.error("left out a damaged object", error=str(error))
            return None

    def _place(self, snapshot: Snapshot, run: Pass) -> Iterator[Unplaced]:
        """Consider the whole queue; yields the gangs that stay in it. Reasons are worked out in turns: those who have
        waited long enough, from where the last pass stopped."""
        explained = position = last = 0
        for gang in snapshot.pending:
            if run.bind(gang):
                continue
            position += 1
            turn = _waited(gang, snapshot) and position > self._explain_from and explained < EXPLAINED_PER_PASS
            if turn:
                explained, last = explained + 1, position
            reasons = node_reasons(snapshot, run.board, gang) if turn else None
            yield Unplaced(gang, run.refuse(gang).reason.code, reasons)
        self._explain_from = last if explained == EXPLAINED_PER_PASS else 0

    def _bind_all(self, gangs: Sequence[Sequence[Binding]]) -> bool:
        """Write bindings, each gang's all or none. False where a partition changed meanwhile.

        Many gangs share a transaction, since each costs a sync to disk; where one of them is stale, the rest is
        written one by one.
        """
        stale = False
        for start in range(0, len(gangs), GANGS_PER_WRITE):
            some = gangs[start : start + GANGS_PER_WRITE]
            if not self._bind(some):
                written = [self._bind([gang]) for gang in some] if len(some) > 1 else [False]
                stale = stale or not all(written)
        return not stale

    def _bind(self, gangs: Sequence[Sequence[Binding]]) -> bool:
        writes = []
        for binding in (binding for gang in gangs for binding in gang):
            partition = self._partition(binding.partition)
            if partition is None or partition.status.phase is not PartitionPhase.PENDING:
                return False
            writes += self._binding(binding, partition)
        try:
            self._wrote(self._client.store.transact(writes, fence=self._client.fence))
        except (Conflict, NotFound) as error:
            log.debug("stale", loop=NAME, gangs=len(gangs), error=str(error))
            return False
        return True

    def _binding(self, binding: Binding, partition: GPUPartition) -> list[Write]:
        now = timestamp(self._clock.now())
        status = partition.status.model_copy(
            update={
                "observed_generation": partition.metadata.generation or 0,
                "phase": PartitionPhase.BOUND,
                "conditions": condition_set(partition.status.conditions, now, "Bound", True, "Bound"),
                "node": binding.node,
                "device": binding.device,
                "device_name": binding.device_name,
                "memory_bytes": binding.memory_bytes,
                "compute": binding.compute,
                "enforcement": binding.enforcement,
            }
        )
        document = partition.replace(status=status).to_json()
        if FINALIZER in partition.metadata.finalizers:
            return [Write("status", document)]
        # Whatever holds a lease is kept until the node has confirmed its end.
        metadata = {**document["metadata"], "finalizers": [*partition.metadata.finalizers, FINALIZER]}
        return [Write("update", {**document, "metadata": metadata}), Write("status", unversioned(document))]

    def _refuse(self, unplaced: Iterable[Unplaced]) -> None:
        """Say on each waiting partition why, where what is to be said changed."""
        now = timestamp(self._clock.now())
        writes = []
        for item in unplaced:
            if item.reasons is None:
                continue
            message = summary(item.reasons)
            for request in item.gang.requests:
                partition = self._partition(request.partition)
                if partition is None or partition.status.phase is not PartitionPhase.PENDING:
                    continue
                old = condition(partition.status.conditions, "Bound")
                if old is not None and (old.status, old.reason, old.message) == ("False", item.reason, message):
                    continue
                conditions = condition_set(partition.status.conditions, now, "Bound", False, item.reason, message)
                status = partition.status.model_copy(update={"conditions": conditions})
                writes.append(Write("status", partition.replace(status=status).to_json()))
        if not writes:
            return
        try:
            self._wrote(self._client.store.transact(writes, fence=self._client.fence))
        except (Conflict, NotFound) as error:
            log.debug("stale", loop=NAME, error=str(error))

    def _wrote(self, documents: Documents) -> None:
        revisions = [int(document["metadata"]["resourceVersion"]) for document in documents]
        self._written = max(self._written, *revisions)


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
