"""What Swarm's tasks mean, as tables."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import WorkloadState
from cumulus.backends.swarm import spec, tasks
from cumulus.backends.swarm.members import Members, SwarmMember
from cumulus.backends.swarm.node_engine import ShellEngine
from cumulus.backends.swarm.records import RUNNING, STOP, Record
from cumulus.backends.swarm.task_reconciler import REACHED_SECONDS, TaskReconciler, Timeouts
from cumulus.backends.swarm.tasks import EndEvidence, Task
from cumulus.backends.swarm.uploading import NodeUploading
from cumulus.clock import Clock, FakeClock, SystemClock, parse_timestamp, timestamp
from cumulus.errors import NodeUnreachable
from cumulus.secrets import JobSecrets
from tests.backends.test_seams import LocalShell

AT = "2026-01-02T03:04:05.123456789Z"
START = {"name": "w", "job_uid": "u", "namespace": "d", "job": "j", "attempt": 1, "replica": 0, "node": "n"}


def task(state: str, code: int | None = None, error: str = "", **more: Any) -> Task:
    container = {"ContainerID": "c1", "ExitCode": code} if code is not None else {}
    status = {"State": state, "Err": error, "ContainerStatus": container, "Timestamp": AT}
    return Task.read({"ID": "t1", "NodeID": "n1", "CreatedAt": AT, "DesiredState": "running", "Status": status, **more})


@pytest.mark.parametrize(("seen", "evidence", "expected"), [
    (task("complete", 0), EndEvidence(), (WorkloadState.SUCCEEDED, "")),
    (task("complete", 0), EndEvidence(stopped=True), (WorkloadState.FAILED, "Stopped")),
    (task("complete", 0), EndEvidence(lease="expired"), (WorkloadState.FAILED, "LeaseExpired")),
    (task("complete", 0), EndEvidence(lease="released"), (WorkloadState.FAILED, "Stopped")),
    (task("shutdown", 0), EndEvidence(stopped=True), (WorkloadState.FAILED, "Stopped")),
    (task("failed", 75), EndEvidence(), (WorkloadState.FAILED, "Error")),
    (task("failed", 7, "task: non-zero exit (7)"), EndEvidence(), (WorkloadState.FAILED, "Error")),
    (
        task("failed", 137, "task: non-zero exit (137)"),
        EndEvidence(oom=True, memory_bytes=1), (WorkloadState.FAILED, "OOMKilled"),
    ),
    (task("failed", 137), EndEvidence(oom=None, memory_bytes=1), (WorkloadState.FAILED, "OOMKilled")),
    (task("failed", 137), EndEvidence(oom=False, memory_bytes=1), (WorkloadState.FAILED, "Error")),
    (task("failed", 143), EndEvidence(lease="expired"), (WorkloadState.FAILED, "LeaseExpired")),
    (task("failed", 143), EndEvidence(lease="released"), (WorkloadState.FAILED, "Stopped")),
    (task("failed", 143), EndEvidence(stopped=True), (WorkloadState.FAILED, "Stopped")),
    (task("failed", 143), EndEvidence(restarted=True), (WorkloadState.FAILED, "Lost")),
    (task("failed", 255), EndEvidence(restarted=True), (WorkloadState.FAILED, "Lost")),
    (task("failed", 7), EndEvidence(restarted=True), (WorkloadState.FAILED, "Error")),
    (task("rejected", error="No such image: x"), EndEvidence(), (WorkloadState.FAILED, "StartError")),
    (task("rejected", error="No such image: x"), EndEvidence(stopped=True), (WorkloadState.FAILED, "StartError")),
    (task("shutdown", 143), EndEvidence(stopped=True), (WorkloadState.FAILED, "Stopped")),
    (task("shutdown", 143), EndEvidence(), (WorkloadState.FAILED, "Lost")),
    (task("orphaned"), EndEvidence(), (WorkloadState.FAILED, "Lost")),
    (task("failed", 0, "No such container: default-job.1.x"), EndEvidence(), (WorkloadState.FAILED, "Lost")),
    (task("failed", 0, "No such container: x"), EndEvidence(lease="expired"), (WorkloadState.FAILED, "LeaseExpired")),
    (task("failed", 127, "starting container failed: exec"), EndEvidence(), (WorkloadState.FAILED, "StartError")),
    (task("failed", error="starting container failed: no such file"), EndEvidence(), (WorkloadState.FAILED, "Lost")),
    (
        task("failed", 128, "starting container failed: task 7f: already exists: unknown"),
        EndEvidence(), (WorkloadState.FAILED, "Lost"),
    ),
    (
        task("failed", 128, "starting container failed: chronos-runtime: a-r0 was started on this node before: x"),
        EndEvidence(), (WorkloadState.FAILED, "Lost"),
    ),
    (
        task("failed", 128, "starting container failed: rpc error: code = Unavailable desc = transport is closing"),
        EndEvidence(), (WorkloadState.FAILED, "Lost"),
    ),
    (
        task("failed", 128, "starting container failed: address already in use"),
        EndEvidence(), (WorkloadState.FAILED, "StartError"),
    ),
    (
        task("failed", 127, 'starting container failed: exec: "already exists": not found'),
        EndEvidence(), (WorkloadState.FAILED, "StartError"),
    ),
    (
        task("failed", 126, "starting container failed: connection refused"),
        EndEvidence(), (WorkloadState.FAILED, "StartError"),
    ),
    (task("failed", 1, "task: non-zero exit (1)"), EndEvidence(drained=True), (WorkloadState.FAILED, "Error")),
    (
        task("rejected", error="Conflict. The container name /x is already in use by container 7f"),
        EndEvidence(), (WorkloadState.FAILED, "Lost"),
    ),
    (
        task("rejected", error="No such image: x: connection refused"),
        EndEvidence(), (WorkloadState.FAILED, "StartError"),
    ),
    (
        task("rejected", error="invalid mount config: bind source path does not exist"),
        EndEvidence(), (WorkloadState.FAILED, "StartError"),
    ),
])  # fmt: skip
def test_an_end(seen: Task, evidence: EndEvidence, expected: tuple[WorkloadState, str]) -> None:
    state, reason, _ = tasks.ended(seen, evidence)
    assert (state, reason or "") == expected


@pytest.mark.parametrize(("drained", "why"), [(True, "its node was drained"), (False, "its service was changed")])
def test_what_swarm_ended_says_why(drained: bool, why: str) -> None:
    message = tasks.ended(task("shutdown", 143), EndEvidence(node="n", drained=drained))[2]
    assert message.startswith(f"Swarm ended it on n: {why}")


def _node(updated: str) -> dict[str, Any]:
    return {"ID": "n1", "UpdatedAt": updated, "Spec": {"Availability": "active"}, "Status": {"State": "ready"}}


class _Members:
    """A Swarm that nobody joined lately."""

    def by_id(self, id: str, *, fresh: bool = False) -> SwarmMember:
        return SwarmMember.read(_node("2020-01-01T00:00:00Z"))


class _Manager:
    """A manager's engine that knows one node."""

    def __init__(self) -> None:
        self.known = [_node("2020-01-01T00:00:00Z")]
        self.asked = 0

    def nodes(self) -> list[dict[str, Any]]:
        self.asked += 1
        return self.known


