"""GPUs that do nothing: since when a node says so, and what becomes of the jobs on them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cumulus.chronos.contract import Figures, NodeFacts
from cumulus.controllers.node.idleness import Idleness
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.job import JobPhase
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.node import DeviceFigures, DeviceStatus, GPUNode, GPUNodeStatus
from cumulus.resources.parking import Idle
from cumulus.resources.reasons import ParkingReason
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon
from tests.controllers.objects import a_job
from tests.controllers.test_parking import Bed
from tests.controllers.test_queues import a_queue, of

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NODE = GPUNode(metadata=ObjectMeta(name="n", uid="u"))
AFTER = "200s"
PARK = Idle(after=AFTER, action="Park")


def looks(*busy: int | None, before: str | None = None) -> list[float | None]:
    """For how many seconds the device is said to do nothing, at looks that are ten seconds apart."""
    idleness, told = Idleness(), []
    for number, each in enumerate(busy):
        figures = None if each is None else DeviceFigures(busy=each)
        device = DeviceStatus(index=0, id="d", name="GPU", memory_bytes=1, figures=figures)
        now = NOW + timedelta(seconds=10 * number)
        old = GPUNodeStatus(devices=(device.model_copy(update={"idle_since": before}),))
        (seen,) = idleness.told(NODE.replace(status=old), GPUNodeStatus(devices=(device,)), now).devices
        before = seen.idle_since
        told.append(None if before is None else (now - datetime.fromisoformat(before)).total_seconds())
    return told


@pytest.mark.parametrize(
    ("busy", "told"),
    [
        ((0,) * 6, [None] * 6),
        ((0,) * 8, [None] * 6 + [60, 70]),
        ((0, 0, 0, 700, 0, 0, 0, 0, 0, 0, 0), [None] * 10 + [60]),
        ((*(0,) * 8, 1), [None] * 6 + [60, 70, None]),
        ((None,) * 8, [None] * 8),
    ],
    ids=["not yet", "for a minute", "a moment of work", "it works again", "the driver does not tell"],
)
def test_since_when_a_device_does_nothing(busy: tuple[int, ...], told: list[float | None]) -> None:
    assert looks(*busy) == told


def test_another_daemon_goes_on_with_what_was_written() -> None:
    since = (NOW - timedelta(minutes=9)).isoformat()
    assert looks(0, 0, before=since) == [540, 550]
    assert looks(5, 0, before=since) == [None, None]


class IdleBed(Bed):
    """One device, of which the driver tells how busy it is: not at all, at first."""

    def __init__(self, **spec: object) -> None:
        self.busy: int | None = 0
        super().__init__()
        self.world.backend.script = lambda workload: Script(seconds=math.inf, stop_seconds=3)
        figures = lambda: {"fake/0": Figures(busy=self.busy)}  # noqa: E731
        self.world.agents[:] = [NodeAgent("node-1", self.node, facts=lambda: replace(NodeFacts(), figures=figures()))]
        self.daemon = Daemon(self.world, "b")
        self.world.apply(a_queue(**({"idle": PARK} if spec.pop("by_queue", False) else {})))
        self.world.apply(of(a_job("notebook", memory="1.0", duration="24h", **spec), "alice", "default"))
        self.until(lambda: self.phase("notebook") is JobPhase.RUNNING)


@pytest.mark.parametrize("spec", [{"idle": PARK}, {"by_queue": True}], ids=["its own", "its queue's"])
def test_a_job_whose_gpu_does_nothing_is_parked_until_somebody_asks_for_it(spec: dict[str, object]) -> None:
    bed = IdleBed(**spec)
    bed.pass_(190)
    assert bed.phase("notebook") is JobPhase.RUNNING
    bed.pass_(50)
    assert bed.phase("notebook") is JobPhase.PARKED
    assert bed.said("notebook") == ("True", "Idle")
    told = dict(bed.events("notebook"))
    assert told["Parked"].startswith("its GPU did nothing for 3m")
    bed.pass_(600)
    assert bed.phase("notebook") is JobPhase.PARKED, "nobody has asked"
    bed.ask_back("notebook")
    bed.until(lambda: bed.phase("notebook") is JobPhase.RUNNING)
    bed.pass_(150)
    assert bed.phase("notebook") is JobPhase.RUNNING, "the time begins anew"
    bed.pass_(100)
    assert bed.phase("notebook") is JobPhase.PARKED


def test_work_begins_the_time_anew_and_a_silent_driver_means_nothing() -> None:
    bed = IdleBed(idle=PARK)
    for _ in range(4):
        bed.pass_(150)
        bed.busy = 300
        bed.pass_(20)
        bed.busy = 0
    assert bed.phase("notebook") is JobPhase.RUNNING
    bed.busy = None
    bed.pass_(600)
    assert bed.phase("notebook") is JobPhase.RUNNING


def test_report_sets_a_condition_and_takes_it_back() -> None:
    bed = IdleBed(idle=Idle(after=AFTER))
    bed.pass_(250)
    assert bed.said("notebook", "Idle") == ("True", "GPUIdle")
    assert ("GPUIdle", "its GPU has done nothing for 200s") in bed.events("notebook")
    bed.busy = 500
    bed.pass_(50)
    assert bed.said("notebook", "Idle") == ("False", "GPUBusy")
    assert bed.phase("notebook") is JobPhase.RUNNING


def test_release_ends_the_job_though_it_works_while_it_saves() -> None:
    bed = IdleBed(idle=Idle(after=AFTER, action="Release"), checkpoint=Checkpoint(path="/c"))
    stops: list[str] = []
    stop = bed.world.backend.stop

    def stopped(name: str, grace: float, reason: str = "") -> None:
        stops.append(reason)
        bed.busy = 900
        stop(name, grace, reason)

    bed.world.backend.stop = stopped  # type: ignore[method-assign]
    bed.until(lambda: bed.phase("notebook") is JobPhase.FAILED, within=1800)
    assert set(stops) == {"Idle"}
    job = bed.world.job("notebook")
    assert job.status.attempts[-1].reason == "Idle"
    assert job.status.attempts[-1].message.startswith("its GPU did nothing for 3m")


def test_a_job_that_cannot_be_parked_is_told_once_and_goes_on() -> None:
    bed = IdleBed(idle=PARK)
    bed.node.refuse_park(ParkingReason.MPS_CLIENT, "it uses MPS")
    bed.pass_(500)
    assert bed.phase("notebook") is JobPhase.RUNNING
    assert bed.said("notebook") == ("False", "ParkRefused")
    assert [reason for reason, _ in bed.events("notebook")].count("ParkRefused") == 1


def test_a_queue_that_parks_only_reports_of_gangs() -> None:
    bed = IdleBed(by_queue=True)
    bed.world.apply(of(a_job("gang", memory="0.1", replicas=2, duration="24h"), "alice", "default"))
    bed.pass_(300)
    bed.until(lambda: bed.phase("gang") is JobPhase.RUNNING)
    bed.pass_(300)
    assert bed.said("gang", "Idle") == ("True", "GPUIdle")
    assert bed.phase("gang") is JobPhase.RUNNING
