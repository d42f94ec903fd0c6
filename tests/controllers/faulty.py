"""A store whose writes can be struck by faults, and a watcher for what must never be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cumulus.chronos.contract import FULL_COMPUTE
from cumulus.resources.job import GPUJob
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.store.base import Documents, Fence, Store, Write
from cumulus.store.single import SingleWrites
from cumulus.testing.faults import Faults
from tests.controllers.driver import World
from tests.controllers.exact import ExactWatch


class FaultyStore(SingleWrites):
    """Another store, with `faults` before and after each write. Reads and watches are the other's own."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def transact(self, writes: Sequence[Write], *, fence: Fence | None = None) -> Documents:
        subject = ",".join(f"{w.verb} {(w.document or {}).get('kind', w.key and w.key.kind)}" for w in writes)
        with self._faults.around("write", subject):
            return self._store.transact(writes, fence=fence)


class Oracle:
    """Looks at a world after each step and fails on what must never be."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._watch = ExactWatch(world.store, world.store.revision(), None)
        self._phases: dict[str, PartitionPhase] = {}
        self._attempts: dict[str, int] = {}
        self._finished: dict[str, str] = {}
        self._tokens: dict[tuple[str, str], int] = {}

    def check(self) -> None:
        self._check_running()
        self._check_devices()
        for event in self._watch.next(0):
            kind, uid = event.key.kind, event.document["metadata"]["uid"]
            status = event.document.get("status") or {}
            if kind == GPUPartition.KIND:
                self._check_partition(uid, status)
            elif kind == GPUJob.KIND:
                self._check_job(uid, status)

    def _check_running(self) -> None:
        running = [(work.job_uid, work.replica) for work in self._world.backend.running()]
        assert len(running) == len(set(running)), f"a replica runs twice: {self._world.backend.running()}"

    def _check_devices(self) -> None:
        for node, leases in self._world.leases.items():
            for index in {lease.device for lease in leases.peek()}:
                held = [lease for lease in leases.peek() if lease.device == index]
                assert sum(lease.memory_bytes for lease in held) <= leases.capacity(index), node
                assert sum(lease.compute for lease in held) <= FULL_COMPUTE, node

    def _check_partition(self, uid: str, status: dict[str, Any]) -> None:
        order = list(PartitionPhase)
        phase = PartitionPhase(status.get("phase", "Pending"))
        before = self._phases.get(uid, PartitionPhase.PENDING)
        assert order.index(phase) >= order.index(before), f"{uid}: {before} -> {phase}"
        assert phase is before or not before.ended, f"{uid}: {before} -> {phase}"
        self._phases[uid] = phase

    def _check_job(self, uid: str, status: dict[str, Any]) -> None:
        count = status.get("attemptCount", 0)
        assert count >= self._attempts.get(uid, 0)
        self._attempts[uid] = count
        phase = status.get("phase", "Pending")
        assert self._finished.get(uid, phase) == phase, f"{uid} was {self._finished.get(uid)}, is {phase}"
        if phase in ("Succeeded", "Failed"):
            self._finished[uid] = phase
