"""The Swarm backend on a real Swarm: what it makes, what people and faults do to that, and how it ends."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import EnvVar, GangMember, LeaseRef, Workload, WorkloadMount, WorkloadState
from cumulus.backends.swarm import log_stream, spec
from cumulus.backends.swarm.engine import Engine
from cumulus.backends.swarm.networks import Networks
from cumulus.clock import SystemClock, parse_timestamp, timestamp
from cumulus.errors import BackendError, BackendRefused, NodeUnreachable, NotOurs
from tests.backends.conformance import Behaviour
from tests.lab.lab import Lab
from tests.lab.node import LabError
from tests.swarm.bed import IMAGE, SwarmBed

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

LONG = ("sh", "-c", "trap 'exit 143' TERM; echo up; while :; do sleep 0.1; done")


def lease(id: str = "lease-1", **more: Any) -> LeaseRef:
    fields: dict[str, Any] = {
        "id": id, "device": 0, "device_id": "GPU-1234", "device_name": "H100", "device_type": "gpu",
        "platform_index": 0, "device_index": 0, "memory_bytes": 2**30, "compute": 250, "token": 7,
        "expires_at": "2099-01-01T00:00:00.000000Z", "enforcement": "guarded",
    }  # fmt: skip
    return LeaseRef(**{**fields, **more})


def started(bed: SwarmBed, work: Workload) -> Workload:
    bed.backend.start(work)
    bed.running(work)
    return work


def test_the_container_is_what_was_asked_for(bed: SwarmBed, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in").write_text("from the node\n")
    work = bed.work(
        "sh", "-c", "cat data/in; pwd; id -u; ls -1 /proc/1/exe -l | grep -c init; echo $A $CUMULUS_REPLICA; sleep 30",
        working_dir="/tmp", mounts=(WorkloadMount(str(tmp_path / "data"), "data", read_only=True),),
        memory_bytes=64 * 2**20,
        cpu_millis=500, env=(EnvVar("A", "b c"),), leases=(lease(),),
    )  # fmt: skip
    started(bed, work)
    assert bed.log(work) == b"from the node\n/tmp\n0\n1\nb c 0\n"
    [id] = bed.lab.nodes["worker1"].docker("ps", "-q", "--filter", f"label={spec.WORKLOAD}={work.name}").split()
    host = bed.lab.nodes["worker1"].docker("inspect", id, "--format", "{{json .HostConfig}}")
    assert '"Memory":67108864' in host
    assert '"NanoCpus":500000000' in host
    environment = bed.lab.nodes["worker1"].docker("inspect", id, "--format", "{{json .Config.Env}}")
    for variable in ("CHRONOS_PARTITION_ID=lease-1", "CHRONOS_FENCING_TOKEN=7", "NVIDIA_VISIBLE_DEVICES=GPU-1234"):
        assert f'"{variable}"' in environment
    template = bed.service(work)["Spec"]["TaskTemplate"]
    assert template["RestartPolicy"]["Condition"] == "none"
    assert template["Resources"]["Reservations"]["MemoryBytes"] == 64 * 2**20


def test_a_container_has_its_user_shared_memory_and_ports(bed: SwarmBed) -> None:
    say = "id -u; df -m /dev/shm | tail -n 1 | awk '{print $2}'; echo x > /dev/shm/x && cat /dev/shm/x"
    serve = "while :; do echo hello | nc -l -p 8000; done"
    work = bed.work("sh", "-c", f"{say}; {serve}", user_id=1234, shm_bytes=96 * 2**20, ports=((8000, 18000),))
    started(bed, work)
    bed.until(lambda: bed.log(work) == b"1234\n96\nx\n")
    worker = bed.lab.nodes["worker1"]
    bed.until(lambda: "hello" in worker.shell("busybox nc -w 1 127.0.0.1 18000 < /dev/null", 20)[1])


def test_a_container_in_the_nodes_own_network(bed: SwarmBed) -> None:
    work = bed.work("sh", "-c", "readlink /proc/self/ns/net; sleep 60", host_network=True, ports=((8000, 8000),))
    started(bed, work)
    _, own, _ = bed.lab.nodes["worker1"].shell("readlink /proc/self/ns/net", 20)
    bed.until(lambda: bed.log(work))
    assert bed.log(work).decode() == own


def test_a_host_port_that_something_else_has_on_the_node_is_the_reason(bed: SwarmBed) -> None:
    """Placement keeps jobs apart; it does not know what others started there."""
    bed.impatient(placement=5.0)
    started(bed, bed.work("sleep", "60", ports=((8000, 18001),)))
    end = bed.finish(_begun(bed, bed.work("true", job="service", ports=((8000, 18001),))))
    assert (end.state, end.reason) == (WorkloadState.FAILED, "Lost")
    assert "host-mode port already in use" in end.message
    worker = bed.lab.nodes["worker1"]
    _, process, _ = worker.shell("busybox nc -l -p 18002 < /dev/null > /dev/null 2>&1 & echo $!", 20)
    try:
        bed.until(lambda: "18002" in worker.shell("busybox netstat -ltn", 20)[1])
        end = bed.finish(_begun(bed, bed.work("true", job="program", ports=((8000, 18002),))))
    finally:
        worker.shell(f"kill {process}", 20)
    assert (end.state, end.reason) == (WorkloadState.FAILED, "StartError"), end
    assert "address already in use" in end.message


def test_a_job_with_two_gpus_is_limited_on_each(swarm: Lab, tmp_path: Path) -> None:
    def prepare(node: str, lease: LeaseRef) -> dict[str, str]:
        pipe = "/tmp/mps" if lease.device_id != "GPU-9" else "/tmp/another"
        return {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"{lease.device_id}=8M", "CUDA_MPS_PIPE_DIRECTORY": pipe}

    bed = SwarmBed(swarm, tmp_path, prepare=prepare)
    try:
        leases = (lease("a", device_id="GPU-1"), lease("b", device_id="GPU-2"))
        bed.backend.start(work := bed.work("true", leases=leases))
        environment = bed.service(work)["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]
        assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=GPU-2=8M,GPU-1=8M" in environment
        isolated = bed.work("true", attempt=2, leases=(*leases, lease("c", device_id="GPU-9")))
        with pytest.raises(BackendRefused, match="one MPS daemon a lease"):
            bed.backend.start(isolated)
    finally:
        bed.close()


def test_a_service_without_a_gpu_lease_sees_no_gpu(bed: SwarmBed) -> None:
    """nvidia-container-toolkit#57: with NVIDIA as the default runtime it would see all of them."""
    bed.finish(work := bed.start(Behaviour()))
    assert "NVIDIA_VISIBLE_DEVICES=void" in bed.service(work)["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]


def test_secrets_are_in_no_specification(bed: SwarmBed) -> None:
    bed.secrets.set("api", "token", "hush-hush")
    work = bed.work(
        "sh",
        "-c",
        'echo "$TOKEN"; cat "$TOKEN_FILE"; echo; sleep 30',
        env=(EnvVar("TOKEN", secret="api", key="token"),),
    )
    started(bed, work)
    bed.until(lambda: bed.log(work).count(b"[secret]") == 2)
    assert "hush" not in str(bed.service(work))
    worker = bed.lab.nodes["worker1"]
    [id] = worker.docker("ps", "-q", "--filter", f"label={spec.WORKLOAD}={work.name}").split()
    assert "hush" not in worker.docker("inspect", id)
    bed.backend.stop(work.name, 0)
    bed.finish(work)
    bed.backend.remove(work.name)
    assert not bed.backend.engine.secrets([f"{spec.INSTANCE}={bed.instance}"])
    assert b"hush" not in bed.log(work)


def test_an_image_that_is_not_there(bed: SwarmBed) -> None:
    end = bed.finish(_begun(bed, bed.work("true", image="nosuch:1")))
    assert (end.state, end.reason, end.exit_code) == (WorkloadState.FAILED, "StartError", None)
    assert "No such image" in end.message


def test_a_command_that_is_not_there(bed: SwarmBed) -> None:
    end = bed.finish(_begun(bed, bed.work("nosuch")))
    assert (end.state, end.exit_code) == (WorkloadState.FAILED, 127)


def test_a_mount_that_is_not_there(bed: SwarmBed) -> None:
    end = bed.finish(_begun(bed, bed.work("true", mounts=(WorkloadMount("/nosuch", "/x"),))))
    assert (end.reason, "does not exist" in end.message) == ("StartError", True)


def test_too_much_memory(bed: SwarmBed) -> None:
    end = bed.finish(_begun(bed, bed.work("tail", "/dev/zero", memory_bytes=16 * 2**20)))
    assert (end.state, end.exit_code, end.reason) == (WorkloadState.FAILED, 137, "OOMKilled")


def test_a_node_that_is_not_in_the_swarm(bed: SwarmBed) -> None:
    with pytest.raises(BackendError, match="no node of the Swarm is named moon"):
        bed.backend.start(bed.work("true", node="moon"))


def test_a_drained_node_gives_the_run_back(bed: SwarmBed) -> None:
    """Swarm leaves such a task pending for ever; here it is given up, and never starts later."""
    bed.impatient(placement=1.0)
    bed.lab.manager.docker("node", "update", "--availability", "drain", "worker1")
    try:
        end = bed.finish(_begun(bed, bed.work("true")))
    finally:
        bed.lab.manager.docker("node", "update", "--availability", "active", "worker1")
    assert (end.reason, "no suitable node" in end.message) == ("Lost", True)


def test_a_run_that_a_drain_ended_says_so(bed: SwarmBed) -> None:
    work = started(bed, bed.work(*LONG))
    bed.lab.manager.docker("node", "update", "--availability", "drain", "worker1")
    try:
        end = bed.finish(work)
    finally:
        bed.lab.manager.docker("node", "update", "--availability", "active", "worker1")
    assert (end.reason, "drained" in end.message) == ("Lost", True)


def test_a_start_that_was_cut_short_is_not_made_twice(bed: SwarmBed) -> None:
    """A daemon that died between the creation and its record."""
    work = started(bed, bed.work(*LONG))
    os.unlink(_record(bed, work) / "service.json")
    bed.reopen()
    bed.backend.start(work)
    assert len(bed.services()) == 1
    assert bed.seen(work).state is WorkloadState.RUNNING


def test_two_daemons_that_start_at_once_make_one_service(bed: SwarmBed) -> None:
    work = bed.work(*LONG)
    context = multiprocessing.get_context("fork")
    daemons = [context.Process(target=lambda: bed.open().start(work)) for _ in range(4)]
    for daemon in daemons:
        daemon.start()
    for daemon in daemons:
        daemon.join()
    assert [daemon.exitcode for daemon in daemons] == [0] * 4
    assert len(bed.services()) == 1


def test_updates_out_of_sequence_are_made_anew(bed: SwarmBed) -> None:
    """moby#39891, #30794."""
    work = started(bed, bed.work(*LONG))
    id = bed.service(work)["ID"]
    engine = Engine([bed.lab.manager.socket])
    errors: list[BaseException] = []

    def change(number: int) -> None:
        def labelled(document: dict[str, Any]) -> dict[str, Any]:
            time.sleep(0.02)
            document["Labels"][f"test/{number}"] = "1"
            return document

        try:
            engine.update_service(id, labelled)
        except BackendError as error:
            errors.append(error)

    threads = [threading.Thread(target=change, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(label.startswith("test/") for label in bed.service(work)["Spec"]["Labels"]) == 4
    assert bed.seen(work).state is WorkloadState.RUNNING, "a label restarts nothing"


def test_somebody_removes_the_service(bed: SwarmBed) -> None:
    work = started(bed, bed.work(*LONG))
    bed.lab.manager.docker("service", "rm", bed.service(work)["ID"])
    end = bed.finish(work)
    assert (end.reason, end.message) == ("Lost", "somebody removed its service")
    assert [f.reason for f in bed.backend.findings()] == ["ServiceRemoved"]
    bed.backend.start(work)
    assert not bed.services(), "it is not started again"
    bed.backend.remove(work.name)
    assert b"the log is gone: somebody removed its service" in bed.log(work)


@pytest.fixture
def counted(bed: SwarmBed, tmp_path: Path) -> tuple[Workload, Path]:
    """A run, and the file to which each start of its program adds a line."""
    (tmp_path / "shared").mkdir()
    script = "trap 'exit 143' TERM; echo start >> /s/starts; while :; do sleep 0.1; done"
    work = bed.work("sh", "-c", script, mounts=(WorkloadMount(str(tmp_path / "shared"), "/s"),))
    started(bed, work)
    return work, tmp_path / "shared" / "starts"


def test_somebody_scales_the_service(bed: SwarmBed, counted: tuple[Workload, Path]) -> None:
    """One start a lease: no copy gets onto the node, whatever its runtime, and the run goes on."""
    work, starts = counted
    id = bed.service(work)["ID"]
    bed.lab.manager.docker("service", "scale", "--detach", f"{id}=3")

    def others() -> list[str]:
        tasks = bed.backend.engine.tasks({"service": [id]})
        return [task["Status"].get("Err", "") for task in tasks if task["Status"]["State"] != "running"]

    bed.until(lambda: ["max replicas per node" in error for error in others()] == [True, True])
    bed.until(lambda: bed.seen(work) and bed.service(work)["Spec"]["Mode"]["Replicated"]["Replicas"] == 1)
    bed.until(lambda: not others())
    assert {f.reason for f in bed.backend.findings()} == {"ServiceScaled"}
    assert bed.seen(work).state is WorkloadState.RUNNING
    assert starts.read_text() == "start\n"


def test_somebody_scales_the_service_to_nothing(bed: SwarmBed) -> None:
    bed.impatient(no_task=0.5)
    work = started(bed, bed.work(*LONG))
    bed.lab.manager.docker("service", "scale", "--detach", f"{bed.service(work)['ID']}=0")
    assert bed.finish(work).reason == "Lost"


def test_somebody_updates_the_service(bed: SwarmBed, counted: tuple[Workload, Path]) -> None:
    """Swarm replaces the task: the node refuses the new one before its first instruction, and the run is over."""
    work, starts = counted
    id = bed.service(work)["ID"]
    bed.lab.manager.docker("service", "update", "--detach", "--env-add", "X=1", id)

    def refused() -> bool:
        tasks = bed.backend.engine.tasks({"service": [id]})
        return any("was started on this node before" in task["Status"].get("Err", "") for task in tasks)

    bed.until(refused)
    assert bed.finish(work).reason == "Lost"
    worker = bed.lab.nodes["worker1"]
    assert not worker.docker("ps", "-q", "--filter", f"label={spec.WORKLOAD}={work.name}")
    assert starts.read_text() == "start\n"


def test_somebody_starts_the_container_again(bed: SwarmBed, counted: tuple[Workload, Path]) -> None:
    work, starts = counted
    worker = bed.lab.nodes["worker1"]
    id = worker.docker("ps", "-q", "--filter", f"label={spec.WORKLOAD}={work.name}").strip()
    worker.docker("kill", id)
    bed.finish(work)
    with pytest.raises(LabError, match="was started on this node before"):
        worker.docker("start", id)
    assert starts.read_text() == "start\n"


def test_an_engine_that_is_stopped_takes_no_log_along(bed: SwarmBed) -> None:
    """It ends and removes all containers of a Swarm, and says of each that there is no such container."""
    worker = bed.lab.nodes["worker1"]
    script = "trap 'sleep 0.2; echo saved; exit 0' TERM; seq 1 2000; echo up >&2; while :; do sleep 0.1; done"
    work = started(bed, bed.work("sh", "-c", script))
    worker.kill_engine(signal.SIGTERM)
    worker.start_engine()
    end = bed.finish(work)
    assert (end.state, end.reason, end.exit_code) == (WorkloadState.FAILED, "Lost", None)
    assert "the engine on worker1 was stopped" in end.message
    assert [f.reason for f in bed.backend.findings()] == ["EngineStopped"]
    bed.backend.remove(work.name)
    assert sorted(bed.log(work).split()) == sorted([*(b"%d" % n for n in range(1, 2001)), b"up", b"saved"])


def test_a_log_says_where_its_end_may_be_missing(bed: SwarmBed) -> None:
    """An engine that was killed drops what a container wrote that ended before it was back."""
    worker = bed.lab.nodes["worker1"]
    away = b"[cumulus: the engine of worker1 was away when this ended: the end of the log may be missing]\n"
    lost = started(bed, bed.work("sh", "-c", "echo begin; sleep 2; printf done", job="lost"))
    bed.until(lambda: bed.log(lost) == b"begin\n")
    worker.kill_engine()
    bed.until(lambda: not worker.has_process(f"CUMULUS_JOB={lost.job}\0"))
    worker.start_engine()
    assert bed.finish(lost).state is WorkloadState.SUCCEEDED
    following = bed.backend.logs(lost.job_uid, 1, 0, follow=True)
    begun = b"begin\n", b"begin\ndone\n"
    assert b"".join(following) in [log + away for log in begun]
    assert bed.log(lost) in [log + away for log in begun]
    bed.backend.remove(lost.name)
    assert bed.log(lost) in [log + away for log in begun]
    assert bed.log(lost, tail=1) == away
    # Nothing is said of one that ends while the engine is there.
    after = started(bed, bed.work("sh", "-c", "echo begin; sleep 2; printf done", attempt=2))
    bed.finish(after)
    assert bed.log(after) == b"begin\ndone"


def test_an_empty_answer_of_the_manager_is_not_believed_at_the_end(
    bed: SwarmBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a manager gives it whose node has just come back."""
    monkeypatch.setattr(Engine, "task_log", lambda self, id, since=0.0: b"")
    bed.finish(work := bed.start(Behaviour(output="from the node\n")))
    assert b"".join(bed.backend.logs(work.job_uid, 1, 0, follow=True)) == b"from the node\n"
    assert bed.log(work) == b"from the node\n"
    bed.backend.remove(work.name)
    assert bed.log(work) == b"from the node\n"


def test_a_log_that_a_manager_has_not_yet_is_waited_for(bed: SwarmBed, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while its node joins anew, where nobody can ask the node's own engine."""
    bed.options["node_engine"] = lambda node: None
    bed.reopen()
    bed.finish(work := bed.start(Behaviour(output="hello\n")))
    frame = log_stream.frame
    answers = [frame(3, b"some logs could not be retrieved: node x is not available")] * 2
    ask = Engine.task_log

    def task_log(engine: Engine, id: str, since: float = 0.0) -> bytes:
        return answers.pop() if answers else ask(engine, id, since)

    monkeypatch.setattr(Engine, "task_log", task_log)
    assert bed.log(work) == b"hello\n"
    assert not answers
    answers += [frame(3, b"no route")] * 1000
    with pytest.raises(BackendError, match="the log is not complete: no route"):
        bed.log(work)
    assert answers


def test_nothing_stays_of_a_run_whose_node_died(bed: SwarmBed, whole: Lab) -> None:
    """While its lease may go on, it is not known to be over; then its service and its secrets go, and when the node
    comes back, its container."""
    worker = bed.lab.nodes["worker1"]
    bed.secrets.set("api", "token", "hush")
    over = timestamp(SystemClock().now() + timedelta(seconds=10))
    env = (EnvVar("TOKEN", secret="api", key="token"),)
    work = started(bed, bed.work(*LONG, leases=(lease(expires_at=over),), env=env))
    kept = started(bed, bed.work(*LONG, leases=(lease(),), job="kept"))
    worker.cut()
    try:
        bed.until(lambda: "worker1" not in bed.lab.ready())
        with pytest.raises(NodeUnreachable):
            bed.backend.get(work.name)
        bed.impatient(lease_over=0.0)
        bed.until(lambda: SystemClock().now() > parse_timestamp(over) + timedelta(seconds=work.grace))
        end = bed.finish(work)
        assert (end.reason, "did not answer until long after the lease was over" in end.message) == ("Lost", True)
        with pytest.raises(NodeUnreachable):
            bed.backend.get(kept.name)
        bed.impatient(lease_over=0.0, log=0.0)
        bed.backend.remove(work.name)
        assert bed.services() == [spec.service_name(kept.name)]
        assert not bed.backend.engine.secrets([f"{spec.WORKLOAD}={work.name}"])
    finally:
        worker.heal()
    label = f"label={spec.WORKLOAD}={work.name}"
    bed.until(lambda: not worker.docker("ps", "--all", "-q", "--filter", label) and "worker1" in bed.lab.ready())


def test_services_of_others_are_left_alone(bed: SwarmBed) -> None:
    work = bed.work(*LONG)
    name = spec.service_name(work.name)
    manager = bed.lab.manager
    manager.docker("service", "create", "--detach", "--no-resolve-image", "--name", name, IMAGE, "sleep", "300")
    try:
        with pytest.raises(BackendRefused, match="is taken by a service that is not ours"):
            bed.backend.start(work)
        bed.backend.stop(work.name, 0)
        bed.backend.remove(work.name)
        bed.backend.purge(work.job_uid)
        assert manager.docker("service", "ls", "-q", "--filter", f"name={name}")
        assert not list(bed.backend.list())
    finally:
        manager.docker("service", "rm", name)


def test_another_control_plane_on_the_swarm_is_left_alone(bed: SwarmBed) -> None:
    work = started(bed, bed.work(*LONG))
    other = bed.another("other", instance=f"{bed.instance}-other")
    assert not list(other.list())
    other.close()
    assert bed.seen(work).state is WorkloadState.RUNNING


def test_a_service_from_an_earlier_life_is_found(bed: SwarmBed) -> None:
    """The state directory was lost: who takes the Swarm over sees it, and can end it."""
    work = started(bed, bed.work(*LONG))
    fresh = bed.another("fresh")
    with pytest.raises(NotOurs, match="another copy of this store"):
        fresh.list()
    fresh.ownership.adopt(fresh.ownership.mark())
    [seen] = fresh.list()
    assert (seen.name, seen.job_uid, seen.state) == (work.name, work.job_uid, WorkloadState.RUNNING)
    fresh.stop(work.name, 0)
    bed.until(lambda: fresh.list()[0].state.finished)
    fresh.remove(work.name)
    fresh.close()
    assert not bed.services()


def test_secrets_that_nobody_needs_are_collected(bed: SwarmBed) -> None:
    work = bed.work("true", env=(EnvVar("A", secret="a", key="b"),))
    bed.backend.engine.create_secret("orphan", "eA==", spec.labels(work, bed.instance))
    bed.backend.subscribe(lambda namespace, job: None)
    bed.until(lambda: not bed.backend.engine.secrets([f"{spec.INSTANCE}={bed.instance}"]))


MEET = """
while [ "$RANK" = 1 ]; do echo "hello of $RANK" | nc "$MASTER_ADDR" "$MASTER_PORT" && exit 0; sleep 0.2; done
timeout 60 nc -l -p "$MASTER_PORT"; cat "$CUMULUS_HOSTFILE"
"""


def test_a_gang_meets_over_a_network_of_its_own_that_goes_with_it(bed: SwarmBed) -> None:
    members = (GangMember("worker1"), GangMember("worker2"))
    works = [
        bed.work("sh", "-c", MEET, replica=r, replicas=2, node=members[r].node, gang=members) for r in range(2)
    ]  # fmt: skip
    for work in works:
        bed.backend.start(work)
        bed.reopen()
    assert [bed.finish(work).state for work in works] == [WorkloadState.SUCCEEDED] * 2
    assert bed.log(works[0]) == b"hello of 1\nreplica-0 slots=1\nreplica-1 slots=1\n"
    assert len(bed.gang_parts()) == 2, "one network and one file"
    for work in works:
        bed.backend.remove(work.name)
    bed.reopen()
    bed.backend.subscribe(lambda namespace, job: None)
    bed.until(lambda: not bed.gang_parts())


def test_a_network_that_a_dead_daemon_left_is_collected(bed: SwarmBed) -> None:
    members = (GangMember("worker1"), GangMember("worker2"))
    work = bed.work("sleep", "60", replicas=2, gang=members)
    Networks(bed.backend.engine, lambda: bed.instance).make(work)
    assert len(bed.gang_parts()) == 2
    bed.backend.subscribe(lambda namespace, job: None)
    bed.until(lambda: not bed.gang_parts())


def test_a_log_is_followed_to_its_end(bed: SwarmBed) -> None:
    work = _begun(bed, bed.work("sh", "-c", "for n in 1 2 3 4 5 6; do echo $n; echo e$n >&2; sleep 0.3; done"))
    bed.running(work)
    chunks = list(bed.backend.logs(work.job_uid, 1, 0, follow=True))
    assert len(chunks) > 2, "it came while it was written"
    assert sorted(b"".join(chunks).split()) == sorted(f"{e}{n}".encode() for n in range(1, 7) for e in ("", "e"))


def test_a_log_is_saved_before_its_service_goes(bed: SwarmBed) -> None:
    work = _begun(bed, bed.work("sh", "-c", "seq 1 20000; printf end"))
    bed.finish(work)
    bed.backend.remove(work.name)
    assert not bed.services()
    expected = "".join(f"{n}\n" for n in range(1, 20001)).encode() + b"end"
    assert bed.log(work) == expected
    bed.reopen()
    assert bed.log(work, tail=2) == b"20000\nend"
    stamped = b"".join(bed.backend.logs(work.job_uid, 1, 0, tail=1, timestamps=True))
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ end", stamped)
    assert b"".join(bed.backend.logs(work.job_uid, 1, 0, since=time.time() + 60)) == b""


def test_logs_come_from_the_node_where_the_manager_does_not_have_them(bed: SwarmBed, monkeypatch: Any) -> None:
    """moby#38640, #37336: service logs hang."""
    _no_logs(monkeypatch)
    bed.finish(work := bed.start(Behaviour(output="from the node\n")))
    assert bed.log(work) == b"from the node\n"


def test_a_log_that_nobody_can_read_does_not_keep_the_service_for_ever(bed: SwarmBed, monkeypatch: Any) -> None:
    _no_logs(monkeypatch)
    bed.options["node_engine"] = lambda node: None
    bed.reopen()
    bed.finish(work := bed.start(Behaviour(output="x")))
    with pytest.raises(BackendError):
        bed.backend.remove(work.name)
    assert bed.services()
    bed.impatient(log=0.0)
    bed.backend.remove(work.name)
    assert not bed.services()
    assert b"could not be read" in bed.log(work)


def test_an_idle_backend_asks_little(bed: SwarmBed) -> None:
    """Under one call a second; a stream of events is one call."""
    bed.backend.subscribe(lambda namespace, job: None)
    time.sleep(2)
    before = bed.backend.engine.calls
    time.sleep(5)
    assert bed.backend.engine.calls - before < 5


def test_the_end_of_one_job_asks_for_no_other_jobs_services(bed: SwarmBed, monkeypatch: Any) -> None:
    works = [bed.start(Behaviour(seconds=60), job=f"job{number}") for number in range(3)]
    for work in works:
        bed.running(work)
    engine = bed.backend.engine
    answers: list[int] = []

    for asked in ("services", "tasks", "secrets", "containers"):

        def counted(of: Any, ask: Any = getattr(engine, asked)) -> Any:
            found = ask(of)
            answers.append(len(found))
            return found

        monkeypatch.setattr(engine, asked, counted)
    [seen] = bed.backend.list(works[1].job_uid)
    assert (seen.name, seen.state) == (works[1].name, WorkloadState.RUNNING)
    assert answers == [1, 1]


def test_a_manager_that_does_not_answer_is_passed_over(swarm: Lab, bed: SwarmBed, tmp_path: Path) -> None:
    urls = ["unix:///nosuch.sock", swarm.nodes["worker1"].socket, swarm.manager.socket]
    backend = bed.open(Engine(urls))
    backend.start(work := bed.work("true"))
    bed.until(lambda: (seen := backend.get(work.name)) is not None and seen.state is WorkloadState.SUCCEEDED)
    backend.close()


def _begun(bed: SwarmBed, work: Workload) -> Workload:
    bed.backend.start(work)
    return work


def _record(bed: SwarmBed, work: Workload) -> Path:
    return bed.directory / "swarm" / "jobs" / work.job_uid / f"a{work.attempt}-r{work.replica}"


def _no_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: Engine, id: str, since: float = 0.0) -> bytes:
        raise BackendError("the manager does not answer")

    monkeypatch.setattr(Engine, "task_log", silent)
