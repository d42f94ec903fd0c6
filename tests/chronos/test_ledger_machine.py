"""The ledger against a model of what it promises, through any sequence of calls, reopenings, power cuts and reboots."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cumulus.chronos.contract import LeaseRequest, LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor import Monitor
from cumulus.clock import FakeClock, parse_timestamp
from cumulus.errors import ChronosError, InsufficientShare, NoSuchLease
from tests.chronos.conftest import GIB, GPUS, open_ledger

IDS = st.sampled_from([f"id{number}" for number in range(8)])


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
        return open_ledger(self.home, self.clock, boot=f"boot-{self.boots}")

    def live(self, device: int) -> list[Known]:
        return [k for k in self.known.values() if k.device == device and not k.ended]

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
            known.ended |= left <= 0
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
                assert lease.state is (LeaseState.ACTIVE if lease.expires_in > 0 else LeaseState.ENDING)
                assert parse_timestamp(lease.expires_at) is not None

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.directory)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
