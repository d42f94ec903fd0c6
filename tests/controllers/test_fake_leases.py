"""The fake node answers as the real ledger does, to any sequence of calls."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from cumulus.chronos.contract import Lease, LeaseRequest, LeaseState, Proof
from cumulus.chronos.database import Database
from cumulus.chronos.device_processes import DeviceHeld, DeviceProcesses
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor import Monitor
from cumulus.chronos.parking import rows
from cumulus.chronos.parking.checkpoint_client import CheckpointClient
from cumulus.chronos.parking.mover import Means
from cumulus.chronos.parking.parker import Parker
from cumulus.clock import FakeClock
from cumulus.errors import ChronosError, NodeUnreachable, NoSuchLease, StaleToken
from cumulus.testing.leases import FakeLeases, fake_device
from tests.chronos.conftest import GIB, GPUS, open_ledger, request

RUN = uuid.uuid4().hex
"""Monitors end processes that name a lease of theirs, those of other tests too: these names are nobody else's."""
IDS = st.sampled_from([f"{RUN}-{number}" for number in range(4)])


class TwoNodes(RuleBasedStateMachine):
    """A ledger with its monitor, and the fake, side by side on one clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.directory = tempfile.TemporaryDirectory()
        self.ledger = open_ledger(Path(self.directory.name) / "ledger", self.clock)
        self.fake = FakeLeases(GPUS, self.clock)
        self.fake.parking_memory = 10**15
        self.ledger.devices()
        with self.ledger.database.write() as tx:
            rows.record_proofs(tx, [Proof(GPUS[0].name, "1.0", "cuda", True, "", "")])
        means = Means(CheckpointClient, lambda: NoProcesses(self.clock), lambda taken: 10**15)
        self.database = Database(self.ledger.home)
        self.parker = Parker(self.database, self.clock, means=means, threads=False)

    def teardown(self) -> None:
        self.parker.close()
        self.database.close()
        self.ledger.close()
        self.directory.cleanup()

    def both(self, call: Callable[[Ledger | FakeLeases], Lease | Sequence[Lease] | None]) -> None:
        Monitor(self.ledger).step()
        assert _answer(call, self.ledger) == _answer(call, self.fake)

    @rule(
        id=IDS, device=st.integers(0, 2), memory=st.integers(1, 60), compute=st.integers(1, 700),
        within=st.sampled_from([0, 0, 30]),
    )  # fmt: skip
    def grant(self, id: str, device: int, memory: int, compute: int, within: int) -> None:
        asked = LeaseRequest(
            id, device, memory * GIB, compute, seconds=50, user="ada", grace=1, owner="lab", start_within=within
        )
        self.both(lambda leases: leases.grant(asked))

    @rule(id=IDS)
    def begin(self, id: str) -> None:
        self.both(lambda leases: leases.begin(id))

    @rule(id=IDS, seconds=st.integers(1, 200))
    def renew(self, id: str, seconds: int) -> None:
        self.both(lambda leases: leases.renew(id, seconds))

    @rule(id=IDS)
    def release(self, id: str) -> None:
        self.both(lambda leases: leases.release(id))

    @rule(id=IDS, seconds=st.sampled_from([1, 40, 120]))
    def park(self, id: str, seconds: int) -> None:
        self.move(lambda leases: leases.park(id, seconds), id)

    @rule(id=IDS, seconds=st.sampled_from([30, 90]))
    def unpark(self, id: str, seconds: int) -> None:
        self.move(lambda leases: leases.unpark(id, seconds), id)

    def move(self, call: Callable[[Ledger | FakeLeases], Lease], id: str) -> None:
        """What is refused is the same, and what is found once the node has done it."""
        Monitor(self.ledger).step()
        answers = [_answer(call, leases) for leases in (self.ledger, self.fake)]
        assert [each if isinstance(each, type) else Lease for each in answers] == [
            answers[1] if isinstance(answers[1], type) else Lease
        ] * 2
        self.parker.step()
        self.both(lambda leases: leases.get(id))

    @rule(id=IDS)
    def get(self, id: str) -> None:
        self.both(lambda leases: leases.get(id))

    @rule(ended=st.booleans())
    def list(self, ended: bool) -> None:
        self.both(lambda leases: leases.list(ended=ended))

    @rule(seconds=st.integers(1, 100))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)


class NoProcesses(DeviceProcesses):
    """GPUs on which nothing runs."""

    def look(self, devices: Sequence[str]) -> dict[str, DeviceHeld]:
        return {device: DeviceHeld(0, {}) for device in devices}

    def clients(self, devices: Sequence[str]) -> tuple[dict[str, frozenset[int]], str]:
        return {device: frozenset() for device in devices}, "1.0"


def _answer(
    call: Callable[[Ledger | FakeLeases], Lease | Sequence[Lease] | None], leases: Ledger | FakeLeases
) -> object:
    try:
        found = call(leases)
    except ChronosError as error:
        return type(error)
    if isinstance(found, Lease):
        return _comparable(found)
    return None if found is None else sorted((_comparable(lease) for lease in found), key=lambda lease: lease.id)


def _comparable(lease: Lease) -> Lease:
    """What both can know: an end that lies in the past was seen when somebody looked."""
    if lease.state is LeaseState.ENDED:
        return replace(lease, ended_at="", expires_in=0.0)
    return replace(lease, expires_in=round(lease.expires_in, 3), parked_bytes=0)


TestTwoNodes = TwoNodes.TestCase
TestTwoNodes.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


class Process:
    """A holder that ends `seconds` after the signal, or when it is killed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = float("inf")

    def terminate(self, at: float, grace: float, reason: object) -> None:
        self.end = min(self.end, at + min(self.seconds, grace))

    def ends(self) -> float:
        return self.end


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def node(clock: FakeClock) -> FakeLeases:
    return FakeLeases([fake_device(memory_bytes=80 * GIB)], clock)


