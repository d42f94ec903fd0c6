"""A device's memory follows what its driver says, and never what leases were granted."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.chronos import device_sizes
from cumulus.chronos.contract import Device
from cumulus.chronos.ledger import Ledger
from cumulus.clock import FakeClock
from cumulus.errors import InsufficientShare
from tests.chronos.conftest import CPU, GIB, GPUS, request


class Machine:
    """One device, of which the driver says what the test does."""

    def __init__(self, home: Path, device: Device = GPUS[0]) -> None:
        self.said = device.memory_bytes
        self.asked = 0
        self.answers = True
        self.clock = FakeClock()
        self.home = home
        self._device = replace(device, index=0)
        self.ledger = self.open()

    def open(self, boot: str = "boot") -> Ledger:
        return Ledger(self.home, self.clock, self._discover, boot=boot)

    def _discover(self) -> list[Device]:
        self.asked += 1
        return [replace(self._device, memory_bytes=self.said)] if self.answers else []

    def says(self, size: int) -> tuple[int, int]:
        """(what counts now, what counts later) once the drivers are asked."""
        self.said = size
        self.ledger.measure()
        return self.counts()

    def counts(self) -> tuple[int, int]:
        [device] = self.ledger.known()
        return device.memory_bytes // GIB, device.next_memory_bytes // GIB

    def grant(self, id: str, gib: int) -> None:
        self.ledger.grant(request(id, memory_bytes=gib * GIB, compute=10))


@pytest.fixture
def machine(home: Path) -> Machine:
    machine = Machine(home)
    machine.ledger.devices()
    return machine


def test_it_follows_at_once_where_no_lease_lives(machine: Machine) -> None:
    assert machine.says(40 * GIB) == (40, 0)
    assert machine.says(90 * GIB) == (90, 0)
    machine.grant("a", 90)
    machine.ledger.release("a")
    assert machine.says(80 * GIB) == (80, 0)


def test_what_is_free_shrinks_where_leases_live(machine: Machine) -> None:
    machine.grant("a", 30)
    machine.grant("b", 20)
    assert machine.says(60 * GIB) == (60, 0)
    assert machine.says(40 * GIB) == (50, 40)
    with pytest.raises(InsufficientShare):
        machine.grant("c", 1)
    machine.ledger.release("b")
    assert machine.counts() == (40, 0)
    machine.grant("c", 10)
    machine.ledger.release("a")
    assert machine.counts() == (40, 0)


def test_it_grows_once_no_lease_lives(machine: Machine) -> None:
    machine.grant("a", 10)
    assert machine.says(100 * GIB) == (80, 100)
    machine.ledger.release("a")
    assert machine.counts() == (100, 0)


def test_a_wish_to_change_that_is_over_leaves_nothing_behind(machine: Machine) -> None:
    machine.grant("a", 50)
    assert machine.says(40 * GIB) == (50, 40)
    # As large again as its leases took it to be, and then as it was.
    assert machine.says(50 * GIB) == (50, 0)
    assert machine.says(80 * GIB) == (50, 80)
    machine.ledger.release("a")
    assert machine.counts() == (80, 0)


@pytest.mark.parametrize(
    ("type", "known", "said", "settled"),
    [
        ("gpu", 1000, 999, 999),
        ("accelerator", 1000, 1001, 1001),
        ("cpu", 1000, 875, 1000),
        ("cpu", 1000, 874, 874),
        ("cpu", 1000, 1125, 1000),
        ("cpu", 1000, 1126, 1126),
    ],
)
def test_only_a_cpu_changes_a_little_without_notice(type: str, known: int, said: int, settled: int) -> None:
    assert device_sizes.settled(type, known, said) == settled


def test_a_cpu_does_not_flap(home: Path) -> None:
    machine = Machine(home, CPU)
    machine.ledger.devices()
    assert [machine.says(size * GIB) for size in (15, 17, 16, 14, 18)] == [(16, 0)] * 5
    assert machine.says(8 * GIB) == (8, 0)
    machine.grant("a", 6)
    assert machine.says(4 * GIB) == (6, 4)
    # Compared with what it is to become: it does not move for that either.
    assert machine.says(4 * GIB + 2**20) == (6, 4)
    machine.ledger.release("a")
    assert machine.counts() == (4, 0)


def test_drivers_are_asked_in_each_boot_and_by_a_refresh(machine: Machine) -> None:
    machine.said = 40 * GIB
    machine.ledger.close()
    machine.ledger = machine.open(boot="next")
    assert [d.memory_bytes for d in machine.ledger.devices()] == [40 * GIB]
    machine.said = 20 * GIB
    assert [d.memory_bytes for d in machine.ledger.devices()] == [40 * GIB]
    assert [d.memory_bytes for d in machine.ledger.rediscover()] == [20 * GIB]


def test_they_are_asked_again_after_an_hour(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who may start a monitor, as controllers, and not by supervisors of jobs."""
    machine = Machine(home)
    supervisor = machine.open()
    monkeypatch.setattr(machine.ledger, "_start_monitor", True)
    machine.ledger.devices()
    machine.said = 40 * GIB
    machine.clock.advance(3599)
    machine.ledger.devices()
    assert machine.asked == 1
    machine.clock.advance(2)
    supervisor.devices()
    assert machine.asked == 1
    assert [d.memory_bytes for d in machine.ledger.devices()] == [40 * GIB]
    machine.ledger.devices()
    assert machine.asked == 2


def test_a_driver_that_does_not_answer_takes_no_device_away(machine: Machine) -> None:
    machine.answers = False
    machine.ledger.measure()
    assert machine.counts() == (80, 0)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("says"), st.integers(1, 40)),
        st.tuples(st.just("grant"), st.integers(1, 20)),
        st.tuples(st.just("release"), st.integers(0, 10)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(operations)
def test_leases_and_sizes_in_any_order(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        machine = Machine(Path(directory), replace(GPUS[0], memory_bytes=16 * GIB))
        machine.ledger.devices()
        said = size = 16
        live: dict[str, int] = {}
        for number, (what, much) in enumerate(steps):
            if what == "says":
                said = much
                machine.says(much * GIB)
            elif what == "grant":
                fits = much <= size - sum(live.values())
                try:
                    machine.grant(f"id-{number}", much)
                    assert fits
                    live[f"id-{number}"] = much
                except InsufficientShare:
                    assert not fits
            elif live:
                id = sorted(live)[much % len(live)]
                del live[id]
                machine.ledger.release(id)
            # The rule: as large as the driver says, or as leases need.
            size = said if not live else max(sum(live.values()), min(size, said))
            assert machine.counts() == (size, said if said != size else 0)
        machine.ledger.close()
