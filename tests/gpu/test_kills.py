"""Who is killed at each step of parking and of coming back: the program goes on, or is gone with all that it held.
Nothing is held twice, and nothing stays set aside."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cumulus.chronos import monitor_control
from cumulus.chronos.contract import LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.parking import rows
from cumulus.chronos.parking.self_test import SelfTest
from cumulus.chronos.parking.steps import ParkingStep
from cumulus.lib import processes
from tests.e2e.conftest import Machine, manifest

from .conftest import GIB, HERE, memory_used, until
from .test_parking import DRIVERS_OWN, Parkable, parkable, proven

__all__ = ["parkable"]
Measured = Callable[[str, object], None]
MIB = 2**20
SIZE = 4 * GIB
STEPS = [ParkingStep.ASKED, ParkingStep.LOCKING, ParkingStep.MOVING, ParkingStep.PARKED, ParkingStep.RETURNING]
RESIDENT = b"VmRSS:"
PHASE = "--for=jsonpath={.status.phase}"


def step(ledger: Ledger, id: str) -> ParkingStep:
    with ledger.database.read() as db:
        row = rows.find(db, id)
    return row.step if row is not None else ParkingStep.NONE


def reach(parkable: Parkable, wanted: ParkingStep) -> ParkingStep:
    """Ask for what leads to that step, and wait for it or one after it; the step that was seen."""
    if wanted is ParkingStep.RETURNING:
        assert parkable.park("a").state is LeaseState.PARKED
        parkable.ledger.unpark("a", 600)
    else:
        parkable.ledger.park("a", 600)
    passed = STEPS[STEPS.index(wanted) :]
    until(lambda: step(parkable.ledger, "a") in passed, 60)
    return step(parkable.ledger, "a")


def resident(pid: int) -> int:
    return int(processes.status_field(pid, RESIDENT)[0]) * 1024


def helpers(home: Path) -> list[int]:
    """The processes of the monitor that call the driver."""
    monitor = monitor_control.running(home)
    assert monitor is not None
    return [pid for pid in processes.descendants(monitor) if "checkpoint_process" in command_line(pid)]


def command_line(pid: int) -> str:
    return processes.content(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode()


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize("who", ["monitor", "helper", "program"])
def test_a_kill_leaves_nothing_half_done(parkable: Parkable, who: str, at: ParkingStep, measured: Measured) -> None:
    proven(parkable, "cuda")
    gpu, home = parkable.node.gpu, parkable.ledger.home
    before = memory_used(gpu)
    program = parkable.cuda(parkable.lease("a", 0.2), "alloc", "device", SIZE)
    program.line()
    running = memory_used(gpu)
    seen = reach(parkable, at)
    if who == "program":
        program.kill()
    else:
        monitor = monitor_control.running(home)
        assert monitor is not None
        for pid in [monitor] if who == "monitor" else helpers(home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    found = parkable.moved("a")
    if who == "program":
        until(lambda: parkable.ledger.parking().used_bytes == 0, 60)
        until(lambda: memory_used(gpu) <= before + DRIVERS_OWN, 60)
        measured(f"{who} killed at {seen}: MiB of the GPU beside before", (memory_used(gpu) - before) / MIB)
        return
    if found.state is LeaseState.PARKED:
        assert memory_used(gpu) <= before + DRIVERS_OWN
        assert parkable.ledger.parking().used_bytes == found.parked_bytes
        assert resident(program.process.pid) >= SIZE
        found = parkable.unpark("a")
    assert found.state is LeaseState.ACTIVE, found.end_reason
    assert program.alive()
    assert parkable.ledger.parking().used_bytes == 0
    assert abs(memory_used(gpu) - running) <= DRIVERS_OWN
    assert resident(program.process.pid) < SIZE
    measured(f"{who} killed at {seen}: MiB of the GPU beside those of the program", (memory_used(gpu) - running) / MIB)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("at", [LeaseState.PARKING, LeaseState.PARKED, LeaseState.UNPARKING])
def test_a_daemon_that_is_killed_finds_the_job_where_its_node_has_it(machine: Machine, at: LeaseState) -> None:
    ledger = Ledger(Path(machine.env["CHRONOS_HOME"]))
    gpus = [device for device in ledger.devices() if device.type == "gpu"]
    for each in gpus:
        shown = SelfTest(ledger, each).run("cuda")
        assert shown is not None
        assert shown.holds, shown.message
        with ledger.database.write() as tx:
            rows.record_proofs(tx, [shown])
    until(lambda: not ledger.list(), 60)

    idle = {each.id: memory_used(each) for each in gpus}
    hold = f"sleep 600 | {shlex.join([sys.executable, '-S', str(HERE / 'job.py'), 'alloc', 'device', str(SIZE)])}"
    spec = manifest("held", hold)
    spec["spec"]["gpu"] = {"memory": "20%", "duration": "10m", "sharing": "Parkable"}
    machine.apply(spec)
    until(lambda: '"outcome": "ok"' in machine.run("logs", "held").stdout, 90)
    (device,) = {lease.device_id for lease in ledger.list()}
    (gpu,) = (each for each in gpus if each.id == device)
    before, running = idle[device], memory_used(gpu)
    assert running >= before + SIZE
    machine.ok("park", "held")
    if at is LeaseState.UNPARKING:
        machine.ok("wait", "job", "held", f"{PHASE}=Parked", "--timeout=120s")
        machine.ok("unpark", "held")
    until(lambda: at in {lease.state for lease in ledger.list()}, 60)
    machine.daemons[0].kill()
    machine.daemons[0].wait()
    machine.serve()
    if at is not LeaseState.UNPARKING:
        machine.ok("wait", "job", "held", f"{PHASE}=Parked", "--timeout=120s")
        assert memory_used(gpu) <= before + DRIVERS_OWN
        machine.ok("unpark", "held")
    machine.ok("wait", "job", "held", f"{PHASE}=Running", "--timeout=120s")
    assert [lease.state for lease in ledger.list()] == [LeaseState.ACTIVE]
    assert len(machine.get("job", "held")["status"]["attempts"]) == 1
    assert abs(memory_used(gpu) - running) <= DRIVERS_OWN
    assert ledger.parking().used_bytes == 0
    ledger.close()