class _Services:
    """What a run's end asks of the services."""

    def without_secrets(self, record: Record, text: str) -> str:
        return text


def reconciler(
    expires: str, members: Members | None = None, *, clock: Clock | None = None,
    says: Callable[[], tuple[str, str]] | None = None,
) -> TaskReconciler:  # fmt: skip
    """Whose nodes say that every lease has expired, at that time, or what `says` says."""
    return TaskReconciler(
        None,
        members or _Members(),
        _Services(),
        lambda node: None,
        lambda node, lease: says() if says else ("expired", expires),
        clock or SystemClock(),
        lambda *_: None,
        Timeouts(),
        NodeUploading(lambda node: None, JobSecrets("/nowhere"), {}),
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("complete", "ended_before", "how"),
    [
        pytest.param(True, 5.0, "", id="was gone before its lease ended"),
        pytest.param(True, 0.2, "expired", id="by two clocks nobody can tell"),
        pytest.param(True, -2.0, "expired", id="got the signal"),
        pytest.param(False, 5.0, "", id="failed before its lease ended"),
        pytest.param(False, -2.0, "expired", id="ended by its lease"),
    ],
)
def test_a_lease_that_ended_after_the_run_did_not_end_it(
    tmp_path: Path, complete: bool, ended_before: float, how: str
) -> None:
    run = task("complete", 0) if complete else task("failed", 143)
    expires = timestamp(parse_timestamp(run.at) + timedelta(seconds=ended_before))
    start = {**START, "leases": [{"id": "a", "expires_at": expires}], "memory_bytes": 0}
    end = reconciler(expires).reconcile(Record(str(tmp_path), start), [run])
    assert end.reason == ("LeaseExpired" if how else "" if complete else "Error")


