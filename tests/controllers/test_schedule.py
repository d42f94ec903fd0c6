"""How placement's answers are written: gangs whole, reasons once, and never on an old view."""

from __future__ import annotations

import random
from typing import Any

import pytest

from cumulus.clock import FakeClock
from cumulus.controllers.binding import controller
from cumulus.controllers.binding.controller import QUEUE, BindingReconciler, summary
from cumulus.errors import Conflict, StoreUnavailable
from cumulus.machinery.cache import StoreReader
from cumulus.machinery.reconcile import Done, RequeueAfter
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.meta import Condition, ObjectMeta, condition
from cumulus.resources.node import DeviceStatus, GPUNode, GPUNodeStatus
from cumulus.resources.partition import FINALIZER, Gang, GPUPartition, PartitionPhase
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.node_reasons import NodeReason
from cumulus.store.base import Query
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from tests.controllers.objects import a_partition


class Stale(StoreReader):
    """A reader that shows nothing newer than `at`, where that is set."""

    at: int | None = None

    @property
    def revision(self) -> int:
        return super().revision if self.at is None else self.at


class Bench:
    def __init__(self, nodes: int = 1, devices: int = 1) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock)
        self.client = StoreClient(self.store)
        self.reader = Stale(self.store)
        self.controller = BindingReconciler(self.reader, self.client, self.clock)
        for number in range(nodes):
            status = GPUNodeStatus(
                conditions=(Condition(type="Ready", status="True"),),
                runtimes=("process",),
                devices=tuple(
                    DeviceStatus(index=i, name="H100", memory_bytes=80, enforcement=Enforcement.HARD)
                    for i in range(devices)
                ),
            )
            self.client.create(GPUNode(metadata=ObjectMeta(name=f"n{number}"), status=status))

    def want(self, name: str, **spec: object) -> None:
        self.client.create(a_partition(name, **spec))  # type: ignore[arg-type]

    def schedule(self) -> object:
        return self.controller.reconcile(QUEUE)

    def phases(self) -> dict[str, str]:
        return {p.metadata.name: p.status.phase.value for p in self.client.list(GPUPartition)}

    def reason(self, name: str) -> str:
        """Why it waits, "" where that is not written."""
        found = condition(self.client.get(GPUPartition, "default", name).status.conditions, "Bound")
        return "" if found is None else found.reason

    def bound(self, name: str) -> Condition:
        found = condition(self.client.get(GPUPartition, "default", name).status.conditions, "Bound")
        assert found is not None
        return found


def gang(size: int) -> Gang:
    return Gang(name="g", size=size, since="2030-01-01T00:00:00Z")


def test_a_binding_says_where_and_how_much_and_keeps_the_object() -> None:
    bench = Bench()
    bench.want("p", memory="0.25", compute="50%")
    assert bench.schedule() == Done()
    partition = bench.client.get(GPUPartition, "default", "p")
    status = partition.status
    assert (status.phase, status.node, status.device, status.device_name) == (PartitionPhase.BOUND, "n0", 0, "H100")
    assert (status.memory_bytes, status.compute, status.enforcement) == (20, 500, Enforcement.GUARDED)
    assert FINALIZER in partition.metadata.finalizers
    assert bench.bound("p").status == "True"


def test_a_gang_is_bound_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(devices=2)
    for number in range(2):
        bench.want(f"p{number}", memory="1.0", gang=gang(2))
    transact = bench.store.transact

    def meddling(writes: object, **options: object) -> object:
        monkeypatch.setattr(bench.store, "transact", transact)
        changed = bench.client.get(GPUPartition, "default", "p1")
        bench.client.update(changed.replace(spec=changed.spec.model_copy(update={"priority": 3})))
        return transact(writes, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.store, "transact", meddling)
    assert isinstance(bench.schedule(), Done | RequeueAfter)
    assert set(bench.phases().values()) == {"Pending"} or set(bench.phases().values()) == {"Bound"}
    bench.clock.advance(5)
    bench.schedule()
    assert set(bench.phases().values()) == {"Bound"}


def test_no_pass_decides_on_a_view_from_before_a_write_whose_answer_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.want("p", memory="1.0")
    bench.reader.at = bench.store.list(Query(GPUPartition.KIND)).revision
    transact = bench.store.transact

    def lost(writes: object, **options: object) -> object:
        transact(writes, **options)  # type: ignore[arg-type]
        raise StoreUnavailable("the answer was lost")

    monkeypatch.setattr(bench.store, "transact", lost)
    with pytest.raises(StoreUnavailable):
        bench.schedule()
    monkeypatch.setattr(bench.store, "transact", transact)
    assert bench.phases() == {"p": "Bound"}
    assert bench.schedule() == RequeueAfter(controller.VISIBLE_WITHIN), (
        "it waits for its view to show what it may have done"
    )
    bench.reader.at = None
    assert bench.schedule() == Done()


