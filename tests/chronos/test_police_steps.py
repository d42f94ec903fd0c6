"""The police's looks, one by one: time and driver are the test's, the processes and the ledger real."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cumulus.chronos import device_records, police
from cumulus.chronos.contract import Figures
from cumulus.chronos.contract.policy import PolicyChange
from cumulus.chronos.device_processes import DeviceHeld, DeviceProcesses
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.police import Police, Verdict
from cumulus.chronos.unleased import KILL_SECONDS, NOTICE_SECONDS
from cumulus.clock import FakeClock
from cumulus.health import node
from cumulus.lib import processes
from cumulus.resources.enforcement import Unleased
from tests.chronos.conftest import GIB, SLEEP, request, up
from tests.waiting import PATIENCE

Run = Callable[..., subprocess.Popen[bytes]]

NOBODY_HERE = 2**22 - 3
"""A pid that no process has."""
HOLDS = "import os; gpu = open(os.environ['OUT'] + '/nvidia0', 'w');"
"""A file of that name stands for the GPU's."""
AS_SOMEBODY = HOLDS + "os.setgid(64321); os.setuid(64321);"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"


@dataclass
class Driver(DeviceProcesses):
    """Tells what the test says."""

    held: dict[str, DeviceHeld] | None = field(default_factory=dict)
    told: dict[str, Figures] = field(default_factory=dict)
    looks: list[Sequence[str]] = field(default_factory=list)

    def look(self, devices: Sequence[str]) -> Mapping[str, DeviceHeld] | None:
        self.looks.append(devices)
        return None if self.held is None else {id: held for id, held in self.held.items() if id in devices}

    def figures(self, devices: Sequence[str], since: float) -> Mapping[str, Figures] | None:
        return self.told

    def close(self) -> None:
        pass


class Bed:
    def __init__(self, ledger: Ledger, clock: FakeClock) -> None:
        self.clock = clock
        self.driver = Driver()
        self.said: list[str] = []
        ledger.devices()
        self.police = Police(ledger.database, clock, lambda: None, self.said.append, self.driver)

    def look(self, seconds: float = 0.25) -> Verdict:
        """Looks for so long."""
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            self.police.step()
        return self.police.verdict

    def conditions(self) -> dict[str, tuple[bool, str]]:
        return {each.type: (each.status, each.reason) for each in self.police.health}


@pytest.fixture
def bed(ledger: Ledger, clock: FakeClock) -> Bed:
    return Bed(ledger, clock)


def test_nobody_looks_where_no_lease_lives_and_nobody_asks(bed: Bed, ledger: Ledger) -> None:
    bed.look(5)
    assert bed.driver.looks == []
    bed.police.watched()
    bed.look(5)
    assert bed.driver.looks == [["GPU-a", "GPU-b"]]
    ledger.grant(request())
    bed.look(2)
    assert bed.driver.looks[-1] == ["GPU-a"]
    assert {tuple(devices) for devices in bed.driver.looks} == {("GPU-a",), ("GPU-a", "GPU-b")}


def test_what_cannot_be_told_apart_is_policed_by_the_total(bed: Bed, ledger: Ledger) -> None:
    ledger.grant(request())
    bed.police._trusting = False
    bed.driver.held = {"GPU-a": DeviceHeld(40 * GIB, {NOBODY_HERE: 40 * GIB})}
    # It may have ended just now: drivers keep it on their books for a moment.
    bed.look(2)
    assert bed.conditions()["Policed"] == (True, "ByProcess")
    assert bed.look(4).end == {"a"}
    assert bed.conditions()["Policed"] == (True, "ByDevice")
    ledger.grant(request("b"))
    assert bed.look(2).end == frozenset()


