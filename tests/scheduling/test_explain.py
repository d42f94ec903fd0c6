from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pytest

from cumulus.resources.meta import JOB_LABEL
from cumulus.resources.node import GPUNode, UnleasedProcess
from cumulus.resources.partition import GPUPartition
from cumulus.scheduling import explain as explaining
from cumulus.scheduling.explain import Explanation, GangState, explain
from cumulus.scheduling.snapshot import build
from tests.scheduling.build import GI, NOW, device, foreign, gang, held, node, pending


def told(nodes: Iterable[GPUNode], asked: GPUPartition, *others: GPUPartition) -> Explanation:
    found = explain(build(nodes, [*others, asked], NOW), asked.key)
    assert found is not None
    return found


def of_job(partition: GPUPartition, job: str) -> GPUPartition:
    labels = {JOB_LABEL: job}
    return partition.replace(metadata=partition.metadata.model_copy(update={"labels": labels}))


FULL = held(pending("full", user="ann"), memory=70, compute=700)

REASONS = [
    (node(ready=False), [pending("p")], "NodeNotReady", "the node is not ready: no heartbeat for 40s"),
    (node(cordoned=True), [pending("p")], "Cordoned", "the node is cordoned"),
    (node(), [pending("p", runtime="container")],
     "RuntimeMissing", "needs the runtime container, the node offers process"),
    (node(checkpoint_places=("file",)), [pending("p", checkpoint_place="s3")],
     "NoUploader", "copies no checkpoints to s3://: it has no boto3 (cumulus node setup n1, or pip install "
     "'cumulus-chronos[s3]' there)"),
    (node(), [pending("p", saved={"node": "gone"})],
     "CheckpointAway", "the job's checkpoint is on gone alone, which does not answer"),
    (node(labels={"zone": "b"}), [pending("p", selector={"node_labels": {"zone": "a"}})],
     "LabelMismatch", "needs the label zone=a, the node has zone=b"),
    (node(), [pending("p", selector={"name": "A100"})],
     "NoMatchingDevice", "selector name A100 does not match 'NVIDIA H100'"),
    (node(), [pending("p", node="n1", device=3)], "NoMatchingDevice", "needs device 3, this is device 0"),
    (node("n1", device(enforcement="none")), [pending("p", min_enforcement="hard")],
     "EnforcementTooWeak", "needs enforcement hard, device 0 offers none"),
    (node("n1", device(0, 24), device(1, 40)), [pending("p", "41Gi")],
     "TooLarge", "needs 41Gi, device 1 has 40Gi in all"),
    (node(), gang("p", 1, 2), "TooLarge", "needs 2 devices at once, 1 device of the node can do it"),
    (node(), [pending("p", "80Gi")], "InsufficientMemory", "needs 80Gi, at most 10Gi is free on device 0"),
    (node(), [pending("p", "5Gi", compute="50%")],
     "InsufficientCompute", "needs 50% of the compute, at most 30% is free on device 0"),
    (node("n1", device(0), device(1)), gang("p", 1, 2),
     "InsufficientMemory", "needs 20Gi on each of 2 devices, 1 device of the node can give it"),
    (node("n1", device(0), device(1)), gang("p", 1, 2, memory="5Gi", compute="50%"),
     "InsufficientCompute", "needs 50% of the compute on each of 2 devices, 1 device of the node can give it"),
    (node(), gang("p", 3, memory="5Gi"),
     "RoomForPart", "has room for 2 of the gang's 3 replicas, not for all of it"),
    (node(), [pending("p", node="n9")], "NoSuchNode", "there is no such node"),
]  # fmt: skip


@pytest.mark.parametrize(("there", "asked", "code", "words"), REASONS)
def test_each_node_has_its_reason_with_the_figures(
    there: GPUNode, asked: list[GPUPartition], code: str, words: str
) -> None:
    (reason,) = told([there], asked[0], FULL, *asked[1:]).reasons
    assert reason.reason == (code, words)


