"""Jobs inside leases of a real ledger, with the real monitor stepped by the test."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cumulus.backends.base import LeaseRef, Workload, WorkloadState
from cumulus.backends.process import lease_guard as guards
from cumulus.chronos.contract import Device, Lease, LeaseRequest, LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor import Monitor
from cumulus.clock import SystemClock, parse_timestamp, timestamp
from cumulus.lib import cgroup, processes
from cumulus.lib.processes import ProcessIdentity
from tests.backends.process_bed import ProcessBed, job_processes, processes_of
from tests.chronos.conftest import remove_cgroups

DEVICES = [
    Device(0, "GPU-11111111-2222", "Big One", "NVIDIA", "gpu", 1 << 30, platform_index=1, device_index=0),
    Device(1, "GPU-33333333-4444", "Big Two", "NVIDIA", "gpu", 1 << 30, platform_index=1, device_index=1),
    Device(2, "cpu", "The CPU", "PoCL", "cpu", 1 << 30, platform_index=0, device_index=0),
]


class Node:
    """A ledger and its monitor beside a backend."""

    def __init__(self, directory: Path) -> None:
        home = directory / "chronos"
        self.ledger = Ledger(home, discover=lambda: DEVICES, start_monitor=False)
        self.monitor = Monitor(self.ledger)
        self.bed = ProcessBed(directory, home)

    def lease(self, id: str = "lease-1", *, device: int = 0, grace: float = 0.3) -> LeaseRef:
        return reference(self.ledger.grant(LeaseRequest(id, device, 1 << 20, 250, 60.0, grace=grace)))

    def state(self, id: str = "lease-1") -> LeaseState:
        lease = self.ledger.get(id)
        assert lease is not None
        return lease.state

    def expire(self) -> None:
        """Let the time of all leases be over now."""
        with self.ledger.database.write() as tx:
            tx.execute("UPDATE lease SET deadline = ?", (self.ledger.clock.monotonic(),))

    def stepping(self, met: object) -> bool:
        self.monitor.step()
        return bool(met)


def reference(lease: Lease) -> LeaseRef:
    device = DEVICES[lease.device]
    return LeaseRef(
        id=lease.id, device=lease.device, device_id=lease.device_id, device_name=device.name,
        device_type=device.type, platform_index=device.platform_index, device_index=device.device_index,
        memory_bytes=lease.memory_bytes, compute=lease.compute, token=lease.token, expires_at=lease.expires_at,
        enforcement="guarded",
    )  # fmt: skip


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    try:
        yield node
    finally:
        node.bed.close()
        node.ledger.close()
        remove_cgroups(node.ledger.home)


def test_a_job_runs_inside_its_live_lease(node: Node) -> None:
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    lease = node.lease()
    work, end = node.bed.run(sys.executable, "-c", script, leases=(lease,))
    assert end.state is WorkloadState.SUCCEEDED, end
    seen = json.loads(node.bed.log(work))
    assert (
        seen.items()
        >= {
            "CHRONOS_HOME": str(node.ledger.home),
            "CHRONOS_PARTITION_ID": "lease-1",
            "CHRONOS_MEMORY_BYTES": "1048576",
            "CHRONOS_COMPUTE_PERCENT": "25",
            "CHRONOS_EXPIRES_AT": lease.expires_at,
            "CHRONOS_DEVICE": "0",
            "CHRONOS_DEVICE_NAME": "Big One",
            "CHRONOS_FENCING_TOKEN": str(lease.token),
            "CHRONOS_ENFORCEMENT": "guarded",
            "PYOPENCL_CTX": "1:0",
            "CUDA_VISIBLE_DEVICES": "GPU-11111111-2222",
        }.items()
    )


def test_several_leases_are_told_in_their_order(node: Node) -> None:
    leases = (node.lease("b", device=1), node.lease("a", device=0))
    script = 'echo "$CHRONOS_PARTITION_ID $CHRONOS_DEVICE $CHRONOS_MEMORY_BYTES $PYOPENCL_CTX $CUDA_VISIBLE_DEVICES"'
    work, _ = node.bed.run("sh", "-c", script, leases=leases)
    assert node.bed.log(work) == b"b,a 1,0 1048576,1048576 1:0,1 GPU-33333333-4444,GPU-11111111-2222\n"


def test_a_cpu_offered_beside_gpus_is_so_to_supervisors_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOS_OFFER_CPU", "1")
    work, end = node.bed.run("sh", "-c", "echo $CHRONOS_DEVICE $CHRONOS_OFFER_CPU", leases=(node.lease(device=2),))
    assert (end.state, node.bed.log(work)) == (WorkloadState.SUCCEEDED, b"2\n"), end


class TestNoLeaseNoStart:
    def refused(self, node: Node, lease: LeaseRef) -> tuple[str, str]:
        work, end = node.bed.run("touch", "ran", leases=(lease,))
        assert end.state is WorkloadState.FAILED
        assert not (node.bed.run_directory(work) / "work").exists()
        return end.reason, end.message

    def test_unknown(self, node: Node) -> None:
        lease = dataclasses.replace(node.lease(), id="another")
        assert self.refused(node, lease) == ("StartError", "not started without its lease: there is no lease another")

    def test_released(self, node: Node) -> None:
        lease = node.lease()
        node.ledger.release("lease-1")
        assert self.refused(node, lease) == ("Stopped", "its lease was released before the command was started")

    def test_expired(self, node: Node) -> None:
        lease = node.lease()
        node.expire()
        node.bed.until(lambda: node.stepping(node.state() is LeaseState.ENDED))
        assert self.refused(node, lease) == ("LeaseExpired", "its lease expired before the command was started")

    @pytest.mark.parametrize("difference", [-1, 1])
    def test_another_token(self, node: Node, difference: int) -> None:
        lease = node.lease()
        reason, message = self.refused(node, dataclasses.replace(lease, token=lease.token + difference))
        assert reason == "StartError"
        assert message.startswith("not started, its lease was granted to another holder")

    def test_one_of_two(self, node: Node) -> None:
        leases = (node.lease("a"), dataclasses.replace(node.lease("b", device=1), token=99))
        work, end = node.bed.run("touch", "ran", leases=leases)
        assert end.reason == "StartError"
        assert not (node.bed.run_directory(work) / "work").exists()

    def test_ledger_that_cannot_be_used(self, node: Node, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        bed = ProcessBed(tmp_path, tmp_path / "file")
        bed.backend.start(work := bed.work("touch", "ran", leases=(node.lease(),)))
        try:
            bed.supervisor(work)  # It asks again for a while before it gives up: a stop ends that.
            assert not bed.seen(work).state.finished
            bed.backend.stop(work.name, 0)
            end = bed.finish(work)
            assert (end.state, end.reason) == (WorkloadState.FAILED, "Stopped")
        finally:
            bed.close()

    def test_what_is_the_nodes_fault_is_not_the_jobs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Such an attempt does not count against its retries."""
        (tmp_path / "file").write_text("x")
        spec = {"leases": [{"id": "a", "token": 1}], "env": {}, "chronos_home": str(tmp_path / "file")}
        with pytest.raises(guards.LeaseRefused, match=r"not started: .*cannot be used") as caught:
            guards.LeaseGuard(spec, ledger_patience=0.0).attach(os.getpid())
        assert caught.value.end.reason == "Lost"
        monkeypatch.setattr(guards.LeaseGuard, "_attach", lambda guard, pid: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(guards.LeaseRefused, match="killed by signal 9") as caught:
            guards.LeaseGuard(spec).attach(os.getpid())
        assert caught.value.end.reason == "Lost"

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (KeyError("x"), "StartError"),
            (PermissionError(13, "no"), "StartError"),
            (OSError(errno.ENOSPC, "full"), "Lost"),
            (MemoryError(), "Lost"),
        ],
    )
    def test_an_error_of_ours_is_told_with_its_text(
        self, node: Node, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
    ) -> None:
        """Only what passes by itself is the node's fault, and so tried again for long."""

        def fail(*_: object) -> dict[str, str]:
            raise error

        monkeypatch.setattr("cumulus.chronos.enforce.environment", fail)
        lease = node.lease()
        spec = {"leases": [{"id": lease.id, "token": lease.token}], "env": {}, "chronos_home": str(node.ledger.home)}
        with pytest.raises(guards.LeaseRefused) as caught:
            guards.LeaseGuard(spec).attach(os.getpid())
        end = caught.value.end
        assert (end.reason, type(error).__name__ in end.message) == (reason, True)