def test_one_stale_gang_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(devices=4)
    for number in range(4):
        bench.want(f"p{number}", memory="1.0")
    transact = bench.store.transact

    def refusing(writes: list[object], **options: object) -> object:
        if any("'p2'" in str(write) for write in writes):
            raise Conflict("p2 changed")
        return transact(writes, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.store, "transact", refusing)
    assert isinstance(bench.schedule(), RequeueAfter)
    assert bench.phases() == {"p0": "Bound", "p1": "Bound", "p2": "Pending", "p3": "Bound"}


def test_it_waits_until_it_sees_what_it_wrote() -> None:
    bench = Bench()
    bench.want("p", memory="0.4")
    before = bench.store.revision()
    bench.schedule()
    bench.want("q", memory="0.4")
    bench.reader.at = before
    assert bench.schedule() == RequeueAfter(controller.VISIBLE_WITHIN)
    assert bench.phases() == {"p": "Bound", "q": "Pending"}
    bench.reader.at = None
    bench.schedule()
    assert bench.phases() == {"p": "Bound", "q": "Bound"}


def test_reasons_are_written_after_a_while_and_only_when_they_change() -> None:
    bench = Bench(nodes=2)
    bench.want("p", memory="0.7", node="n0")
    bench.want("q", memory="0.7", node="n0")
    assert bench.schedule() == RequeueAfter(controller.EXPLAINED_AFTER)
    assert condition(bench.client.get(GPUPartition, "default", "q").status.conditions, "Bound") is None
    bench.clock.advance(controller.EXPLAINED_AFTER)
    bench.schedule()
    first = bench.bound("q")
    assert first.status == "False"
    assert "n0" in first.message
    revision = bench.store.revision()
    for _ in range(5):
        bench.clock.advance(60)
        assert bench.schedule() == Done()
    assert bench.store.revision() == revision
    node = bench.client.get(GPUNode, "", "n0")
    bench.client.update(node.replace(spec=node.spec.model_copy(update={"unschedulable": True})))
    bench.schedule()
    second = bench.bound("q")
    assert second.message != first.message
    assert second.last_transition_time == first.last_transition_time


def test_a_long_queue_is_explained_in_turns() -> None:
    bench = Bench()
    for number in range(150):
        bench.want(f"p{number:03}", memory="1.0")
    bench.clock.advance(10)
    passes = 0
    while isinstance(bench.schedule(), RequeueAfter):
        bench.clock.advance(controller.EXPLAINED_AFTER)
        passes += 1
        assert passes < 10
    said = [
        condition(p.status.conditions, "Bound") is not None
        for p in bench.client.list(GPUPartition)
        if p.status.phase is PartitionPhase.PENDING
    ]
    assert said == [True] * 149
    assert passes >= 2


def test_a_summary_has_no_figures_and_an_end() -> None:
    reasons = [NodeReason(f"n{number}", Reason("TooSmall", f"{number} bytes short")) for number in range(8)]
    reasons.append(NodeReason("a", Reason("NotReady", "since 3 s")))
    random.Random(1).shuffle(reasons)
    assert summary(reasons) == "NotReady: a; TooSmall: n0, n1, n2, n3, n4 and 3 more"
    assert summary([]) == "there are no nodes"
    assert summary([NodeReason("", Reason("GangIncomplete", "x"))]) == "GangIncomplete"


def test_a_damaged_partition_keeps_nobody_from_a_place() -> None:
    bench = Bench()
    bench.store.create({**a_partition("bad").to_json(), "spec": {"nonsense": 1}})
    bench.want("p")
    bench.schedule()
    assert bench.client.get(GPUPartition, "default", "p").status.phase is PartitionPhase.BOUND


class Behind(Stale):
    """A reader that still has a partition as it was, where it is told to."""

    kept: GPUPartition | None = None

    def get(self, model: type[Any], namespace: str, name: str) -> Any:
        if self.kept is not None and name == self.kept.metadata.name:
            return self.kept
        return super().get(model, namespace, name)


def test_reasons_that_were_not_written_for_an_old_view_are_written_by_the_next_cycle() -> None:
    """What made the view old was no change that wakes the loop; and who shares its transaction is told at once."""
    bench = Bench()
    reader = Behind(bench.store)
    bench.controller = BindingReconciler(reader, bench.client, bench.clock)
    for name in ("p", "q"):
        bench.want(name, memory="200Gi")
    bench.clock.advance(5)
    reader.kept = bench.client.get(GPUPartition, "default", "p")
    meta = reader.kept.metadata.model_copy(update={"labels": {"seen": "by-nobody"}})
    bench.client.update(reader.kept.replace(metadata=meta))
    assert isinstance(bench.schedule(), RequeueAfter)
    assert (bench.reason("p"), bool(bench.reason("q"))) == ("", True)
    reader.kept = None
    bench.clock.advance(5)
    bench.schedule()
    assert bench.reason("p") == bench.reason("q")