def test_an_engine_that_came_back_after_the_nodes_were_read_last_is_seen(tmp_path: Path) -> None:
    """Nodes are read once a second; the end that the engine reports when it is back may come within that second."""
    manager = _Manager()
    members = Members(manager, FakeClock())  # type: ignore[arg-type]
    record = Record(str(tmp_path), {**START, "leases": [], "memory_bytes": 0})
    assert members.by_id("n1") == members.by_id("n1")
    assert manager.asked == 1
    manager.known = [_node(AT)]
    end = reconciler("", members).reconcile(record, [task("failed", 143)])
    assert (end.reason, end.message) == ("Lost", "the engine of n was restarted, and it ended with exit code 143")


def test_that_a_node_left_the_swarm_is_never_said_of_a_list_read_before() -> None:
    manager = _Manager()
    members = Members(manager, FakeClock())  # type: ignore[arg-type]
    there, manager.known = manager.known, []
    assert members.everyone() == []
    manager.known = there
    found = members.by_id("n1")
    assert found is not None
    assert found.answers


def test_a_daemon_that_has_not_reached_the_node_waits_to_hear_how_a_lease_ended(tmp_path: Path) -> None:
    """What is recorded of the lease's end is later than that came to be: it left time for the program's start."""
    run = task("failed", 143)
    clock = FakeClock(parse_timestamp(run.at) + timedelta(seconds=1))
    start = {
        **START, "leases": [{"id": "a", "expires_at": timestamp(clock.now() + timedelta(hours=1))}], "memory_bytes": 0,
    }  # fmt: skip
    reached: list[bool] = []

    def says() -> tuple[str, str]:
        if not reached:
            raise NodeUnreachable("this daemon does not manage the node n")
        return "expired", run.at

    for answers, reason in ((True, "LeaseExpired"), (False, "Error")):
        reached.clear()
        (tmp_path / reason).mkdir()
        record, found = Record(str(tmp_path / reason), start), reconciler("", clock=clock, says=says)
        for _ in range(2):
            with pytest.raises(NodeUnreachable, match="its lease ended is not told yet: this daemon does not"):
                found.reconcile(record, [run])
            clock.advance(REACHED_SECONDS - 40)
        if answers:
            reached.append(True)
        else:
            clock.advance(30)
        assert found.reconcile(record, [run]).reason == reason


@pytest.mark.parametrize(("ran", "code"), [(True, 0), (False, None)])
def test_a_container_that_was_made_and_never_ran_has_no_exit_code(tmp_path: Path, ran: bool, code: int | None) -> None:
    """Swarm says 0 of it, which would say that the job did its work."""
    record = Record(str(tmp_path), {**START, "leases": []})
    record.write(STOP, {"grace": 1.0, "at": AT})
    if ran:
        record.write(RUNNING, {"at": AT, "task": "t1"})
    end = reconciler("").reconcile(record, [task("shutdown", 0)])
    assert (end.state, end.reason, end.exit_code) == (WorkloadState.FAILED, "Stopped", code)


@pytest.mark.parametrize(("why", "reason"), [("Swarm does not place it: no suitable node", "Lost"), ("", "Stopped")])
def test_a_run_that_no_node_took_ends_alike_however_late_it_is_looked_at(tmp_path: Path, why: str, reason: str) -> None:
    """Swarm goes on from desired to actual shutdown by itself."""
    waits = task("pending", DesiredState="shutdown", NodeID="")
    over = task("shutdown", DesiredState="shutdown", NodeID="")
    ends = []
    for name, seen in (("a", waits), ("b", over)):
        (tmp_path / name).mkdir()
        record = Record(str(tmp_path / name), {**START, "leases": [], "memory_bytes": 0})
        record.write(STOP, {"grace": 1.0, "at": AT, "why": why})
        ends.append(reconciler("").reconcile(record, [seen]))
    assert [(end.state, end.reason, end.exit_code) for end in ends] == [(WorkloadState.FAILED, reason, None)] * 2
    assert ends[0].message == ends[1].message


@pytest.mark.parametrize(
    ("seen", "stopped_before", "reason"),
    [
        pytest.param(task("complete", 0), 5.0, "Stopped", id="told to stop before it ended"),
        pytest.param(task("complete", 0), -0.5, "Stopped", id="by two clocks nobody can tell"),
        pytest.param(task("complete", 0), -5.0, "", id="gone before"),
        pytest.param(task("failed", 3), -5.0, "Error", id="failed before"),
        pytest.param(task("shutdown", 143), -5.0, "Stopped", id="ended by Swarm, whatever the clocks say"),
    ],
)
def test_a_run_that_was_gone_before_it_was_told_to_stop_is_what_its_exit_code_says(
    tmp_path: Path, seen: Task, stopped_before: float, reason: str
) -> None:
    record = Record(str(tmp_path), {**START, "leases": [], "memory_bytes": 0})
    record.write(RUNNING, {"at": AT, "task": "t1"})
    told = timestamp(parse_timestamp(seen.at) - timedelta(seconds=stopped_before))
    record.write(STOP, {"grace": 1.0, "at": told})
    end = reconciler("").reconcile(record, [seen])
    assert (end.state, end.reason) == (WorkloadState.FAILED if reason else WorkloadState.SUCCEEDED, reason)