def test_what_a_process_left_to_others_is_its_leases_or_nobodys(
    bed: Bed, ledger: Ledger, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed program's forked workers keep its memory, on the driver's books under the number of who is gone."""
    bed.police._trusting = True
    ledger.grant(request())
    bed.driver.held = {"GPU-a": DeviceHeld(40 * GIB, {NOBODY_HERE: 40 * GIB})}
    assert bed.look(6).end == frozenset()
    assert bed.conditions()["Policed"] == (True, "ByProcess")
    process = run(HOLDS + SLEEP)
    up(process)
    ledger.attach("b", process.pid, ledger.grant(request("b")).token)
    bed.driver.held = {"GPU-a": DeviceHeld(40 * GIB, {process.pid: 20 * GIB})}
    bed.look(1)
    process.kill()
    process.wait()
    bed.driver.held = {"GPU-a": DeviceHeld(40 * GIB, {process.pid: 40 * GIB})}
    assert bed.look(2).end == frozenset()
    # Its number may be another's by then, who holds nothing.
    reused = run(SLEEP)
    up(reused)
    proc = processes.read(reused.pid)
    monkeypatch.setattr(police, "read", lambda pid: proc)
    assert bed.look(3).end == {"b"}
    assert reused.pid not in {who.pid for who in bed.police.of("b")}
    assert bed.police.seen.unleased == ()


def test_what_others_hold_is_not_a_lonely_leases(bed: Bed, ledger: Ledger, run: Run) -> None:
    ledger.grant(request())
    bed.police._trusting = True
    stray = run(SLEEP)
    up(stray)
    bed.driver.held = {"GPU-a": DeviceHeld(40 * GIB, {stray.pid: 40 * GIB}, untold=1)}
    assert bed.look(4).end == frozenset()
    assert bed.conditions()["Policed"] == (True, "ByDevice")


def test_a_driver_without_an_answer_is_said_and_judges_nobody(bed: Bed, ledger: Ledger, home: Path) -> None:
    ledger.grant(request())
    bed.driver.held = None
    assert bed.look(2) == Verdict()
    assert bed.conditions()["Policed"] == (False, "Unavailable")
    bed.driver.held = {}
    bed.look()
    assert bed.conditions()["Policed"] == (False, "Unavailable")
    with ledger.database.write() as tx:
        device_records.record_health(tx, bed.police.health, device_records.POLICING)
    found = {(finding.level, finding.text) for finding in node.policing(home)}
    assert ("WARN", "no driver tells what processes hold of device 0 (H100): overuse there is not seen") in found


def test_errors_that_cannot_be_corrected_fail_a_gpu(bed: Bed, ledger: Ledger) -> None:
    ledger.grant(request())
    bed.driver.held = {"GPU-a": DeviceHeld(0, {})}
    bed.driver.told = {"GPU-a": Figures(ecc_corrected=9, ecc_uncorrected=0)}
    assert bed.look(6).lost == frozenset()
    bed.driver.told = {"GPU-a": Figures(ecc_uncorrected=2)}
    bed.look(6)
    assert bed.look().lost == {"a"}
    assert bed.police.faults == {"GPU-a": "2 uncorrectable memory errors (ECC)"}
    assert bed.conditions()["DevicesHealthy"] == (False, "DeviceFailed")


def test_a_gpu_that_is_away_for_one_look_has_not_failed(bed: Bed, ledger: Ledger) -> None:
    ledger.grant(request())
    lost = {"GPU-a": DeviceHeld(0, {}, lost=True)}
    bed.driver.held = lost
    bed.look()
    bed.driver.held = {"GPU-a": DeviceHeld(0, {})}
    bed.look(2)
    assert bed.police.faults == {}
    bed.driver.held = lost
    bed.look(1)
    assert bed.look().lost == {"a"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs of other users, and ends them")
def test_end_ends_people_after_a_notice_and_nobody_else(bed: Bed, ledger: Ledger, run: Run) -> None:
    ledger.grant(request())
    somebody, stubborn = run(AS_SOMEBODY + SLEEP), run(STUBBORN + AS_SOMEBODY + SLEEP)
    root, reused = run(HOLDS + SLEEP), run("import os; os.setuid(64322);" + SLEEP)
    for process in (somebody, stubborn, root, reused):
        up(process)
    pids = (somebody.pid, stubborn.pid, root.pid, reused.pid)
    bed.driver.held = {"GPU-b": DeviceHeld(9 * GIB, dict.fromkeys(pids, 3 * GIB))}
    bed.look(NOTICE_SECONDS + 10)
    assert [process.poll() for process in (somebody, stubborn, root)] == [None] * 3
    assert {process.pid for process in bed.police.seen.unleased} == set(pids)
    assert bed.conditions()["OnlyLeased"] == (False, "UnleasedProcesses")
    ledger.set_policy(PolicyChange(unleased=Unleased.END, exceptions=("user:64321",)))
    bed.look(2)
    assert somebody.poll() is None
    ledger.set_policy(PolicyChange(exceptions=()))
    bed.look(1)
    assert somebody.wait(PATIENCE) == -signal.SIGTERM
    assert stubborn.poll() is None
    bed.look(KILL_SECONDS + 1)
    assert stubborn.wait(PATIENCE) == -signal.SIGKILL
    # One has no GPU open: the driver lists a number that was another's.
    assert [process.poll() for process in (root, reused)] == [None, None]
    assert len(bed.said) == 2