@pytest.mark.parametrize("mode", ["off", "shared"])
def test_a_job_may_do_without_mps(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """As an OpenCL program must on an NVIDIA GPU. The node's MPS is played by a program that says nothing."""
    (tmp_path / "bin").mkdir()
    control = tmp_path / "bin" / "nvidia-cuda-mps-control"
    control.write_text("#!/bin/sh\nexit 0\n")
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    monkeypatch.setattr("cumulus.chronos.enforce.mps_daemon.Daemon.ensure", lambda self, *_: True)
    lease = node.lease()
    own = {"CHRONOS_MPS": mode, "PYTHONPATH": "/job"}
    spec = {"leases": [{"id": lease.id, "token": lease.token}], "env": own, "chronos_home": str(node.ledger.home)}
    variables, _ = guards.LeaseGuard(spec).attach(os.getpid())
    assert ("CUDA_MPS_PIPE_DIRECTORY" in variables) is (mode == "shared")
    assert variables["PYTHONPATH"].endswith(":/job")


class TestStart:
    def test_the_time_of_a_lease_counts_from_the_start_of_the_command(self, node: Node) -> None:
        lease = node.ledger.grant(LeaseRequest("lease-1", 0, 1 << 20, 250, 60.0, grace=0.3, start_within=600.0))
        assert lease.expires_in > 600
        known = dataclasses.replace(reference(lease), seconds=60.0)
        script = ": > ready; echo $CHRONOS_EXPIRES_AT $CHRONOS_LEASE_SECONDS; exec sleep 1000"
        node.bed.backend.start(work := node.bed.work("sh", "-c", script, leases=(known,)))
        node.bed.running(work)
        begun = node.ledger.get("lease-1")
        assert begun is not None
        started = parse_timestamp(node.bed.seen(work).started_at)
        left = (parse_timestamp(begun.expires_at) - started).total_seconds()
        assert 60 <= left < 300
        node.bed.until(lambda: node.bed.log(work).endswith(b"\n"))
        said, seconds = node.bed.log(work).decode().split()
        assert seconds == "60"
        # A moment too early, never too late.
        assert started + timedelta(seconds=40) < parse_timestamp(said) <= parse_timestamp(begun.expires_at)
        node.bed.backend.stop(work.name, 0)
        node.bed.finish(work)

    def test_one_that_is_not_started_leaves_no_child_and_no_time_counts(self, node: Node) -> None:
        lease = node.ledger.grant(LeaseRequest("lease-1", 0, 1 << 20, 250, 60.0, grace=0.3, start_within=30.0))
        work, end = node.bed.run("true", working_dir="/no/such", leases=(reference(lease),))
        assert end.reason == "StartError"
        assert node.ledger.get("lease-1").expires_at == lease.expires_at  # type: ignore[union-attr]
        node.bed.until(lambda: not processes_of(node.bed.run_directory(work)))


class TestExpiry:
    @pytest.mark.parametrize(("ran", "by", "end"), [(61, 60.5, "expired"), (61, 59, ""), (30, 30, "")])
    def test_where_the_ledger_is_gone_the_time_tells(self, tmp_path: Path, ran: float, by: float, end: str) -> None:
        (tmp_path / "file").write_text("x")
        spec = {"leases": [{"id": "a", "token": 1, "seconds": 60.0}], "env": {}, "chronos_home": str(tmp_path / "file")}
        guard = guards.LeaseGuard(spec)
        assert guard.ended() == ""
        guard._began = SystemClock().monotonic() - ran
        assert guard.ended(by=guard._began + by) == end

    def test_ends_the_job_and_is_its_reason(self, node: Node) -> None:
        script = "trap 'echo saved; exit 0' TERM; : > ready; while :; do sleep 0.02; done"
        node.bed.backend.start(work := node.bed.work("sh", "-c", script, leases=(node.lease(grace=20.0),)))
        node.bed.running(work)
        node.expire()
        node.bed.until(lambda: node.stepping(node.bed.seen(work).state.finished))
        end = node.bed.seen(work)
        assert (end.state, end.reason, end.exit_code) == (WorkloadState.FAILED, "LeaseExpired", 0)
        assert node.bed.log(work).endswith(b"saved\n")

    @pytest.mark.parametrize("code", [0, 3])
    def test_a_program_that_was_gone_before_the_signal_is_what_its_exit_code_says(self, node: Node, code: int) -> None:
        """Its supervisor learns of both at once: it was held up."""
        script = f": > ready; while [ ! -e go ]; do sleep 0.01; done; exit {code}"
        node.bed.backend.start(work := node.bed.work("sh", "-c", script, leases=(node.lease(),)))
        node.bed.running(work)
        supervisor = node.bed.supervisor(work)
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        os.kill(supervisor, signal.SIGSTOP)
        (node.bed.run_directory(work) / "work" / "go").touch()
        node.bed.until(lambda: all(") Z " in Path(f"/proc/{child}/stat").read_text() for child in children))
        node.bed.backend.stop(work.name, 5)
        os.kill(supervisor, signal.SIGCONT)
        end = node.bed.finish(work)
        assert (end.exit_code, end.reason) == (code, "Error" if code else "")

    @pytest.mark.parametrize("over", ["expired", "released"])
    def test_a_lease_that_ended_after_the_program_did_not_end_it(self, node: Node, over: str) -> None:
        guard = guards.LeaseGuard(
            {"leases": [{"id": node.lease().id, "token": 1}], "env": {}, "chronos_home": str(node.ledger.home)}
        )
        with subprocess.Popen(["sleep", "100"]) as attached:
            node.ledger.attach("lease-1", attached.pid, 1)
            attached.kill()
        before = node.ledger.clock.monotonic()
        assert guard.ended(before) == ""
        if over == "expired":
            node.expire()
        else:
            node.ledger.release("lease-1")
        assert guard.ended(before) == ""
        assert guard.ended(node.ledger.clock.monotonic()) == over
        assert guard.ended() == over

    def test_a_saved_checkpoint_is_told_with_its_time(self, node: Node, tmp_path: Path) -> None:
        path = tmp_path / "checkpoint"
        script = "d=$CUMULUS_CHECKPOINT_PATH; mkdir -p $d/step; echo 1 > $d/step/weights; exit 75"
        _, end = node.bed.run("sh", "-c", script, checkpoint_path=str(path))
        written = datetime.fromtimestamp((path / "step" / "weights").stat().st_ctime, UTC)
        assert (end.exit_code, end.reason, end.checkpoint_at) == (75, "Error", timestamp(written))
        _, none = node.bed.run("sh", "-c", "exit 75", checkpoint_path=str(tmp_path / "none"), attempt=2)
        assert (none.exit_code, none.checkpoint_at) == (75, "")
        _, unseen = node.bed.run("sh", "-c", "exit 75", attempt=3)
        assert (unseen.exit_code, unseen.checkpoint_at) == (75, None)

    def test_kills_what_does_not_heed_it_and_the_supervisor_tells(self, node: Node) -> None:
        script = "trap '' TERM; setsid sh -c 'sleep 1000 & sleep 1000' & : > ready; sleep 1000; sleep 1000"
        lease = node.lease(grace=0.2)
        node.bed.backend.start(work := node.bed.work("sh", "-c", script, leases=(lease,), checkpoint_path="saved"))
        node.bed.running(work)
        node.expire()
        node.bed.until(lambda: node.stepping(node.bed.seen(work).state.finished))
        end = node.bed.seen(work)
        assert (end.state, end.reason, end.exit_code) == (WorkloadState.FAILED, "LeaseExpired", 137)
        assert end.checkpoint_at == ""
        assert job_processes(node.bed.run_directory(work)) == []
        node.bed.until(lambda: node.stepping(node.state() is LeaseState.ENDED))

    def test_the_share_stays_taken_while_a_process_is_left(self, node: Node) -> None:
        script = "trap '' TERM; : > ready; sleep 1000; sleep 1000"
        node.bed.backend.start(work := node.bed.work("sh", "-c", script, leases=(node.lease(grace=30.0),)))
        node.bed.running(work)
        node.ledger.release("lease-1")
        node.monitor.step()
        assert node.state() is LeaseState.ENDING
        assert node.ledger.usage(0).memory_bytes == 1 << 20
        node.bed.backend.stop(work.name, 0)
        assert node.bed.finish(work).reason == "Stopped"
        node.bed.until(lambda: node.stepping(node.state() is LeaseState.ENDED))

    def test_release_ends_the_job(self, node: Node) -> None:
        node.bed.backend.start(work := node.bed.work("sh", "-c", ": > ready; exec sleep 1000", leases=(node.lease(),)))
        node.bed.running(work)
        node.ledger.release("lease-1")
        node.bed.until(lambda: node.stepping(node.bed.seen(work).state.finished))
        end = node.bed.seen(work)
        assert (end.reason, end.message) == ("Stopped", "its lease was released, and it ended with signal SIGTERM")

    def test_a_job_is_signalled_once_by_stop_and_expiry_together(self, node: Node) -> None:
        script = (
            "import signal, time\nn = []\nsignal.signal(signal.SIGTERM, lambda *_: n.append(1))\n"
            "open('ready', 'w')\nwhile not n: time.sleep(0.01)\ntime.sleep(0.5)\nprint(len(n))"
        )
        lease = node.lease(grace=20.0)
        node.bed.backend.start(work := node.bed.work(sys.executable, "-c", script, leases=(lease,)))
        node.bed.running(work)
        node.ledger.release("lease-1")
        node.bed.backend.stop(work.name, 20)
        node.bed.until(lambda: node.stepping(node.bed.seen(work).state.finished))
        assert node.bed.log(work) == b"1\n"

    @pytest.mark.parametrize("over", ["expired", "released"])
    def test_without_its_supervisor_too(self, node: Node, over: str) -> None:
        """The daemon is not there, the supervisor was killed: the lease ends what is left, and that is told later."""
        script = "trap '' TERM; setsid sh -c 'sleep 1000 & sleep 1000' & : > ready; sleep 1000; sleep 1000"
        lease = node.lease(grace=0.1)
        node.bed.backend.start(work := node.bed.work("sh", "-c", script, leases=(lease,)))
        node.bed.running(work)
        supervisor = node.bed.supervisor(work)
        node.bed.backend.close()
        os.kill(supervisor, signal.SIGKILL)
        if over == "expired":
            node.expire()
        else:
            node.ledger.release("lease-1")
        node.bed.until(lambda: node.stepping(node.state() is LeaseState.ENDED))
        assert job_processes(node.bed.run_directory(work)) == []
        node.bed.reopen()
        end = node.bed.finish(work)
        assert end.reason == {"expired": "LeaseExpired", "released": "Stopped"}[over]
        assert end.message == f"its lease {'was ' if over == 'released' else ''}{over} while it had no supervisor"


ESCAPE = """
import os, signal, sys, time
supervisor = os.getppid()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        script = "echo $$ > escaped.new; mv escaped.new escaped; while :; do sleep 1; done"
        os.execve("/bin/sh", ["sh", "-c", script], {"PATH": os.environ["PATH"]})
    os._exit(0)
open("ready", "w")
while not os.path.exists("go"):
    time.sleep(0.01)
os.kill(supervisor, getattr(signal, sys.argv[1]))
time.sleep(100)
"""
"""Leaves its supervisor's tree with an empty environment, deaf to signals, and then ends or stops its supervisor."""

needs_cgroups = pytest.mark.skipif(
    cgroup.why_unavailable()[0] != "", reason=f"cgroups of jobs are NOT tested: {cgroup.why_unavailable()[0]}"
)


class TestEscape:
    def started(self, node: Node, how: str) -> tuple[Workload, Path, ProcessIdentity]:
        """The job with its working directory, and the process that has left its tree."""
        lease = node.lease(grace=0.2)
        node.bed.backend.start(work := node.bed.work(sys.executable, "-c", ESCAPE, how, leases=(lease,), grace=0.2))
        node.bed.running(work)
        place = node.bed.run_directory(work) / "work"
        node.bed.until((place / "escaped").exists)
        escaped = processes.read(int((place / "escaped").read_text()))
        assert escaped is not None
        return work, place, ProcessIdentity(escaped.pid, escaped.start)

    @needs_cgroups
    def test_a_job_is_in_its_cgroup_from_its_first_instruction(self, node: Node) -> None:
        work, _ = node.bed.run("grep", "-h", "^0::", "/proc/self/cgroup", leases=(node.lease(),))
        home = node.ledger.home.stat()
        expected = f"/chronos-{home.st_dev:x}-{home.st_ino:x}-lease-1/"
        assert expected.encode() in node.bed.log(work)

    @needs_cgroups
    def test_what_left_the_tree_of_a_killed_supervisor_ends_with_its_run(self, node: Node) -> None:
        work, place, escaped = self.started(node, "SIGKILL")
        (place / "go").touch()
        assert node.bed.finish(work).reason == "Lost"
        assert not processes.is_alive(escaped)

    @needs_cgroups
    def test_and_with_its_lease_where_no_daemon_is_there(self, node: Node) -> None:
        work, place, escaped = self.started(node, "SIGKILL")
        supervisor = node.bed.supervisor(work)
        node.bed.backend.close()
        (place / "go").touch()
        node.bed.until(lambda: not Path(f"/proc/{supervisor}/cwd").exists())
        node.expire()
        node.bed.until(lambda: node.stepping(node.state() is LeaseState.ENDED))
        assert not processes.is_alive(escaped)
        node.bed.reopen()
        assert node.bed.finish(work).reason == "LeaseExpired"

    def test_a_job_that_has_stopped_its_supervisor_is_stopped_all_the_same(self, node: Node) -> None:
        work, place, escaped = self.started(node, "SIGSTOP")
        supervisor = processes.read(node.bed.supervisor(work))
        assert supervisor is not None
        (place / "go").touch()
        node.bed.until(lambda: processes.is_stopped(ProcessIdentity(supervisor.pid, supervisor.start)))
        node.bed.backend.stop(work.name, 0.2)
        end = node.bed.finish(work)
        assert (end.reason, end.exit_code) == ("Stopped", 143)
        assert not processes.is_alive(escaped)

    def test_a_supervisor_that_stays_stopped_is_killed_and_the_run_recorded(self, node: Node) -> None:
        """The job stops it again and again, say."""
        work, place, _ = self.started(node, "SIGSTOP")
        supervisor = processes.read(node.bed.supervisor(work))
        assert supervisor is not None
        (place / "go").touch()
        node.bed.until(lambda: processes.is_stopped(ProcessIdentity(supervisor.pid, supervisor.start)))
        node.bed.found(work).request_stop(0.2, node.bed.clock)
        assert not node.bed.seen(work).state.finished
        node.bed.clock.passed = 60.0
        assert not node.bed.seen(work).state.finished
        node.bed.clock.passed = 0.0
        end = node.bed.finish(work)
        assert (end.reason, end.message.partition(";")[0]) == ("Stopped", "stopped")
        node.bed.backend.purge(work.job_uid)
