"""Jobs of a root daemon as their submitters: what they are, and what they can't do to each other, to their supervisors
and to root."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cumulus.answers.checkpoints import CheckpointBytes, CheckpointFile, CheckpointManifest
from cumulus.backends.base import Checkpointing, EnvVar, GangMember, LeaseRef, Workload, WorkloadMount, WorkloadState
from cumulus.backends.exit_codes import SAVED
from cumulus.backends.process import backend, layout
from cumulus.chronos.contract import Device, LeaseRequest
from cumulus.chronos.enforce import account
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor import Monitor
from cumulus.errors import BackendError, BackendRefused
from cumulus.infrastructure.checkpoints import reader
from cumulus.lib import cgroup
from cumulus.lib.unix_user import UnixUser
from tests.backends.process.test_spawner import spare
from tests.backends.process_bed import NODE, ProcessBed
from tests.backends.seams import save
from tests.chronos.conftest import remove_cgroups
from tests.unix_users import User, open_directory

pytestmark = pytest.mark.users

CPU = Device(0, "cpu", "The CPU", "PoCL", "cpu", 1 << 30, platform_index=0, device_index=0)
PYTHON = "/usr/bin/python3"
WHO = """
import json, os, resource
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "ids": [os.getresuid(), os.getresgid(), sorted(os.getgroups())], "env": dict(os.environ), "cwd": os.getcwd(),
    "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")],
    "files": [n for n in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + n)],
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0], "umask": os.umask(0),
}))
open("made", "w").close()
"""
ATTACKS = """
import ctypes, os, signal, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
def refused(what, attempt):
    try:
        attempt()
    except OSError:
        return
    print("DONE:", what)
for target in map(int, sys.argv[1].split(",")):
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGUSR1, 0):
        refused(f"signal {number}", lambda: os.kill(target, number))
    for name in ("environ", "mem", "maps", "auxv", "io", "stack", "task/%d/environ" % target):
        refused(name, lambda: open(f"/proc/{target}/{name}", "rb").read(1))
    for name in ("exe", "cwd", "root", "ns/pid"):
        refused(name, lambda: os.readlink(f"/proc/{target}/{name}"))
    refused("fd", lambda: os.listdir(f"/proc/{target}/fd"))
    refused("oom_score_adj", lambda: open(f"/proc/{target}/oom_score_adj", "w").write("1000"))
    for request in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
        if libc.ptrace(request, target, 0, 0) == 0:
            print("DONE: ptrace", request)
