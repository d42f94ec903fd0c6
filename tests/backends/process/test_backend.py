"""The backend as a whole: many runs, several daemons, what it tells and when, damage and repair."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from cumulus.backends.base import WorkloadState
from cumulus.backends.process import layout, supervisor
from cumulus.backends.process.backend import TOMBSTONE_SECONDS, ProcessBackend
from cumulus.backends.rundir.layout import PURGED
from cumulus.errors import BackendError, BackendRefused
from cumulus.lib.delete_tree import delete_tree
from cumulus.lib.inotify import Inotify
from tests.backends.process_bed import ProcessBed, job_processes
from tests.waiting import PATIENCE


def test_a_change_is_told(bed: ProcessBed) -> None:
    told = threading.Event()
    work = bed.work("sh", "-c", "mkfifo go; : > ready; read line < go")
    bed.backend.start(work)
    bed.running(work)
    bed.backend.subscribe(lambda *_: told.set())
    told.clear()
    (bed.run_directory(work) / "work" / "go").write_text("on\n")
    while True:
        assert told.wait(PATIENCE)
        told.clear()
        if bed.seen(work).state.finished:
            break


def test_a_hundred_at_once_are_each_accounted_for(bed: ProcessBed, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ended: Counter[str] = Counter()
    script = f"echo $CUMULUS_JOB >> {tmp_path}/ran; exit $((${{CUMULUS_JOB#job}} % 3))"
    works = [bed.work("sh", "-c", script, job=f"job{n}") for n in range(100)]
    bed.backend.subscribe(lambda _, job: ended.update([job]))
    for work in works:
        bed.backend.start(work)
    bed.until(lambda: all(o.state.finished for o in bed.backend.list()))
    seen = {o.job: o.exit_code for o in bed.backend.list()}
    assert seen == {f"job{n}": n % 3 for n in range(100)}
    assert Counter((tmp_path / "ran").read_text().split()) == Counter(seen.keys())
    assert set(ended) == set(seen)
    bed.until(lambda: not job_processes(bed.root / "jobs"))
    assert len(os.listdir("/proc/self/fd")) < before + 50, "descriptors leak"


def test_jobs_outlive_the_daemon_that_started_them(bed: ProcessBed, tmp_path: Path) -> None:
    """The daemon and its whole process group are killed while the job runs and one waits to be stopped."""
    daemon = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from tests.backends.process_bed import ProcessBed\n"
        "bed = ProcessBed(Path(sys.argv[1])); bed.backend.subscribe(lambda *_: None)\n"
        "bed.backend.start(bed.work('sh', '-c', 'mkfifo go; read line < go; echo $line; exit 5', job='going'))\n"
        "bed.backend.start(work := bed.work('sh', '-c', 'trap \"\" TERM; : > ready; sleep 60', job='ending'))\n"
        "bed.running(work); bed.backend.stop(work.name, 1.0); print('up', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", daemon, str(tmp_path), str(Path(__file__).parents[3])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    going, ending = bed.work(job="going"), bed.work(job="ending")
    # Nothing is looked at until both have ended: only their supervisors can have done it.
    bed.until(lambda: (bed.run_directory(ending) / layout.EXIT).exists())
    (bed.run_directory(going) / "work" / "go").write_text("went on\n")
    bed.until(lambda: (bed.run_directory(going) / layout.EXIT).exists())
    assert (bed.seen(ending).reason, bed.seen(ending).exit_code) == ("Stopped", 137)
    assert (bed.seen(going).exit_code, bed.log(going)) == (5, b"went on\n")


def test_list_reads_ended_runs_once(bed: ProcessBed, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        bed.run("true", job=f"job{n}")
    bed.reopen()
    assert len(bed.backend.list()) == 3
    monkeypatch.setattr("cumulus.backends.process.run.read_document", lambda path: pytest.fail(f"read {path} again"))
    assert len(bed.backend.list()) == 3


def test_what_another_daemon_removed_is_gone_here_too(bed: ProcessBed) -> None:
    work, _ = bed.run("true")
    other = bed.open()
    other.remove(work.name)
    assert bed.backend.get(work.name) is None
    assert list(bed.backend.list()) == []
    other.purge(work.job_uid)
    with pytest.raises(BackendError):
        bed.log(work)
    other.close()


def test_one_workload_of_another_daemon_is_watched_to_its_end(bed: ProcessBed) -> None:
    heard: list[str] = []
    bed.backend.subscribe(lambda _, job: heard.append(job))
    other = bed.open()
    other.start(work := bed.work("true"))
    bed.until(lambda: heard and bed.seen(work).state.finished)
    other.close()


def test_the_same_attempt_under_another_name_is_refused(bed: ProcessBed) -> None:
    work, _ = bed.run("true")
    with pytest.raises(BackendRefused, match=f"already runs as {re.escape(work.name)}"):
        bed.backend.start(bed.work("true", name="another"))


def test_a_damaged_run_does_not_hide_the_others(bed: ProcessBed) -> None:
    broken, _ = bed.run("true", job="broken")
    whole, _ = bed.run("true", job="whole")
    (bed.run_directory(broken) / layout.EXIT).write_bytes(b"{")
    bed.reopen()
    assert [o.name for o in bed.backend.list()] == [whole.name]
    with pytest.raises(BackendError, match="damaged"):
        bed.backend.get(broken.name)


def test_files_are_private(bed: ProcessBed) -> None:
    work, _ = bed.run("true")
    directory = bed.run_directory(work)
    assert bed.root.stat().st_mode & 0o777 == 0o700
    for name in (layout.SPEC, layout.EXIT, layout.STARTED, layout.LOCK):
        assert (directory / name).stat().st_mode & 0o777 == 0o600, name


def test_an_unusable_root_is_told_in_one_line(tmp_path: Path, bed: ProcessBed) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BackendError, match="could not prepare its directory: Not a directory"):
        ProcessBackend(tmp_path / "file" / "process", "n", bed.job_secrets)


def test_purge_that_was_cut_short_is_finished_by_the_next(bed: ProcessBed, monkeypatch: pytest.MonkeyPatch) -> None:
    work, _ = bed.run("true")

    def cut(directory: str) -> None:
        (Path(directory) / "a1-r0" / layout.EXIT).unlink()
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", cut)
        with pytest.raises(BackendError):
            bed.backend.purge(work.job_uid)
    bed.reopen()
    assert bed.backend.get(work.name) is None
    bed.backend.purge(work.job_uid)
    assert not bed.run_directory(work).parent.exists()
    assert list((bed.root / layout.TRASH).iterdir()) == []
    bed.backend.start(work)
    assert bed.backend.get(work.name) is None


def test_files_that_cannot_be_deleted_keep_no_other_job(bed: ProcessBed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job can make a file immutable, or mount something in its directory."""
    kept, _ = bed.run("true")
    other, _ = bed.run("true", job="other")
    delete = shutil.rmtree

    def refused(directory: str) -> None:
        if os.path.basename(directory) == kept.job_uid:
            raise PermissionError(errno.EPERM, "Operation not permitted", directory)
        delete(directory)

    monkeypatch.setattr("shutil.rmtree", refused)
    with pytest.raises(BackendError, match="Operation not permitted"):
        bed.backend.purge(kept.job_uid)
    bed.backend.purge(other.job_uid)
    assert not bed.run_directory(other).exists()
    # Out of the way it is, and more cannot be done.
    bed.backend.purge(kept.job_uid)
    assert bed.backend.get(kept.name) is None
    assert [path.name for path in (bed.root / layout.TRASH).iterdir()] == [kept.job_uid]


