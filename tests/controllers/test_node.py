"""What a node's answer becomes, and when it is worth a write."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos.contract import Figures, Health, LeaseRequest, NodeFacts, PolicyChange, UnleasedProcess
from cumulus.chronos.ledger import Ledger
from cumulus.clock import FakeClock, timestamp
from cumulus.controllers.node import controller
from cumulus.errors import LedgerFull, LedgerReplaced, LedgerUnavailable
from cumulus.nodes.agent import NodeAgent
from cumulus.resources import job_partitions
from cumulus.resources.enforcement import Overuse
from cumulus.resources.event import Event
from cumulus.resources.job import GPUJob, Mount
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.kinds.gpunode import node_status
from cumulus.resources.meta import ObjectMeta, condition, is_true
from cumulus.resources.node import GPUNode, GPUNodeStatus
from cumulus.resources.partition import GPUPartition
from cumulus.resources.reservation import Reservation, ReservationSpec
from cumulus.testing.backend import Script
from cumulus.testing.leases import FakeLeases, fake_device
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job, a_partition

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GIB = 2**30
ROOT = Path(__file__).parents[2]


def after(seconds: float, status: GPUNodeStatus, **changes: object) -> GPUNodeStatus:
    return status.model_copy(update={"heartbeat_time": timestamp(NOW + timedelta(seconds=seconds)), **changes})


HEARD = GPUNodeStatus(heartbeat_time=timestamp(NOW), hostname="h", clock_skew_seconds=0.0)


@pytest.mark.parametrize(
    ("old", "new", "worth"),
    [
        pytest.param(GPUNodeStatus(), HEARD, True, id="the first"),
        pytest.param(HEARD, after(10, HEARD), False, id="a heartbeat soon after another"),
        pytest.param(HEARD, after(20, HEARD), True, id="a heartbeat that is due"),
        pytest.param(HEARD, after(1, HEARD, hostname="other"), True, id="anything else that changed"),
        pytest.param(HEARD, after(1, HEARD, clock_skew_seconds=0.01), False, id="a clock's jitter"),
        pytest.param(HEARD, after(1, HEARD, clock_skew_seconds=3.0), True, id="a clock that was set"),
        pytest.param(HEARD, after(-100, HEARD), True, id="our own clock was set back"),
    ],
)
def test_what_is_worth_a_write(old: GPUNodeStatus, new: GPUNodeStatus, worth: bool) -> None:
    assert controller.worth_writing(old, new) is worth


def test_a_node_says_when_it_is_held_for_nobody() -> None:
    world = World()
    daemon = Daemon(world)
    settle(world, daemon, seconds=1)
    name = world.node().metadata.name
    start = world.clock.now() + timedelta(seconds=60)
    spec = {"nodes": [name], "start": timestamp(start), "duration": "60s"}
    for reservation, more in (("course", {"for": {"users": ["eve"]}}), ("one", {"device": "other*"}), ("service", {})):
        given = ReservationSpec.model_validate({**spec, **more})
        world.client.create(Reservation(metadata=ObjectMeta(name=reservation), spec=given))

    def shown() -> str:
        return node_status(world.node().to_json(), world.clock.now())

    settle(world, daemon, seconds=5)
    drain = world.node().status.drain
    assert drain is not None
    assert drain.reservation == "service"
    assert shown() == "Ready,Drain(in 55s)"
    settle(world, daemon, seconds=70)
    assert shown() == "Ready,Drain(45s more)"
    settle(world, daemon, seconds=60)
    assert (shown(), world.node().status.drain) == ("Ready", None)


def test_own_and_foreign_leases_are_told_apart_and_both_are_taken() -> None:
    leases = FakeLeases([fake_device(memory_bytes=100)], FakeClock())
    leases.grant(LeaseRequest("ours", 0, 30, 300, seconds=60))
    leases.grant(LeaseRequest("theirs", 0, 20, 200, seconds=60, grace=7, user="bob"))
    status = controller.observed(
        GPUNode(metadata=ObjectMeta(name="n")), NodeAgent("n", leases), leases.devices(), leases.list(), {"ours"}, NOW
    )
    (device,) = status.devices
    assert (device.free_memory_bytes, device.free_compute) == (50, 500)
    assert [(f.partition_id, f.grace_seconds, f.user) for f in device.foreign_leases] == [("theirs", 7, "bob")]
    assert is_true(status.conditions, "Ready")


def test_what_holds_jobs_on_a_node_is_told_as_its_conditions() -> None:
    world = World()
    told = [Health("MPSReady", True, "Answers", "It does.")]
    world.agents[0] = NodeAgent("node-1", world.leases["node-1"], facts=lambda: NodeFacts(conditions=tuple(told)))
    daemon = Daemon(world)

    def shown(condition: str) -> str:
        found = next((c for c in world.node().status.conditions if c.type == condition), None)
        return "" if found is None else f"{found.status} {found.reason}"

    def warnings() -> list[str]:
        return [event.reason for event in world.client.list(Event) if event.reason.startswith("MPS")]

    drive(world, daemon, until=lambda: len(world.client.list(GPUNode)) == 1)
    drive(world, daemon, until=lambda: shown("MPSReady") == "True Answers")
    told[:] = [Health("MPSReady", False, "Faulted", "A job faulted.")]
    drive(world, daemon, until=lambda: shown("MPSReady") == "False Faulted", within=15)
    settle(world, daemon, seconds=30)
    told[:] = [Health("MPSReady", True, "Restarted", "It was down.")]
    drive(world, daemon, until=lambda: shown("MPSReady") == "True Restarted", within=15)
    told[:] = [Health("MPSReady", True, "Answers", "It does.")]
    drive(world, daemon, until=lambda: shown("MPSReady") == "True Answers", within=15)
    settle(world, daemon, seconds=5)
    assert sorted(warnings()) == ["MPSReadyFaulted", "MPSReadyRestarted"]
    told.clear()
    drive(world, daemon, until=lambda: shown("MPSReady") == "", within=15)
    assert shown("Ready") == "True Answers"


def test_figures_are_written_when_they_change_by_much_and_who_has_no_lease_at_once() -> None:
    leases = FakeLeases([fake_device(memory_bytes=100 * GIB)], FakeClock())
    told: dict[str, object] = {}

    def status(**figures: object) -> GPUNodeStatus:
        agent = NodeAgent("n", leases, facts=lambda: NodeFacts(figures={"fake/0": Figures(**figures)}, **told))  # type: ignore[arg-type]
        node = GPUNode(metadata=ObjectMeta(name="n"))
        return controller.observed(node, agent, leases.devices(), leases.list(), set(), NOW)

    before = status(temperature=60, busy=500)
    assert not controller.worth_writing(before, status(temperature=63, busy=600))
    assert controller.worth_writing(before, status(temperature=70, busy=500))
    assert controller.worth_writing(before, status(temperature=60, busy=500, fault="Xid 79"))
    told["unleased"] = (UnleasedProcess("fake/0", 12, 1000, "eve", "python", 30 * GIB),)
    found = status(temperature=60, busy=500)
    assert controller.worth_writing(before, found)
    assert found.devices[0].free_memory_bytes == 70 * GIB


def test_a_node_is_told_once_what_its_spec_says_of_overuse() -> None:
    world = World()
    told: list[PolicyChange] = []
    world.agents[0] = NodeAgent("node-1", world.leases["node-1"], set_policy=told.append)
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: len(world.client.list(GPUNode)) == 1)
    assert told == []
    found = world.node()
    spec = found.spec.model_copy(update={"overuse": Overuse.REPORT, "unleased_exceptions": ("user:ann",)})
    world.client.update(found.replace(spec=spec))
    settle(world, daemon, seconds=60)
    assert told == [PolicyChange(Overuse.REPORT, None, ("user:ann",))]


def test_a_device_of_another_size_is_told_once(tmp_path: Path) -> None:
    """The driver says less than what leases hold: no more is granted, and an event says why."""
    world = World()
    found = [fake_device(memory_bytes=4 * GIB)]
    ledger = Ledger(tmp_path, world.clock, lambda: list(found), start_monitor=False)
    world.agents[0] = NodeAgent("node-1", ledger)
    daemon = Daemon(world)

    def told() -> list[tuple[str, str]]:
        events = [event for event in world.client.list(Event) if event.reason == "DeviceResized"]
        return [(event.type, event.message) for event in sorted(events, key=lambda event: event.last_timestamp)]

    def sizes() -> list[tuple[int, int | None, int]]:
        devices = world.node().status.devices
        return [(d.memory_bytes // GIB, d.next_memory_bytes, d.free_memory_bytes // GIB) for d in devices]

    drive(world, daemon, until=lambda: _ready(world) == "True")
    ledger.grant(LeaseRequest("a", 0, 3 * GIB, 300, seconds=600))
    found[:] = [fake_device(memory_bytes=2 * GIB)]
    ledger.measure()
    settle(world, daemon, seconds=30)
    assert sizes() == [(3, 2 * GIB, 0)]
    text = "device 0 (Fake GPU) has 2Gi of memory now, 4Gi before; "
    assert told() == [("Warning", f"{text}its leases hold 3Gi, and nothing is granted until some have ended")]
    ledger.release("a")
    settle(world, daemon, seconds=30)
    assert sizes() == [(2, None, 2)]
    assert len(told()) == 1
    found[:] = [fake_device(memory_bytes=8 * GIB)]
    ledger.measure()
    settle(world, daemon, seconds=30)
    assert sizes() == [(8, None, 8)]
    assert told()[-1] == ("Normal", "device 0 (Fake GPU) has 8Gi of memory now, 2Gi before")
    ledger.close()


def test_each_term_reports_a_node_at_its_begin_though_nothing_changed() -> None:
    """`wait` believes no report of a daemon that stopped."""
    world = World()
    first = Daemon(world)
    drive(world, first, until=lambda: _ready(world) == "True")
    assert world.node().status.term == 1
    first.elector.release()
    settle(world, Daemon(world, "b"), seconds=1)
    assert (world.node().status.term, _ready(world)) == (2, "True")


def test_a_nodes_labels_from_people_stay() -> None:
    world = World()
    world.agents[0] = NodeAgent("node-1", world.leases["node-1"], labels={"zone": "a"})
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: len(world.client.list(GPUNode)) == 1)
    found = world.node()
    labels = {**found.metadata.labels, "rack": "7"}
    world.client.update(found.replace(metadata=found.metadata.model_copy(update={"labels": labels})))
    settle(world, daemon, seconds=30)
    assert world.node().metadata.labels == {"zone": "a", "rack": "7"}


def test_a_cordon_survives_heartbeats_and_keeps_new_work_away() -> None:
    world = World()
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: len(world.client.list(GPUNode)) == 1)
    found = world.node()
    world.client.update(found.replace(spec=found.spec.model_copy(update={"unschedulable": True})))
    world.apply(a_partition())
    settle(world, daemon, seconds=60)
    assert world.node().spec.unschedulable
    assert world.client.list(GPUPartition)[0].status.node == ""


def test_silence_is_unknown_after_a_while_and_an_answer_heals_it() -> None:
    world = World()
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: _ready(world) == "True")
    world.leases["node-1"].reachable = False
    settle(world, daemon, seconds=25)
    assert _ready(world) == "True"
    settle(world, daemon, seconds=35)
    assert _ready(world) == "Unknown"
    world.leases["node-1"].reachable = True
    settle(world, daemon, seconds=15)
    assert _ready(world) == "True"


@pytest.mark.parametrize("kind", [LedgerReplaced, LedgerFull])
def test_a_node_that_says_why_nothing_can_be_leased_there_is_not_ready_at_once(kind: type[LedgerUnavailable]) -> None:
    """It is not slow or away."""
    world = World()
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: _ready(world) == "True")
    world.leases["node-1"].faults.fail("devices", kind("it was moved", hint="put it back"))
    drive(world, daemon, until=lambda: because(world)[0] == kind.__name__, within=controller.LOOK_SECONDS + 1)
    assert because(world) == (kind.__name__, "Unknown", "it was moved; put it back")
    drive(world, daemon, until=lambda: because(world)[1] == "True", within=controller.LOOK_SECONDS + 1)


def because(world: World) -> tuple[str, str, str]:
    found = condition(world.node().status.conditions, "Ready")
    assert found is not None
    return found.reason, found.status, found.message


def test_a_share_that_is_given_back_is_free_almost_at_once() -> None:
    world = World(script=lambda workload: Script(seconds=30))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: _ready(world) == "True")
    settle(world, daemon, seconds=1.5)
    world.apply(a_job())
    drive(world, daemon, until=lambda: _free(world) == 500, within=0.5)
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.SUCCEEDED)
    drive(world, daemon, until=lambda: _free(world) == 1000, within=0.1)


def test_a_busy_node_is_not_written_for_every_lease() -> None:
    world = World(script=lambda workload: Script(seconds=0.2 + len(workload.job) % 7 * 0.11))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: _ready(world) == "True")
    began = world.clock.monotonic()
    watch = world.store.watch(since=world.store.revision(), kinds=frozenset({GPUNode.KIND}))
    for number in range(40):
        world.apply(a_job("a" * (number + 1), memory=f"0.{1 + number % 7}"))
    drive(world, daemon, until=lambda: all(job.status.phase.finished for job in world.client.list(GPUJob)))
    took = world.clock.monotonic() - began
    writes = sum(len(events) for events in iter(lambda: watch.next(0), []))
    watch.close()
    assert took > 10
    assert writes <= controller.BURST + took / controller.BUSY_LOOK_SECONDS + 1


def test_a_node_that_nobody_looks_after_becomes_unknown() -> None:
    world = World()
    first = Daemon(world)
    drive(world, first, until=lambda: _ready(world) == "True")
    world.agents.clear()
    second = Daemon(world, "b")
    settle(world, second, seconds=90)
    assert _ready(world) == "Unknown"


def _free(world: World) -> int:
    return world.node().status.devices[0].free_compute


def _ready(world: World) -> str:
    nodes = world.client.list(GPUNode)
    found = condition(nodes[0].status.conditions, "Ready") if nodes else None
    return found.status if found else ""


def test_a_job_whose_checkpoints_a_node_cannot_copy_waits_and_goes_where_they_can_be() -> None:
    world = World(["node-1", "node-2"], devices=2, script=lambda work: Script(seconds=1e6))
    places: dict[str, tuple[str, ...]] = {"node-1": ("file",), "node-2": ("file",)}
    world.agents[:] = [
        NodeAgent(name, leases, facts=lambda name=name: NodeFacts(checkpoint_places=places[name]))  # type: ignore[misc]
        for name, leases in world.leases.items()
    ]
    daemon = Daemon(world)
    world.apply(a_job(checkpoint=Checkpoint(uri="s3://bucket/run")))
    world.apply(a_job("shared", checkpoint=Checkpoint(uri="file:///shared/run"), memory="0.1"))
    world.apply(a_job("quiet", checkpoint=Checkpoint(), memory="0.1"))

    def told(name: str) -> str:
        found = condition(world.job(name).status.conditions, "Scheduled")
        return "" if found is None else found.message

    drive(world, daemon, until=lambda: "NoUploader" in told("train"), within=60)
    assert world.job("train").status.attempts[-1].node == ""
    assert {world.job(name).status.phase for name in ("shared", "quiet")} == {JobPhase.RUNNING}
    places["node-2"] = ("file", "s3")
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.RUNNING, within=60)
    assert world.job("train").status.attempts[-1].node == "node-2"


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"checkpoint": Checkpoint(uri="s3://bucket/run")}, "s3"),
        ({"checkpoint": Checkpoint(uri="file:///shared")}, None),
        ({"checkpoint": Checkpoint()}, None),
        ({}, None),
        # The program of a container whose checkpoints are on no mount copies them itself.
        ({"checkpoint": Checkpoint(uri="s3://bucket/run"), "image": "i"}, None),
        ({"checkpoint": Checkpoint(uri="s3://b/run", path="/data/c"), "image": "i",
          "mounts": (Mount(source="/data/ann", target="/data"),)}, "s3"),
    ],
)  # fmt: skip
def test_what_a_node_has_to_reach_for_a_jobs_checkpoints(spec: dict[str, Any], place: str | None) -> None:
    job = a_job(**spec)
    metadata = job.metadata.model_copy(update={"creation_timestamp": timestamp(NOW), "uid": "u"})
    (partition,) = job_partitions.partitions(job.replace(metadata=metadata), 1)
    assert partition.spec.checkpoint_place == place


def test_an_installation_without_boto3_says_so() -> None:
    """As on a worker whose packages were not installed: no site-packages at all."""
    ask = (
        "import sys; sys.path.insert(0, sys.argv[1]); from cumulus.chronos.contract import node; "
        "print(*node.checkpoint_places())"
    )
    for options, places in ((["-I", "-S"], "file"), (["-I"], "file s3")):
        said = subprocess.run(
            [sys.executable, *options, "-c", ask, str(ROOT)], capture_output=True, text=True, check=True
        ).stdout
        assert said.split() == places.split()