def test_a_program_that_was_asked_for_a_checkpoint_stays_so_where_its_end_is_brought_nearer(tmp_path: Path) -> None:
    record = Record(str(tmp_path), {**START, "leases": [], "memory_bytes": 0})
    at = timestamp(SystemClock().now())
    record.write(STOP, {"grace": 60.0, "at": at, "why": "", "asked": True, "saved": {"step": 3}})
    reconciler("").ask_to_stop(record, 5.0)
    found = record.read(STOP) or {}
    assert (found["grace"], found["asked"], found["saved"]) == (5.0, True, {"step": 3})


def test_a_start_that_the_engine_failed_has_no_exit_code_of_the_program(tmp_path: Path) -> None:
    record = Record(str(tmp_path), {**START, "leases": [], "memory_bytes": 0})
    seen = task("failed", 128, "starting container failed: task 7f: already exists")
    end = reconciler("").reconcile(record, [seen])
    assert (end.reason, end.exit_code) == ("Lost", None)


def test_a_nodes_engine_tells_when_a_checkpoint_was_written(tmp_path: Path) -> None:
    data, empty = tmp_path / "it's data", tmp_path / "empty"
    (data / "job" / "step").mkdir(parents=True)
    empty.mkdir()
    (data / "job" / "step" / "weights").write_text("1")
    mounts = [
        {"Source": str(data), "Destination": "/data"},
        {"Source": str(empty), "Destination": "/data/none"},
        {"Source": str(tmp_path / "gone"), "Destination": "/gone"},
    ]
    engine = ShellEngine(LocalShell(tmp_path, mounts))
    changed = datetime.fromtimestamp((data / "job" / "step" / "weights").stat().st_ctime, UTC)
    assert engine.written("c1", "/data/job") == timestamp(changed)
    assert engine.written("c1", "/data/none") == ""
    assert engine.written("c1", "/data/not-there") == ""
    assert engine.written("c1", "/gone") is None
    assert engine.written("c1", "/elsewhere") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_only_the_daemon_says_that_a_container_sees_the_nodes_files(tmp_path: Path) -> None:
    mine, nobodys = tmp_path / "mine", Path(tempfile.mkdtemp())
    mine.mkdir()
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(nobodys, nobody, -1)
    for place in (mine, nobodys):
        (place / "weights").write_text("1")
        place.chmod(0o700)

    def seen(place: Path, env: list[str], **labels: str) -> str | None:
        return ShellEngine(LocalShell(tmp_path, [], Env=env, Labels=labels)).written("c1", str(place))

    try:
        # What an image can say.
        label = {"cumulus.dev/program-of": "0"}
        assert seen(mine, ["CHRONOS_SUBMITTER=1000:1000:"], **label) is None
        assert seen(mine, ["CHRONOS_SUBMITTER=admin", "X=host:root:0"], **label) is None
        assert seen(nobodys, program := [f"CHRONOS_SUBMITTER=host:nobody:{nobody}"])
        assert not seen(mine, program)
    finally:
        shutil.rmtree(nobodys)


def test_a_code_that_no_program_gave_is_none() -> None:
    """Swarm has 0 there where it does not know."""
    assert task("failed", 0, "No such container: x").exit_code is None
    assert task("complete", 0).exit_code == 0


@pytest.mark.parametrize("state", ["new", "pending", "assigned", "accepted", "preparing", "ready", "starting"])
def test_a_task_on_its_way(state: str) -> None:
    assert not task(state).terminal
    assert tasks.state(task(state)) is WorkloadState.STARTING


def test_a_pending_task_has_no_container() -> None:
    assert not tasks.alive([task("pending", NodeID="")])
    assert tasks.alive([task("preparing")])


def test_nanoseconds_are_cut() -> None:
    assert task("running").at == "2026-01-02T03:04:05.123456Z"
    assert tasks.moment("2026-01-02T03:04:05Z") == "2026-01-02T03:04:05.000000Z"
    assert tasks.moment("0001-01-01T00:00:00Z") == ""


def test_names_fit_swarm_and_differ() -> None:
    long = "default." + "x" * 200
    names = {spec.service_name(f"{long}.abc-a{n}-r0") for n in range(50)}
    assert len(names) == 50
    assert all(len(name) <= 63 and name.replace("-", "").isalnum() for name in names)
    assert spec.service_name("default.job.0-a1-r0") == spec.service_name("default.job.0-a1-r0")