def test_a_job_that_makes_its_directory_a_link_deletes_nothing_behind_it(bed: ProcessBed, tmp_path: Path) -> None:
    (victim := tmp_path / "victim").mkdir()
    (victim / "file").write_text("kept")
    work, _ = bed.run("true")
    job = bed.run_directory(work).parent
    bed.until(lambda: not bed.found(work).supervisor())
    job.rename(tmp_path / "moved")
    job.symlink_to(victim)
    bed.backend.purge(work.job_uid)
    assert not job.is_symlink()
    assert (victim / "file").read_text() == "kept"
    assert list((bed.root / layout.TRASH).iterdir()) == []


def test_what_a_job_puts_beside_its_run_keeps_it_from_nothing(bed: ProcessBed) -> None:
    script = """
        cd ../..; echo x > file; mkdir a7-r0 a8-r0 a9-r0
        mkfifo a7-r0/spec.json; ln -s /dev/zero a8-r0/spec.json; echo '{"x": 1}' > a9-r0/spec.json
    """
    work, end = bed.run("sh", "-c", script)
    assert end.exit_code == 0
    bed.backend.purge(work.job_uid)
    assert not bed.run_directory(work).parent.exists()


@pytest.mark.parametrize("make", ["mkfifo", "ln -s /dev/zero", "echo x >", "echo {} >"])
def test_a_job_that_replaces_a_record_of_its_run_stops_no_backend(bed: ProcessBed, make: str) -> None:
    """A pipe that nobody writes to would be waited for, and no other job looked after."""
    work = bed.work("sh", "-c", f"{make} ../exit.json; : > ready; exec sleep 1000")
    bed.backend.start(work)
    bed.until(lambda: (bed.run_directory(work) / "work" / "ready").exists())
    assert bed.seen(work).state is WorkloadState.RUNNING
    bed.backend.stop(work.name, 0)
    assert bed.finish(work).state is WorkloadState.FAILED


