"""Parked programs in placement: they hold nothing, come back to their own device alone, and stand behind who waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cumulus.clock import timestamp
from cumulus.resources.conditions import condition_set
from cumulus.resources.device import FULL_COMPUTE, Slice
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.node import DeviceStatus, GPUNode, GPUNodeStatus
from cumulus.resources.parking import Parked, ParkRequest
from cumulus.resources.partition import GPUPartition, GPUPartitionSpec, GPUPartitionStatus, PartitionPhase
from cumulus.scheduling.cycle import place
from cumulus.scheduling.snapshot import build
from cumulus.testing.leases import fake_device

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SIZE = fake_device().memory_bytes
PARKED, PENDING, ACTIVE, UNPARKING = (
    PartitionPhase.PARKED, PartitionPhase.PENDING, PartitionPhase.ACTIVE, PartitionPhase.UNPARKING,
)  # fmt: skip


def at(seconds: float) -> str:
    return timestamp(NOW + timedelta(seconds=seconds))


def a_node(devices: int) -> GPUNode:
    free = Slice(SIZE, FULL_COMPUTE)
    status = GPUNodeStatus(
        conditions=condition_set((), at(0), "Ready", True, "Answers"), runtimes=("process",),
        devices=tuple(DeviceStatus.of(fake_device(index), free=free) for index in range(devices)),
    )  # fmt: skip
    return GPUNode(metadata=ObjectMeta(name="n", uid="n"), status=status)


def a_share(
    name: str, phase: PartitionPhase, device: int, parts: int, *, made: float, back: float | None = None
) -> GPUPartition:
    """Of so many quarters of a device."""
    parked = phase in (PARKED, UNPARKING)
    park = ParkRequest(reason="Requested", back_since=None if back is None else at(back)) if parked else None
    meta = ObjectMeta(name=name, namespace="default", uid=name, creation_timestamp=at(made))
    spec = GPUPartitionSpec(memory=f"{25 * parts}%", duration="1h", park=park)
    placed = GPUPartitionStatus(
        phase=phase, node="n", device=device, memory_bytes=SIZE * parts // 4, compute=250 * parts, partition_id=name,
        expires_at=at(600), activated_at=at(made), parked=Parked(since=at(-60)) if parked else None,
    )  # fmt: skip
    status = GPUPartitionStatus() if phase is PENDING else placed
    return GPUPartition(metadata=meta, spec=spec, status=status)


SHARES = st.lists(
    st.tuples(
        st.sampled_from([PARKED, PENDING, ACTIVE, UNPARKING]), st.integers(0, 1), st.integers(1, 4),
        st.none() | st.integers(-50, -1),
    ),
    max_size=7,
)  # fmt: skip


@given(SHARES)
def test_what_is_parked_holds_nothing_and_comes_back_to_its_own_device(
    shares: list[tuple[PartitionPhase, int, int, int | None]],
) -> None:
    """Nor is any device given twice, whoever comes back."""
    taken, made = {0: 0, 1: 0}, []
    for number, (phase, device, parts, back) in enumerate(shares):
        if phase.holds and taken[device] + parts > 4:
            continue
        taken[device] += parts if phase.holds else 0
        made.append(a_share(f"p{number}", phase, device, parts, made=-1000 + number, back=back))
    snapshot = build([a_node(2)], made, NOW)
    assert len(snapshot.holds) == sum(p.status.phase.holds for p in made)
    assert {m.partition.name for g in snapshot.pending for m in g.members} == {p.metadata.name for p in made if p.waits}
    by_key = {p.key: p for p in made}
    for binding in place(snapshot).bindings:
        partition = by_key[binding.partition]
        taken[binding.device] += round(4 * binding.memory_bytes / SIZE)
        assert partition.waits
        if partition.status.phase is PARKED:
            assert (binding.node, binding.device) == ("n", partition.status.device)
    assert max(taken.values()) <= 4


def test_who_comes_back_stands_where_it_asked_to() -> None:
    back = a_share("old", PARKED, 0, 4, made=-1000, back=-10)
    waits = a_share("waits", PENDING, 0, 4, made=-20)
    later = a_share("later", PENDING, 0, 4, made=-5)
    busy = a_share("busy", ACTIVE, 0, 4, made=-30)
    found = place(build([a_node(1)], [back, waits, later, busy], NOW))
    assert [refusal.gang.name for refusal in found.refusals] == ["default/waits", "default/old", "default/later"]
    assert not found.bindings


def test_a_place_in_the_line_is_no_older_than_the_parking() -> None:
    back = a_share("old", PARKED, 0, 4, made=-1000, back=-900)
    waits = a_share("waits", PENDING, 0, 4, made=-100)
    found = place(build([a_node(1)], [back, waits], NOW))
    assert [binding.partition.name for binding in found.bindings] == ["waits"]