def test_what_will_never_be_is_said_before_what_may_pass() -> None:
    (reason,) = told([node("n1", device(0, 10), ready=False)], pending("p")).reasons
    assert reason.reason.code == "TooLarge"


def test_who_holds_it_until_when_and_when_it_starts() -> None:
    holder = of_job(FULL, "train")
    found = told([node()], pending("p", "80Gi"), holder)
    assert (found.state, found.earliest, found.certain) == (GangState.WAITING, NOW + timedelta(seconds=600), True)
    (blocker,) = found.blockers
    assert (blocker.holder, blocker.returns_at, blocker.node) == (
        "job default/train of ann",
        NOW + timedelta(seconds=600),
        "n1",
    )
    assert found.lines() == [
        "starts by 2030-01-01T12:10:00Z (in 10m) at the latest",
        "place 1 of 1 in the queue",
        "waits for:",
        "  job default/train of ann: 70Gi and 70% of device 0 of n1, until 2030-01-01T12:10:00Z at the latest",
        "nodes:",
        "  n1: InsufficientMemory: needs 80Gi, at most 10Gi is free on device 0",
    ]


def test_only_the_shares_that_must_end_first_are_named() -> None:
    ends = {"soon": 60.0, "later": 120.0, "last": 180.0}
    holders = [held(pending(name), memory=20, compute=200, ends=end) for name, end in ends.items()]
    found = told([node()], pending("p", "60Gi"), *holders)
    assert [blocker.partition.name for blocker in found.blockers if blocker.partition] == ["soon", "later"]
    assert found.earliest == NOW + timedelta(seconds=120)


def test_a_lease_made_on_the_node_is_named_by_its_id() -> None:
    found = told([node("n1", device(foreign_leases=(foreign(70, 60),)))], pending("p"))
    assert found.blockers[0].holder == "lease made-by-hand, made on the node of eve"


def test_an_overdue_lease_says_so() -> None:
    found = told([node()], pending("p"), held(pending("h"), memory=70, ends=-5))
    assert "its lease is over, its processes are being ended" in "\n".join(found.lines())


def test_a_gang_bound_in_the_same_pass_is_in_the_way_too() -> None:
    found = told([node()], pending("p", "80Gi"), pending("first", "80Gi", age=9, user="ann"))
    assert [blocker.holder for blocker in found.blockers] == ["partition default/first of ann"]
    assert (found.position, found.queue, found.ahead) == (2, 2, ())


def test_who_is_ahead_is_named_and_the_time_is_then_only_expected() -> None:
    found = told([node()], pending("p", "80Gi"), FULL, pending("first", "80Gi", age=9))
    assert found.ahead == ("default/first",)
    assert not found.certain
    assert found.earliest == NOW + timedelta(seconds=600 + 3600)
    assert found.headline == "is expected to start by 2030-01-01T13:10:00Z (in 1h10m)"


def test_those_who_wait_for_other_devices_are_not_ahead() -> None:
    nodes = [node("a", device(name="A100")), node("n1")]
    other = [held(pending("h"), "a", memory=80), pending("first", age=9, selector={"name": "A100"})]
    found = told(nodes, pending("p", selector={"name": "*H100"}), FULL, *other)
    assert (found.ahead, found.certain) == ((), True)


@pytest.mark.parametrize(
    "holder",
    [
        pytest.param(held(pending("h"), memory=70, ends=None), id="a lease that is not granted yet"),
        pytest.param(held(pending("h"), memory=70, ends=-5), id="processes that outlive their lease"),
    ],
)
def test_an_end_that_nobody_knows_is_no_promise(holder: GPUPartition) -> None:
    if holder.status.expires_at is None:
        holder = holder.replace(status=holder.status.model_copy(update={"partition_id": ""}))
    found = told([node()], pending("p"), holder)
    assert (found.state, found.certain) == (GangState.WAITING, False)
    assert found.headline.startswith("is expected to start by")


