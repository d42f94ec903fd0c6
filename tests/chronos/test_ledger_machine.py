"""The ledger against a model of what it promises, through any sequence of calls, moves into main memory and back,
reopenings, power cuts and reboots."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cumulus.chronos.contract import LeaseRequest, LeaseState
from cumulus.chronos.contract.parking import expected_seconds
from cumulus.chronos.device_processes import DeviceHeld
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor import Monitor
from cumulus.chronos.parking import rows
from cumulus.chronos.parking.mover import Means
from cumulus.chronos.parking.parker import Parker
from cumulus.clock import FakeClock, parse_timestamp
from cumulus.errors import ChronosError, InsufficientShare, NoSuchLease, ParkRefused
from tests.chronos.conftest import GIB, GPUS, open_ledger
from tests.chronos.parking_node import proof

IDS = st.sampled_from([f"id{number}" for number in range(8)])
ACTIVE, PARKING, PARKED, UNPARKING = (
    LeaseState.ACTIVE, LeaseState.PARKING, LeaseState.PARKED, LeaseState.UNPARKING,
)  # fmt: skip


class Died(BaseException):
    """The monitor, in the middle of it."""


@dataclass
class FakeDriver:
    """Knows no process. Its `answers`, one for each time that it is asked what is held: whether it does; after them it
    does. `dies`: who asks dies where the answers are over."""

    answers: Sequence[bool] = ()
    dies: bool = False
    asked: int = 0

    def look(self, devices: Sequence[str]) -> dict[str, DeviceHeld] | None:
        self.asked += 1
        if self.asked > len(self.answers):
            if self.dies:
                raise Died
            return {device: DeviceHeld(0, {}) for device in devices}
        return {device: DeviceHeld(0, {}) for device in devices} if self.answers[self.asked - 1] else None

    def clients(self, devices: Sequence[str]) -> tuple[dict[str, frozenset[int]], str]:
        return {}, "580.1"

    def using_cuda(self, processes: object) -> set[Any]:
        return set()

    def close(self) -> None:
        pass


@dataclass
class Known:
    """What the model knows of a lease that was granted."""

    device: int
    memory: int
    compute: int
    seconds: float
    deadline: float
    wall_end: float
    token: int
    ended: bool = False
    state: LeaseState = ACTIVE
    park_for: float = 0.0


class LedgerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.homes = 0
        self.boots = 1
        self.clock = FakeClock()
        self.known: dict[str, Known] = {}
        self.tokens = [0, 0]
        self.home = self.directory / "0"
        self.ledger = self.open()

    def open(self) -> Ledger:
        ledger = open_ledger(self.home, self.clock, boot=f"boot-{self.boots}")
        ledger.open()
        with ledger.database.write() as tx:
            rows.record_proofs(tx, [proof()])
        return ledger

    def live(self, device: int) -> list[Known]:
        """Those that hold a share."""
        return [k for k in self.known.values() if k.device == device and not k.ended and k.state is not PARKED]

    def going_on(self, id: str) -> Known | None:
        known = self.known.get(id)
        return None if known is None or known.ended or known.deadline <= self.clock.monotonic() else known

    def ends_in(self, known: Known, seconds: float) -> None:
        known.deadline = self.clock.monotonic() + seconds
        known.wall_end = self.clock.now().timestamp() + seconds

    @rule(
        id=IDS,
        device=st.integers(0, 1),
        memory=st.integers(1, 90),
        compute=st.integers(1, 1000),
        seconds=st.floats(0.1, 1000),
    )
    def grant(self, id: str, device: int, memory: int, compute: int, seconds: float) -> None:
        known = self.known.get(id)
        asked = LeaseRequest(id=id, device=device, memory_bytes=memory * GIB, compute=compute, seconds=seconds)
        fits = (
            memory + sum(k.memory for k in self.live(device)) <= 80
            and compute + sum(k.compute for k in self.live(device)) <= 1000
        )
        try:
            lease = self.ledger.grant(asked)
        except InsufficientShare:
            assert known is None
            assert not fits
            return
        except ChronosError:
            assert known is not None
            assert not known.ended
            assert (known.device, known.memory, known.compute) != (device, memory, compute)
            return
        if known is not None:
            assert lease.token == known.token
            assert (lease.state is LeaseState.ENDED) == known.ended
            return
        assert fits
        assert lease.token > self.tokens[device]
        self.tokens[device] = lease.token
        now = self.clock.monotonic()
        wall_end = self.clock.now().timestamp() + seconds
        self.known[id] = Known(device, memory, compute, seconds, now + seconds, wall_end, lease.token)

    @rule(id=IDS, seconds=st.floats(0.1, 1000))
    def renew(self, id: str, seconds: float) -> None:
        known = self.known.get(id)
        try:
            self.ledger.renew(id, seconds)
        except NoSuchLease:
            assert known is None or known.ended or known.deadline <= self.clock.monotonic()
            return
        assert known is not None
        assert not known.ended
        if self.clock.monotonic() + seconds > known.deadline:
            known.deadline = self.clock.monotonic() + seconds
            known.wall_end = self.clock.now().timestamp() + seconds
            known.seconds = max(known.seconds, seconds)

    @rule(id=IDS)
    def release(self, id: str) -> None:
        known = self.known.get(id)
        lease = self.ledger.release(id)
        assert (lease is None) == (known is None)
        # What has expired waits for the monitor, which gives the reason.
        if known is not None and known.deadline > self.clock.monotonic():
            known.ended = True

    @rule(id=IDS, park_for=st.floats(0.1, 1000))
    def park(self, id: str, park_for: float) -> None:
        known = self.going_on(id)
        try:
            lease = self.ledger.park(id, park_for)
        except NoSuchLease:
            assert known is None
            return
        except ParkRefused:
            assert known is not None
            assert known.state is UNPARKING
            return
        assert known is not None
        assert known.state is not UNPARKING
        if known.state is ACTIVE:
            known.state, known.park_for = PARKING, park_for
        assert (lease.state, lease.holds_share) == (known.state, known.state is not PARKED)

    @rule(id=IDS, seconds=st.floats(0.1, 1000))
    def unpark(self, id: str, seconds: float) -> None:
        known = self.going_on(id)
        fits = known is not None and (
            known.memory + sum(k.memory for k in self.live(known.device)) <= 80
            and known.compute + sum(k.compute for k in self.live(known.device)) <= 1000
        )
        try:
            lease = self.ledger.unpark(id, seconds)
        except NoSuchLease:
            assert known is None
            return
        except InsufficientShare:
            assert known is not None
            assert known.state is PARKED
            assert not fits
            return
        assert known is not None
        if known.state is PARKED:
            assert fits
            assert lease.token > self.tokens[known.device]
            self.tokens[known.device] = known.token = lease.token
            known.state, known.seconds = UNPARKING, seconds
            self.ends_in(known, seconds + 4 * expected_seconds(0))
        assert lease.state is known.state

    @rule(answers=st.lists(st.booleans(), max_size=3), dies=st.booleans())
    def the_parker_looks(self, answers: Sequence[bool], dies: bool) -> None:
        """What was asked is done, or not at all: also where the driver is silent, and where the monitor dies."""
        driver = cast(Any, FakeDriver(answers, dies))
        means = Means(lambda: driver, lambda: driver, lambda not_moved: 10**15, names_are_the_drivers=True)
        parker = Parker(self.ledger.database, self.clock, means=means, threads=False)
        with suppress(Died):
            parker.step()
        parker.close()
        for id, known in self.known.items():
            if known.ended or known.deadline <= self.clock.monotonic():
                continue
            lease = self.ledger.get(id)
            assert lease is not None
            if known.state is PARKING:
                assert lease.state in (PARKED, ACTIVE, PARKING)
                assert lease.state is not PARKING or driver.asked > len(answers) or not all(answers)
                if lease.state is PARKED:
                    self.ends_in(known, known.park_for)
            elif known.state is UNPARKING:
                assert lease.state in (ACTIVE, UNPARKING)
                if lease.state is ACTIVE and known.deadline > self.clock.monotonic() + known.seconds:
                    self.ends_in(known, known.seconds)
            known.state = lease.state

    @rule(seconds=st.floats(0, 2000))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(seconds=st.floats(-1e6, 1e6))
    def the_wall_clock_is_set(self, seconds: float) -> None:
        self.clock.jump(seconds)

    @rule()
    def the_monitor_looks(self) -> None:
        Monitor(self.ledger).step()
        for known in self.known.values():
            known.ended |= known.deadline <= self.clock.monotonic()

    @rule()
    def another_process_goes_on(self) -> None:
        self.ledger.close()
        self.ledger = self.open()

    @rule()
    def the_power_fails(self) -> None:
        """All processes are gone, and of the files what was on the disk is left: the log's index is not."""
        self.homes += 1
        copy = self.directory / str(self.homes)
        copy.mkdir()
        for file in self.home.glob("ledger.db*"):
            if file.suffix != ".db-shm":
                shutil.copy(file, copy / file.name)
        self.ledger.close()
        self.home = copy
        self._boot()

    @rule(off=st.floats(0, 1000))
    def the_machine_reboots(self, off: float) -> None:
        self.ledger.close()
        self.clock = FakeClock(self.clock.now())
        self.clock.jump(off)
        self._boot()

    def _boot(self) -> None:
        self.boots += 1
        now, wall = self.clock.monotonic(), self.clock.now().timestamp()
        for known in self.known.values():
            # To the microsecond of the timestamp that is kept.
            left = round(known.wall_end - wall, 6)
            known.ended |= left <= 0 or known.state is not ACTIVE
            known.deadline = now + min(left, known.seconds)
        self.ledger = self.open()
        self.ledger.list()

    @invariant()
    def the_books_balance(self) -> None:
        for device in GPUS:
            usage = self.ledger.usage(device.index) if self.known else None
            if usage is not None:
                live = self.live(device.index)
                assert usage.memory_bytes == GIB * sum(k.memory for k in live) <= device.memory_bytes
                assert usage.compute == sum(k.compute for k in live) <= 1000

    @invariant()
    def every_answered_lease_is_there(self) -> None:
        found = {lease.id: lease for lease in self.ledger.list(ended=True)}
        assert found.keys() == self.known.keys()
        now = self.clock.monotonic()
        for id, known in self.known.items():
            lease = found[id]
            assert lease.token == known.token
            assert lease.expires_in == pytest.approx(known.deadline - now, abs=1e-5) or known.ended
            if known.ended:
                assert lease.state is LeaseState.ENDED
            else:
                assert lease.state is (known.state if lease.expires_in > 0 else LeaseState.ENDING)
                assert lease.holds_share is (known.state is not PARKED)
                assert (lease.parked_at != "") is (known.state is PARKED)
                assert parse_timestamp(lease.expires_at) is not None

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.directory)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