def test_a_share_is_taken_until_the_last_process_is_gone(node: FakeLeases, clock: FakeClock) -> None:
    lease = node.grant(request("a", memory_bytes=80 * GIB, seconds=10, grace=5))
    node.attach("a", lease.token, Process(3))
    node.attach("a", lease.token, Process(99))
    clock.advance(12)
    assert [x.state for x in node.list()] == [LeaseState.ENDING]
    with pytest.raises(ChronosError):
        node.grant(request("b"))
    clock.advance(3)
    assert node.list() == []
    assert node.grant(request("b")).token == lease.token + 1


def test_only_the_holder_of_an_active_lease_may_attach(node: FakeLeases, clock: FakeClock) -> None:
    lease = node.grant(request("a", seconds=10))
    with pytest.raises(StaleToken):
        node.attach("a", lease.token - 1, Process(0))
    with pytest.raises(NoSuchLease):
        node.attach("b", lease.token, Process(0))
    clock.advance(10)
    with pytest.raises(NoSuchLease):
        node.attach("a", lease.token, Process(0))


def test_a_node_that_is_cut_off_goes_on(node: FakeLeases, clock: FakeClock) -> None:
    node.grant(request("a", seconds=10))
    node.reachable = False
    with pytest.raises(NodeUnreachable):
        node.list()
    clock.advance(11)
    node.reachable = True
    assert node.list() == []


def test_a_fault_strikes_before_or_after_the_work(node: FakeLeases) -> None:
    node.faults.fail("grant", NodeUnreachable("no way"), subject="a")
    node.faults.fail("grant", NodeUnreachable("no answer"), subject="b", when="after")
    for id in ("a", "b"):
        with pytest.raises(NodeUnreachable):
            node.grant(request(id, memory_bytes=GIB))
    assert [lease.id for lease in node.list()] == ["b"]
    node.grant(request("a"))