for path in sys.argv[2:]:
    refused(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())
    refused(f"write {path}", lambda: os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    refused(f"link {path}", lambda: os.link(path, os.path.expanduser("~/taken")))
    refused(f"connect {path}", lambda: socket.socket(socket.AF_UNIX).connect(path))
print("tried")
"""


@pytest.fixture
def bed(shared: ProcessBed) -> ProcessBed:
    return shared


def of(user: User, **more: Any) -> dict[str, Any]:
    return {"submitter": user.name, "submitter_uid": user.uid, **more}


def files(bed: ProcessBed, user: User, work: Workload) -> Path:
    return bed.root / "users" / str(user.uid) / work.job_uid


def hold(bed: ProcessBed, user: User, **more: Any) -> Workload:
    """A job of the user's that runs until it is killed."""
    bed.backend.start(work := bed.work("sh", "-c", ": > ready; exec sleep 60", **of(user, **more)))
    ready = files(bed, user, work) / f"a{work.attempt}-r0" / "work" / "ready"
    bed.until(ready.exists)
    return work


def program(bed: ProcessBed, work: Workload) -> int:
    pid = bed.supervisor(work)
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


class TestWho:
    @pytest.mark.parametrize("waited", [False, True])
    def test_a_program_is_its_submitter(self, bed: ProcessBed, users: tuple[User, User], waited: bool) -> None:
        """Also where what becomes it was there before, as root."""
        user = users[0]
        if waited:
            bed.run("true", job="before", **of(users[1]))
            spare(bed)
        work, seen = bed.run(PYTHON, "-c", WHO, **of(user))
        assert (seen.state, seen.message) == (WorkloadState.SUCCEEDED, "")
        told = json.loads(bed.log(work))
        assert told["ids"] == [[user.uid] * 3, [user.gid] * 3, [user.gid]]
        assert told["capabilities"] == [0, 0, 0, 0]
        assert sorted(told["files"]) == ["0", "1", "2"]
        assert (told["core"], told["umask"]) == (0, 0o022)
        known = UnixUser.find(user.uid)
        assert told["env"] | known.variables == told["env"]
        assert told["env"]["HOME"] == str(user.home)
        assert "sbin" not in told["env"]["PATH"]
        place = files(bed, user, work)
        assert told["cwd"] == str(place / "a1-r0" / "work")
        for path in (place, place / "a1-r0" / "work" / "made"):
            assert (path.stat().st_uid, path.stat().st_gid) == (user.uid, user.gid)
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700

    def test_its_supervisor_and_its_records_are_roots(self, bed: ProcessBed, users: tuple[User, User]) -> None:
        user = users[0]
        work = hold(bed, user)
        assert os.stat(f"/proc/{bed.supervisor(work)}").st_uid == 0
        assert os.stat(f"/proc/{program(bed, work)}").st_uid == user.uid
        for path in bed.run_directory(work).iterdir():
            assert path.stat().st_uid == 0
        assert user.sh('ls "$1"', str(bed.run_directory(work))).returncode != 0
        bed.backend.stop(work.name, 1.0)
        assert bed.finish(work).reason == "Stopped"

    def test_groups_and_login_settings_are_the_systems(self, tmp_path: Path, users: tuple[User, User]) -> None:
        (tmp_path / "defs").write_text("# UMASK 000\nENV_PATH\tPATH=/opt/bin:/bin\nUMASK 077\n")
        known = UnixUser.find(users[0].uid, str(tmp_path / "defs"))
        assert (known.path, known.umask, known.groups) == ("/opt/bin:/bin", 0o077, (users[0].gid,))
        assert UnixUser.find(users[0].uid, str(tmp_path / "none")).path == "/usr/local/bin:/usr/bin:/bin"
        assert UnixUser.read(json.loads(json.dumps(known))) == known

    def test_a_submitter_who_is_nobody_here_is_refused(self, bed: ProcessBed) -> None:
        with pytest.raises(BackendRefused, match="no user with the number 4000000000"):
            bed.backend.start(bed.work("true", submitter="ghost", submitter_uid=4_000_000_000))
        with pytest.raises(BackendRefused, match="is no Unix user"):
            bed.backend.start(bed.work("true", submitter="token-user"))

    def test_a_directory_that_the_user_may_not_enter_is_told_as_that(
        self, bed: ProcessBed, users: tuple[User, User]
    ) -> None:
        theirs = users[1].home
        _, seen = bed.run("true", working_dir=f"{theirs}/project", **of(users[0]))
        assert seen.message == f"working directory {theirs}/project: Permission denied: {theirs}/project"

    def test_roots_own_jobs_stay_as_they_are(self, bed: ProcessBed) -> None:
        for name, uid in (("root", 0), ("", None)):
            work, _ = bed.run("sh", "-c", "id -u; pwd", job=f"of-{name or 'nobody'}", submitter=name, submitter_uid=uid)
            assert bed.log(work).decode().split() == ["0", str(bed.run_directory(work) / "work")]

    def test_a_gangs_file_of_hosts_is_the_users_and_leads_nowhere_else(
        self, bed: ProcessBed, users: tuple[User, User]
    ) -> None:
        user = users[0]
        more = of(user, job="gang", gang=(GangMember(NODE),) * 2, replicas=2)
        kept = bed.directory / "kept-of-root"
        kept.write_text("kept")
        script = f'cat "$CUMULUS_HOSTFILE"; mkdir ../../a2-r0; ln -s {kept} ../../a2-r0/hostfile'
        work, _ = bed.run("sh", "-c", script, **more)
        assert bed.log(work) == b"127.0.0.1 slots=2\n"
        assert (files(bed, user, work) / "a1-r0" / "hostfile").stat().st_uid == user.uid
        _, again = bed.run("true", attempt=2, **more)
        assert (again.state, again.reason) == (WorkloadState.FAILED, "StartError")
        assert kept.read_text() == "kept"


class TestAttacks:
    def test_neither_the_supervisor_nor_another_users_job_is_within_reach(
        self, bed: ProcessBed, users: tuple[User, User]
    ) -> None:
        one, other = users
        bed.secrets.set("mine", "key", "hush-hush")
        theirs = hold(bed, other, job="theirs", env=(EnvVar("PASSWORD", secret="mine", key="key"),))
        place = files(bed, other, theirs)
        (place / "a1-r0" / "work" / "private").write_text("private")
        paths = [
            place, place / "a1-r0" / "work" / "private", place.parent, bed.run_directory(theirs),
            *bed.run_directory(theirs).iterdir(), bed.root, bed.root / "jobs", bed.root / "users", bed.secrets.root,
            f"{bed.secrets.root}/mine/key",
        ]  # fmt: skip
        targets = f"{bed.supervisor(theirs)},{program(bed, theirs)}"
        work, _ = bed.run(PYTHON, "-c", ATTACKS, targets, *map(str, paths), job="attack", **of(one))
        assert bed.log(work).decode() == "tried\n"
        # Its own supervisor too.
        work, _ = bed.run("sh", "-c", f'exec {PYTHON} -c "$0" $PPID', ATTACKS, job="own", **of(one))
        assert bed.log(work).decode() == "tried\n"
        assert not bed.seen(theirs).state.finished
        bed.backend.stop(theirs.name, 0.0)

    def test_a_link_in_the_place_of_a_directory_leads_root_nowhere(
        self, bed: ProcessBed, users: tuple[User, User]
    ) -> None:
        """Before the next attempt, and before the purge, the user puts links where the daemon makes and deletes."""
        user = users[0]
        victim = bed.directory / "victim"
        victim.mkdir(mode=0o755)
        (victim / "a1-r0").mkdir()
        (victim / "kept").write_text("kept")
        work, _ = bed.run("sh", "-c", f"cd ../..; ln -s {victim} a2-r0; ln -s {victim} checkpoint", **of(user))
        again, seen = bed.run("true", attempt=2, checkpoint_path="deep/model.pt", **of(user))
        assert seen.reason == "StartError"
        assert "Permission denied" in seen.message
        assert sorted(os.listdir(victim)) == ["a1-r0", "kept"]
        # The whole directory of the job as a link.
        place = files(bed, user, work)
        assert user.sh(f"cd {place.parent} && mv {place.name} aside && ln -s {victim} {place.name}").returncode == 0
        for run in (work, again):
            bed.backend.remove(run.name)
        bed.backend.purge(work.job_uid)
        assert sorted(os.listdir(victim)) == ["a1-r0", "kept"]
        assert not os.path.lexists(place)
        assert not bed.run_directory(work).exists()

    def test_links_in_a_directory_that_is_deleted(self, bed: ProcessBed, users: tuple[User, User]) -> None:
        user = users[0]
        victim = bed.directory / "victim"
        victim.mkdir()
        (victim / "kept").write_text("kept")
        script = f"ln -s {victim} in; ln -s {victim}/kept file; mkdir -p shut/deep; chmod 000 shut/deep shut"
        work, _ = bed.run("sh", "-c", script, **of(user))
        bed.backend.remove(work.name)
        bed.backend.purge(work.job_uid)
        assert (victim / "kept").read_text() == "kept"
        assert stat.S_IMODE(victim.stat().st_mode) == 0o755
        assert os.listdir(files(bed, user, work).parent) == []

    def test_what_root_alone_can_reach_is_no_directory_of_theirs(
        self, bed: ProcessBed, users: tuple[User, User]
    ) -> None:
        shut = bed.directory / "shut"
        (shut / "in").mkdir(parents=True, mode=0o700)
        shut.chmod(0o700)
        for job, said, more in (
            ("directory", "Permission denied", {"working_dir": str(shut / "in")}),
            ("mount", "is not on this node", {"mounts": (WorkloadMount(str(shut / "in"), "data"),)}),
        ):
            _, seen = bed.run("ls", job=job, **of(users[0], **more))
            assert (seen.state, seen.reason) == (WorkloadState.FAILED, "StartError")
            assert said in seen.message

    def test_a_checkpoint_is_looked_at_as_the_user(self, bed: ProcessBed, users: tuple[User, User]) -> None:
        shut = bed.directory / "shut"
        shut.mkdir(mode=0o700)
        (shut / "model").write_text("")
        own = users[0].home / "model"
        for job, path, seen in (("other", shut / "model", ""), ("own", own, "20")):
            script = f"touch {path}; exit {SAVED}"
            _, end = bed.run("sh", "-c", script, job=job, checkpoint_path=str(path), **of(users[0]))
            assert end.checkpoint_at is not None
            assert end.checkpoint_at[:2] == seen

    def test_a_checkpoint_is_asked_for_and_read_as_the_user(self, bed: ProcessBed, users: tuple[User, User]) -> None:
        """The place of its files is the user's: a link there leads the node to nothing that the user may not have."""
        victim = bed.directory / "victim"
        victim.write_text("root's")
        victim.chmod(0o600)
        script = (
            'cd ..; ln -s VICTIM checkpoint-request; mkdir -p "$CUMULUS_CHECKPOINT_PATH/step-000000000001"; '
            'ln -s VICTIM "$CUMULUS_CHECKPOINT_PATH/step-000000000001/manifest.json"; : > work/ready; '
            "while ! grep -qs Suspended checkpoint-request; do sleep 0.05; done; stat -c %u checkpoint-request; exit 75"
        )
        asked = Checkpointing(keep=2)
        work = bed.work(
            "sh", "-c", script.replace("VICTIM", str(victim)), grace=20.0,
            **of(users[0], checkpoint_path="saved", checkpointing=asked),
        )  # fmt: skip
        # The signal would end it, or what it has just started, before it has looked.
        work = replace(work, command=("sh", "-c", f"trap '' TERM; {work.command[2]}"))
        bed.backend.start(work)
        bed.until((files(bed, users[0], work) / "a1-r0" / "work" / "ready").exists)
        bed.backend.stop(work.name, 20.0, "Suspended")
        end = bed.finish(work)
        assert (end.exit_code, end.checkpoint) == (75, None)
        assert victim.read_text() == "root's"
        assert bed.log(work).split()[-1] == str(users[0].uid).encode()

    def test_what_is_told_of_a_jobs_checkpoints_is_read_as_the_user(
        self, bed: ProcessBed, users: tuple[User, User]
    ) -> None:
        work, _ = bed.run("true", **of(users[0], checkpoint_path="saved", checkpointing=Checkpointing(keep=2)))
        place = files(bed, users[0], work) / "checkpoint" / "saved"
        save(place, 4, content=b"abc")
        for path in (place, *place.rglob("*")):
            os.chown(path, users[0].uid, users[0].gid)
        job = {"metadata": {"name": "job", "uid": work.job_uid}, "spec": {}}
        checkpoints = reader(bed.directory, job, lambda name: None)
        assert [(each.step, each.problem) for each in checkpoints.list()] == [(4, "")]
        assert [each.problem for each in checkpoints.verify(None)] == [""]
        head, file, content = checkpoints.send(4)
        assert (file, content) == (CheckpointFile("weights", 3), CheckpointBytes(b"abc"))
        assert isinstance(head, CheckpointManifest)
        # What root keeps where nobody else looks is not read for a user who has put a link there.
        kept = bed.directory / "kept"
        kept.mkdir(mode=0o700)
        save(kept, 9, content=b"root's")
        place.rename(place.with_name("before"))
        place.symlink_to(kept)
        with pytest.raises(BackendError):
            checkpoints.list()
        with pytest.raises(BackendError):
            list(checkpoints.send(9))

    def test_a_setuid_program_ends_with_its_job(self, bed: ProcessBed, users: tuple[User, User]) -> None:
        """Jobs are not held to no_new_privs: what has become root is ended all the same."""
        shell = bed.directory / "root-sleep"
        shell.write_bytes(Path("/usr/bin/sleep").read_bytes())
        shell.chmod(0o4755)
        bed.backend.start(work := bed.work("sh", "-c", f": > ready; exec {shell} 60", **of(users[0])))
        bed.until((files(bed, users[0], work) / "a1-r0" / "work" / "ready").exists)
        bed.backend.stop(work.name, 0.2)
        assert bed.finish(work).reason == "Stopped"


class TestPurge:
    def test_their_files_are_deleted_also_after_a_crash(self, bed: ProcessBed, users: tuple[User, User]) -> None:
        work, _ = bed.run("touch", "made", **of(users[0], checkpoint_path="c/model"))
        bed.backend.remove(work.name)
        place = files(bed, users[0], work)
        assert (place / "checkpoint" / "c").is_dir()
        # As one that was killed right after it had moved the directory away.
        (bed.root / "jobs" / work.job_uid).rename(bed.root / layout.TRASH / work.job_uid)
        bed.reopen()
        bed.backend.purge("another")
        assert not place.exists()
        assert os.listdir(bed.root / layout.TRASH) == []

    def test_a_checkpoint_that_came_ahead_goes_with_the_job_though_that_never_ran_here(
        self, bed: ProcessBed, users: tuple[User, User]
    ) -> None:
        user = users[0]
        work = bed.work("true", checkpoint_path="saved", checkpointing=Checkpointing(), **of(user))
        place, whose = bed.backend.make_place(work)
        assert whose is not None
        assert (whose.uid, Path(place).is_relative_to(files(bed, user, work))) == (user.uid, True)
        Path(place).mkdir(parents=True)
        for path in (Path(place), *list(Path(place).parents)[:2]):
            os.chown(path, user.uid, user.gid)
        bed.backend.purge(work.job_uid)
        assert not files(bed, user, work).exists()
        with pytest.raises(BackendRefused, match="deleted"):
            bed.backend.make_place(work)

    def test_files_that_are_not_deleted_in_time_are_waited_for_once(
        self, bed: ProcessBed, users: tuple[User, User], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user can stop what deletes as them, or keep their files in a file system that does not answer."""
        waited: list[str] = []

        def never(user: UnixUser, directory: str) -> None:
            waited.append(directory)
            raise TimeoutError(0, "deleting takes longer than 10 s", directory)

        monkeypatch.setattr(backend, "delete_tree_as", never)
        for job in ("one", "two", "three"):
            work, _ = bed.run("true", job=job, **of(users[0]))
            bed.backend.remove(work.name)
            with pytest.raises(BackendError):
                bed.backend.purge(work.job_uid)
        assert len(waited) == 1
        monkeypatch.undo()
        bed.clock.passed += 7200
        bed.backend.purge("another")
        assert os.listdir(bed.root / layout.TRASH) == []
        assert os.listdir(bed.root / layout.USERS / str(users[0].uid)) == []


class TestLease:
    @pytest.fixture
    def node(self, users: object) -> Iterator[tuple[ProcessBed, Ledger, Monitor]]:
        with open_directory() as directory:
            ledger = Ledger(directory / "chronos", discover=lambda: [CPU], start_monitor=False)
            bed = ProcessBed(directory, directory / "chronos")
            try:
                yield bed, ledger, Monitor(ledger)
            finally:
                bed.close()
                remove_cgroups(ledger.home)
                ledger.close()

    def test_it_ends_their_programs_in_a_cgroup_they_can_not_leave(
        self, node: tuple[ProcessBed, Ledger, Monitor], users: tuple[User, User]
    ) -> None:
        bed, ledger, monitor = node
        lease = ledger.grant(LeaseRequest("lease-1", 0, 1 << 20, 250, 60.0, grace=0.2))
        reference = LeaseRef(
            lease.id, lease.device, lease.device_id, "x", "cpu", 0, 0, lease.memory_bytes, lease.compute, lease.token,
            "", "none",
        )  # fmt: skip
        leave = 'for f in $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs); do echo $$ > "$f"; done 2> /dev/null'
        script = f"{leave}; cat /proc/self/cgroup > ready.new; mv ready.new ready; exec sleep 60"
        bed.backend.start(work := bed.work("sh", "-c", script, leases=(reference,), **of(users[0])))
        ready = files(bed, users[0], work) / "a1-r0" / "work" / "ready"
        bed.until(ready.exists)
        if not cgroup.why_unavailable()[0]:
            assert "chronos-" in ready.read_text()
        for path in ("ledger.db", "ledger.lock", "accounts", "."):
            assert users[0].sh('ls "$1" && cat "$1"', str(ledger.home / path)).returncode != 0
        with ledger.database.write() as tx:
            tx.execute("UPDATE lease SET deadline = ?", (ledger.clock.monotonic(),))
        deadline = time.monotonic() + 20
        while not bed.seen(work).state.finished and time.monotonic() < deadline:
            monitor.step()
        assert bed.seen(work).reason == "LeaseExpired"

    def test_the_account_counts_for_its_user_alone(
        self, node: tuple[ProcessBed, Ledger, Monitor], users: tuple[User, User]
    ) -> None:
        _, ledger, _ = node
        one, other = users
        lease = ledger.grant(LeaseRequest("lease-1", 0, 1 << 20, 250, 60.0))
        place = account.open_account(lease, CPU, ledger.home, user=one.uid)
        assert account.directory(ledger.home, lease.id) == place
        assert one.sh('echo > "$1/usage" && cat "$1/limits" > /dev/null', str(place)).returncode == 0
        for script in ('echo > "$1/limits"', 'mv "$1/limits" "$1/usage"', 'rm "$1/limits"', 'touch "$1/x"'):
            assert one.sh(script, str(place)).returncode != 0
        for script in ('cat "$1/usage"', 'echo > "$1/usage"', 'ls "$1/.."'):
            assert other.sh(script, str(place)).returncode != 0
        # A usage of a terabyte is not read as a whole.
        os.truncate(place / "usage", 2**40)
        assert account.used(lease.id, ledger.home) == {}
        account.close_account(lease.id, ledger.home)
        assert not place.exists()


def test_what_lost_its_supervisor_is_ended_whoever_it_is(bed: ProcessBed, users: tuple[User, User]) -> None:
    script = "trap '' TERM; : > ready; sleep 60"
    bed.backend.start(work := bed.work("sh", "-c", script, **of(users[0], grace=0.2)))
    bed.until((files(bed, users[0], work) / "a1-r0" / "work" / "ready").exists)
    os.kill(bed.supervisor(work), signal.SIGKILL)
    bed.until(lambda: bed.seen(work).state.finished)
    assert bed.seen(work).reason == "Lost"
