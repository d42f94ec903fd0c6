"""What holds jobs to their leases is looked after while leases are live, and the ledger tells how it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cumulus.chronos.contract import Device, Health
from cumulus.chronos.enforcement_health import LOOK_SECONDS, SHOWN_SECONDS, HealthProber
from cumulus.chronos.ledger import Ledger
from cumulus.clock import FakeClock
from tests.waiting import PATIENCE, eventually

from .conftest import open_ledger, request

WELL = Health("MPSReady", True, "Answers", "It does.")
DOWN = Health("MPSReady", False, "DoesNotStart", "It does not.")
MENDED = Health("MPSReady", True, "Restarted", "It was down.")


class Driver:
    """Answers what it is told to, and counts."""

    def __init__(self) -> None:
        self.looks = 0
        self.said: Sequence[Health] = (WELL,)

    def __call__(self, devices: Sequence[Device], home: Path) -> Sequence[Health]:
        assert [device.id for device in devices][:2] == ["GPU-a", "GPU-b"]
        self.looks += 1
        return self.said


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def ledger(home: Path, clock: FakeClock) -> Iterator[Ledger]:
    ledger = open_ledger(home, clock)
    ledger.devices()
    yield ledger
    ledger.close()


@pytest.fixture
def caretaker(ledger: Ledger, clock: FakeClock, driver: Driver, lines: list[str]) -> HealthProber:
    return HealthProber(ledger.home, clock, lines.append, driver)


def look(caretaker: HealthProber, clock: FakeClock) -> None:
    """The next one, to its end."""
    clock.advance(LOOK_SECONDS)
    caretaker.look()
    assert caretaker._looking is not None
    caretaker._looking.result(PATIENCE)


def test_nothing_is_asked_and_written_while_no_lease_is_live(
    caretaker: HealthProber, ledger: Ledger, clock: FakeClock, driver: Driver
) -> None:
    look(caretaker, clock)
    assert (driver.looks, ledger.health()) == (0, ())


def test_the_ledger_tells_what_was_found_and_is_written_when_that_changes(
    caretaker: HealthProber, ledger: Ledger, clock: FakeClock, driver: Driver, lines: list[str]
) -> None:
    ledger.grant(request("a", seconds=3600))
    look(caretaker, clock)
    assert ledger.health() == (WELL,)
    before = ledger.database.version()
    look(caretaker, clock)
    assert (driver.looks, ledger.database.version()) == (2, before)
    driver.said = (DOWN,)
    look(caretaker, clock)
    assert ledger.health() == (DOWN,)
    assert lines == ["MPSReady True, Answers: It does.", "MPSReady False, DoesNotStart: It does not."]


def test_what_is_not_well_is_looked_at_without_a_lease_too(
    caretaker: HealthProber, ledger: Ledger, clock: FakeClock, driver: Driver
) -> None:
    ledger.grant(request("a", seconds=3600))
    driver.said = (DOWN,)
    look(caretaker, clock)
    ledger.release("a")
    driver.said = (WELL,)
    look(caretaker, clock)
    assert ledger.health() == (WELL,)
    look(caretaker, clock)
    assert driver.looks == 2


def test_nothing_is_asked_at_rest_where_all_is_well_in_whatever_words(
    caretaker: HealthProber, ledger: Ledger, clock: FakeClock, driver: Driver
) -> None:
    driver.said = (WELL, Health("OpenCLLayer", True, "Found", "There."))
    ledger.grant(request("a", seconds=3600))
    look(caretaker, clock)
    ledger.release("a")
    look(caretaker, clock)
    assert driver.looks == 1


def test_that_something_was_mended_is_shown_for_a_while(
    caretaker: HealthProber, ledger: Ledger, clock: FakeClock, driver: Driver
) -> None:
    ledger.grant(request("a", seconds=3600))
    driver.said = (MENDED,)
    look(caretaker, clock)
    driver.said = (WELL,)
    look(caretaker, clock)
    assert ledger.health() == (MENDED,)
    clock.advance(SHOWN_SECONDS)
    look(caretaker, clock)
    assert ledger.health() == (WELL,)


def test_a_look_is_not_waited_for_and_not_begun_twice(
    caretaker: HealthProber, ledger: Ledger, clock: FakeClock, driver: Driver
) -> None:
    ledger.grant(request("a", seconds=3600))
    caretaker.look()
    caretaker.look()
    eventually(lambda: driver.looks == 1, what="a look")
    caretaker.look()
    assert driver.looks == 1


def test_what_a_look_raises_comes_out_at_the_next(
    caretaker: HealthProber, ledger: Ledger, clock: FakeClock, driver: Driver
) -> None:
    ledger.grant(request("a", seconds=3600))

    def fail(devices: Sequence[Device], home: Path) -> Sequence[Health]:
        raise OSError("no driver")

    caretaker._look = fail
    clock.advance(LOOK_SECONDS)
    caretaker.look()
    assert caretaker._looking is not None
    caretaker._looking.exception(10)
    with pytest.raises(OSError, match="no driver"):
        caretaker.look()
    caretaker._look = driver
    look(caretaker, clock)
    assert ledger.health() == (WELL,)