def test_a_gang_of_different_requests_is_promised_nothing() -> None:
    first, second = gang("p", 2)
    second = second.replace(spec=second.spec.model_copy(update={"memory": "30Gi"}))
    found = told([node()], first, FULL, second)
    assert (found.state, found.certain, found.earliest) == (GangState.WAITING, False, NOW + timedelta(seconds=600))


def test_what_is_kept_for_another_is_said_with_its_name() -> None:
    half = held(pending("h"), memory=40, compute=500)
    found = told([node()], pending("p", duration="9h"), half, pending("big", "80Gi", age=9))
    (reason,) = found.reasons
    assert reason.reason == ("Reserved", "what is free is kept for default/big, ahead in the queue")


def test_one_far_back_still_gets_its_time() -> None:
    ahead = [pending(f"q{n:03}", "80Gi", age=500 - n) for n in range(100)]
    found = told([node()], pending("p", "80Gi"), FULL, *ahead)
    assert found.earliest == NOW + timedelta(seconds=600 + 100 * 3600)
    assert len(found.lines(limit=3)) < 20
    assert "and 97 more" in found.lines(limit=3)[1]


def test_one_too_far_back_is_told_that_nobody_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "EXPLAIN_WORK", 0)
    found = told([node()], pending("p", "80Gi"), FULL, *(pending(f"q{n}", "80Gi", age=9) for n in range(20)))
    assert (found.state, found.earliest) == (GangState.WAITING, None)
    assert found.headline == "waits, too far back in the queue to say until when"


def test_never_is_told_apart_from_not_now() -> None:
    nodes = [node("n1", device(0, 10)), node("n2", ready=False), node("n3", cordoned=True)]
    waits = told(nodes, pending("p", "60Gi"))
    assert (waits.state, waits.earliest) == (GangState.NO_NODE, None)
    assert waits.headline == "no ready node could hold it (of 3 nodes: 1 TooLarge, 1 NodeNotReady, 1 Cordoned)"
    never = told(nodes, pending("p", "90Gi"))
    assert never.state is GangState.NEVER
    assert never.headline == "no node could ever hold it (of 3 nodes: 3 TooLarge)"
    assert told([], pending("p")).headline == "no ready node could hold it (there are no nodes)"
    assert told(nodes, pending("p", node="n9")).state is GangState.NO_NODE


def test_one_that_fits_says_where() -> None:
    found = told([node()], pending("p"))
    assert (found.state, found.headline) == (GangState.FITS, "fits now, on device 0 of n1")
    assert found.reasons == ()


def test_an_incomplete_gang_says_what_is_missing() -> None:
    found = told([node()], gang("g", 3)[0])
    assert found.state is GangState.INCOMPLETE
    assert found.lines() == ["waits until its gang is complete: 1 of the gang's 3 partitions are there"]


def test_what_is_not_in_the_queue_has_no_explanation() -> None:
    bound = held(pending("p"))
    assert explain(build([node()], [bound], NOW), bound.key) is None


def test_a_pinned_partition_hears_of_its_node_only() -> None:
    found = told([node("n1"), node("n2")], pending("p", "80Gi", node="n1"), FULL)
    assert [reason.node for reason in found.reasons] == ["n1"]


def test_a_host_port_that_is_taken_is_the_reason_and_its_holder_the_blocker() -> None:
    holder = of_job(held(pending("h", host_ports=(80,), user="ann"), device=1), "web")
    nodes = [node("n1", device(0), device(1))]
    found = told(nodes, pending("p", host_ports=(80, 81), node="n1", device=0), holder)
    (reason,) = found.reasons
    assert reason.reason == ("HostPortTaken", "host port 80 of the node is taken by job default/web")
    assert (found.earliest, found.certain) == (NOW + timedelta(seconds=600), True)
    share = "host port 80 and 20Gi and 25% of device 1 of n1"
    assert found.lines()[3] == f"  job default/web of ann: {share}, until 2030-01-01T12:10:00Z at the latest"