def test_a_supervisor_that_comes_while_its_run_is_deleted_runs_nothing(bed: ProcessBed, tmp_path: Path) -> None:
    """It has entered the directory before; what marks the run as ended is deleted before what says what to run."""
    work, _ = bed.run("sh", "-c", f"echo ran >> {tmp_path}/ran")
    directory = str(bed.run_directory(work))
    bed.until(lambda: not bed.found(work).supervisor())
    delete = shutil.rmtree

    def halfway(path: str) -> None:
        run = Path(path) / "a1-r0"
        (run / layout.EXIT).unlink()
        (run / layout.STARTED).unlink()
        late = os.fork()
        if late == 0:
            with contextlib.suppress(BaseException):
                supervisor.main([str(run)])
            os._exit(0)
        os.waitpid(late, 0)
        delete(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("shutil.rmtree", halfway)
        bed.backend.purge(work.job_uid)
    assert not Path(directory).exists()
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_run_whose_supervisor_still_ends_is_not_purged(bed: ProcessBed) -> None:
    work, _ = bed.run("true")
    run = bed.found(work)
    bed.until(lambda: not run.supervisor())
    holder = os.fork()
    if holder == 0:
        with contextlib.suppress(BaseException), open(Path(run.directory) / layout.LOCK, "r+b") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX, 2)
            signal.pause()
        os._exit(0)
    try:
        bed.until(run.supervisor)
        with pytest.raises(BackendError, match="has not ended yet"):
            bed.backend.purge(work.job_uid)
        assert bed.run_directory(work).exists()
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    bed.backend.purge(work.job_uid)
    assert not bed.run_directory(work).exists()


def test_tombstones_are_dropped_in_time(bed: ProcessBed) -> None:
    for n in range(2):
        work, _ = bed.run("true", job=f"job{n}")
        bed.backend.purge(work.job_uid)
        path = bed.root / PURGED / work.job_uid
        assert path.exists()
        os.utime(path, (0, time.time() - TOMBSTONE_SECONDS - 1))
        bed.reopen()
    assert not (bed.root / PURGED / "uid-job0").exists()


def test_a_subscriber_that_fails_does_not_end_the_watch(bed: ProcessBed) -> None:
    heard: list[str] = []

    def fail(namespace: str, job: str) -> None:
        raise RuntimeError("a bug in a subscriber")

    bed.backend.subscribe(fail)
    bed.backend.subscribe(lambda _, job: heard.append(job))
    for n in range(2):
        bed.run("true", job=f"job{n}")
    bed.until(lambda: {"job0", "job1"} <= set(heard))


def test_without_inotify_the_end_is_still_told(bed: ProcessBed, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: Inotify, directory: str) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Inotify, "__init__", none_left)
    heard: list[str] = []
    bed.backend.subscribe(lambda _, job: heard.append(job))
    bed.run("true")
    bed.until(lambda: heard)


def test_the_supervisor_is_small(bed: ProcessBed) -> None:
    bed.backend.start(work := bed.work("sh", "-c", ": > ready; sleep 60"))
    bed.running(work)
    status = Path(f"/proc/{bed.supervisor(work)}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert kib < 18 * 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_purge_deletes_what_its_owner_may_not_enter() -> None:
    """As another user than root, who may enter everything."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with tempfile.TemporaryDirectory() as name:
                (job := Path(name) / "job" / "a" / "b").mkdir(parents=True)
                (job / "file").write_text("x")
                for path in (Path(name), *Path(name).rglob("*")):
                    os.chown(path, 65534, 65534)
                job.chmod(0)
                job.parent.chmod(0o500)
                os.seteuid(65534)
                delete_tree(str(Path(name) / "job"))
                status = int((Path(name) / "job").exists())
                os.seteuid(0)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_supervisor_loads_no_more_than_it_needs() -> None:
    """Each running job holds its supervisor's memory."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import cumulus.backends.process.supervisor; print(*sys.modules)"
    )
    root = str(Path(__file__).parents[3])
    loaded = subprocess.check_output([sys.executable, "-I", "-S", "-c", script, root], text=True).split()
    assert "cumulus.backends.process.command" in loaded
    assert {"dataclasses", "sqlite3", "subprocess", "logging", "asyncio", "cumulus.chronos.ledger"} & {*loaded} == set()