def test_a_gang_ahead_competes_by_its_host_port_too() -> None:
    nodes = [node("n1", device(0), device(1))]
    queue = [held(pending("h"), memory=80, compute=1000), pending("q", host_ports=(80,), node="n1", device=0, age=9)]
    found = told(
        nodes, pending("p", "80Gi", host_ports=(80,), node="n1", device=1), held(pending("i"), device=1), *queue
    )
    assert (found.ahead, found.certain) == (("default/q",), False)
    (reason,) = found.reasons
    assert found.earliest == NOW + timedelta(seconds=600 + 3600)
    assert reason.reason == ("Reserved", "host port 80 is kept for default/q, ahead in the queue")


def test_a_port_that_is_kept_says_for_whom() -> None:
    queue = [held(pending("h", host_ports=(80,))), pending("q", host_ports=(80, 81), age=9)]
    (reason,) = told([node()], pending("p", host_ports=(81,)), *queue).reasons
    assert reason.reason == ("Reserved", "host port 81 is kept for default/q, ahead in the queue")


def test_replicas_that_need_a_port_of_each_node_say_so() -> None:
    (reason, _) = told([node("a"), node("b")], *gang("p", 3, memory="1Gi", host_ports=(80,))).reasons
    assert reason.reason.message == (
        "has room for 1 of the gang's 3 replicas, not for all of it, since each needs host port 80 of a node"
    )


def test_memory_that_no_lease_covers_is_not_free_and_says_whose_it_is() -> None:
    stray = UnleasedProcess(pid=12, user="eve", program="python", memory_bytes=30 * GI)
    held_by_nobody = [node("n1", device(unleased_processes=(stray,), overused_memory_bytes=GI))]
    assert told(held_by_nobody, pending("p", "49Gi")).state is GangState.FITS
    found = told(held_by_nobody, pending("p", "60Gi"))
    assert found.headline == "waits for memory that is held without a lease: nobody can say until when"
    lines = "\n".join(found.lines())
    who = "process 12 (python), without a lease, of eve"
    assert f"{who}: 30Gi and 0% of device 0 of n1, nobody knows until when" in lines


def test_a_device_that_failed_takes_nothing_new_and_is_the_reason() -> None:
    failed = device(1, fault="Xid 79: it has fallen off the bus")
    found = told([node("n1", device(0, 10), failed)], pending("p"))
    assert (found.state, found.reasons[0].reason.code) == (GangState.NO_NODE, "DeviceFailed")
    assert "device 1: Xid 79" in found.reasons[0].reason.message
    assert told([node("n1", device(0), failed)], pending("p")).state is GangState.FITS


def test_free_room_in_pieces_is_told_with_the_lease_that_would_have_to_be_elsewhere() -> None:
    nodes = [node("n1", device(0), device(1)), node("n2", device(0, 20))]
    small, large = of_job(held(pending("s"), memory=10, ends=60), "small"), held(pending("l"), "n1", 1, memory=60)
    found = told(nodes, pending("p", "100%", compute="50%", selector={"minMemory": "80Gi"}), small, large)
    assert "would fit if job default/small were on device 1 of n1 instead of device 0 of n1" in found.lines()


def test_nothing_is_told_of_pieces_where_nobody_could_move_or_others_are_ahead() -> None:
    nodes = [node("n1", device(0), device(1))]
    small, asked = of_job(held(pending("s"), memory=10), "small"), pending("p", "80Gi")
    full = held(pending("l"), "n1", 1, memory=75)
    assert told(nodes, asked, small, full).moved == ""
    beside, ahead = held(pending("l"), "n1", 1, memory=60), pending("q", "75Gi", age=9)
    assert told(nodes, asked, small, beside).moved
    assert told(nodes, asked, small, beside, ahead).moved == ""
    replicas = [of_job(held(pending(f"r{n}"), "n1", n, memory=10), "both") for n in range(2)]
    assert told(nodes, asked, *replicas).moved == ""
