"""`Backend` with runtime `process`: each workload is a local process under a supervisor that outlives the daemon.

All state is in files (see `layout`); what is kept in memory is a cache. So several daemons and a command line may
use one root at once, and one that was killed between any two steps is continued by the next. So is one that was
stopped (SIGSTOP) between two steps: no process waits for another. Each step is atomic in the file system, and who made
a run looks once more, after it is linked and before it is started, whether another has removed or purged it meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from cumulus.backends import gang
from cumulus.backends.base import BlobReader, CallResult, Observed, Workload, WorkloadReach
from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.backends.process import layout
from cumulus.backends.process.ports import GangPorts
from cumulus.backends.process.problems import translated
from cumulus.backends.process.reach import ProcessReach
from cumulus.backends.process.run import MAX_SPAWNS, Run, supervisor_environment
from cumulus.backends.process.spawner import Spawner
from cumulus.backends.process.specification import (
    checkpoint_place,
    is_name,
    refuse_impossible,
    specification,
    user_of,
)
from cumulus.backends.process.supervisor_end import SupervisorEnd
from cumulus.backends.process.watch import RunWatcher, signal_process
from cumulus.backends.rundir import calls
from cumulus.backends.rundir.documents import read_document, write_document
from cumulus.backends.rundir.layout import JOBS, PURGED, REMOVED, run_directory
from cumulus.backends.rundir.log import FileLog, retention_of
from cumulus.backends.variables import CHECKPOINT_PATH
from cumulus.clock import Clock, SystemClock
from cumulus.errors import BackendError, BackendRefused
from cumulus.lib.delete_tree import delete_tree, delete_tree_as
from cumulus.lib.files import sync_directory, write_durably
from cumulus.lib.unix_user import UnixUser
from cumulus.runner.build import ensure_runner
from cumulus.secrets import JobSecrets

log = structlog.get_logger("cumulus.backends")

FOLLOW_INTERVAL, FOLLOW_SOON = 0.1, 0.005
"""Seconds between looks for new output while a log is followed: at most, and at first. Many programs are short."""

_SUPERVISOR_PATIENCE, _LOCK_INTERVAL = 2.0, 0.01
"""Seconds for which a purge waits for a supervisor that has written its run's end, and between its looks."""

_SLOW_SECONDS = 1800.0
"""A user whose file system does not answer holds up others once in so long."""

TOMBSTONE_SECONDS = 30 * 86400.0
"""How long the uid of a purged job is remembered. After that a late start is still refused by its ended lease."""


class ProcessBackend:
    """Runs workloads below `root`, which is made where missing. `node` is the only node it starts for.

    `chronos_home` is the ledger that supervisors attach to; None for the ledger's default. `retention` says how
    much stays of the log of each run that is started from now on, `job_env` what every job gets beside its own
    variables. `environment` is the daemon's own: jobs get from it which drivers there are, and supervisors where they
    find Python's libraries and the ledger; who only reads logs needs none. `blobs` are what calls are made of, and
    `spawner` starts supervisors. `reads`: nothing is started, and `root` is there.
    """

    def __init__(
        self,
        root: Path,
        node: str,
        secrets: JobSecrets,
        chronos_home: Path | None = None,
        clock: Clock | None = None,
        *,
        retention: LogRetention = DEFAULT_RETENTION,
        job_env: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        blobs: BlobReader | None = None,
        spawner: Spawner | None = None,
        reads: bool = False,
    ) -> None:
        self._root = os.path.abspath(root)
        self._node = node
        self._secrets = secrets
        self._chronos_home = None if chronos_home is None else os.path.abspath(chronos_home)
        self._clock = clock or SystemClock()
        self._retention = retention
        self._job_env = job_env
        self._environment = {} if environment is None else environment
        self._blobs = blobs
        self._spawner = spawner or Spawner(self._root)
        self._mutex = threading.RLock()
        self._known = threading.Lock()
        self._runs: dict[str, Run] = {}
        """Under `_known`, so that who looks a run up does not wait for the disk of another one's start."""
        self._subscribers: list[Callable[[str, str], None]] = []
        self._watcher: RunWatcher | None = None
        self._next_sweep = 0.0
        self._slow: dict[int, float] = {}
        """Users whose files took too long to delete, and until when nobody waits for theirs."""
        with translated("prepare its directory"):
            if not reads:
                self._make_directories()
            self._ports = GangPorts(self._root)

    def _make_directories(self) -> None:
        for directory in ("", layout.RUNS, JOBS, layout.EVENTS, PURGED, layout.TRASH):
            os.makedirs(os.path.join(self._root, directory), mode=0o700, exist_ok=True)
        # Also where they were there: whoever made them may have been killed before this.
        for directory in (self._root, os.path.dirname(self._root)):
            sync_directory(directory)

    @property
    def runtime(self) -> str:
        return "process"

    def start(self, workload: Workload) -> None:
        """See `Backend.start`. The run is on the disk before anything is started, and started at most once."""
        refuse_impossible(workload, self._node)
        with translated(f"start {workload.name}"), self._mutex:
            if self._purged(workload.job_uid):
                return
            directory = self._path(run_directory(workload.job_uid, workload.attempt, workload.replica))
            if not os.path.exists(directory):
                self._create(workload, directory)
            if os.path.exists(os.path.join(directory, REMOVED)):
                return
            run = self._run(directory)
            if run.spec["name"] != workload.name:
                raise BackendRefused(f"attempt {workload.attempt} of the job already runs as {run.spec['name']}")
            link = self._path(layout.RUNS, workload.name)
            os.close(os.open(self._path(layout.EVENTS, workload.name), os.O_CREAT | os.O_CLOEXEC, 0o600))
            with contextlib.suppress(FileExistsError):
                os.symlink(os.path.relpath(directory, os.path.dirname(link)), link)
                sync_directory(os.path.dirname(link))
            # Another process may have removed or purged it since the looks above: it did not see the link then.
            if self._purged(workload.job_uid):
                self._forget(workload.name)
                self._delete(self._discard(os.path.dirname(directory)))
            elif os.path.exists(os.path.join(directory, REMOVED)):
                self._forget(workload.name)
            else:
                self._ensure_supervised(run)

    def stop(self, name: str, grace: float, reason: str = "") -> None:
        """See `Backend.stop`. The request is a file, so that it holds though this process dies right after."""
        run = self.find(name)
        if run is None or self._observe(run).state.finished:
            return
        with translated(f"stop {name}"), self._mutex:
            run.request_stop(grace, self._clock, reason)
            pid = run.supervisor()
            if pid:
                # The second for one that the job has stopped: it wakes and ends the run as if nothing had been.
                for number in (signal.SIGUSR1, signal.SIGCONT):
                    signal_process(pid, number, lambda: run.supervisor() == pid)
            else:
                self._ensure_supervised(run)

    def remove(self, name: str) -> None:
        """See `Backend.remove`."""
        run = self.find(name)
        if run is None:
            return
        if not self._observe(run).state.finished:
            raise BackendError(f"{name} still runs", hint="stop it first")
        with translated(f"remove {name}"), self._mutex:
            if os.path.isdir(run.directory):
                shutil.rmtree(os.path.join(run.directory, layout.CALL), ignore_errors=True)
                write_durably(os.path.join(run.directory, REMOVED), b"")
            self._forget(name)

    def purge(self, job_uid: str) -> None:
        """See `Backend.purge`. The job's uid is remembered: nothing of it is started any more."""
        with translated(f"purge job {job_uid}"):
            self._sweep()
            trash = self._purge(job_uid)
            if trash is not None:
                self._delete(trash)

    def _purge(self, job_uid: str) -> str | None:
        """Forget the job. What is to be deleted, None where there is nothing."""
        with self._mutex:
            if not self._has(job_uid):
                return None
            # Names without a link were removed, or made by a start that got no further: none of them runs.
            linked = [name for name in self._names_of(job_uid) if self.find(name) is not None]
            if not self._purged(job_uid):
                for name in linked:
                    run = self.find(name)
                    if run is not None and not self._observe(run).state.finished:
                        raise BackendError(f"{name} still runs", hint="stop it first")
                write_durably(self._path(PURGED, job_uid), b"")
            for name in linked:
                self._forget(name)
            self._ports.forget(job_uid)
            return self._discard(self._path(JOBS, job_uid))

    def get(self, name: str) -> Observed | None:
        """See `Backend.get`."""
        run = self.find(name)
        return None if run is None else self._observe(run)

    def list(self, job_uid: str = "") -> Sequence[Observed]:
        """See `Backend.list`. Finished runs are read once a process, so that thousands of them cost little."""
        with translated("list its workloads"):
            names = self._names_of(job_uid) if job_uid else sorted(os.listdir(self._path(layout.RUNS)))
        observed = []
        for name in names:
            # One damaged run must not hide the others; whoever asks for it by name is told.
            with contextlib.suppress(BackendError):
                if (run := self.find(name)) is not None:
                    observed.append(self._observe(run))
        return observed

    def logs(
        self, job_uid: str, attempt: int, replica: int, *,
        follow: bool = False, tail: int | None = None, since: float | None = None, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """See `Backend.logs`. Raises `BackendError` where no such replica was started here."""
        run = self._made(job_uid, attempt, replica, "log")
        kept = FileLog(run.directory, retention_of(run.spec))
        if not follow:
            return kept.read(tail=tail, since=since, timestamps=timestamps, position=position)
        return self._followed(run, kept, tail, since, timestamps, position)

    def _followed(
        self, run: Run, kept: FileLog, tail: int | None, since: float | None, timestamps: bool, position: int | None
    ) -> Iterator[bytes]:
        """It looks for new output now and then. The end of the supervisor, which tells of the run's, is not waited
        for."""
        began = self._clock.monotonic()
        with SupervisorEnd(run) as end:

            def wait() -> None:
                followed = self._clock.monotonic() - began
                end.wait(min(FOLLOW_INTERVAL, max(FOLLOW_SOON, followed / 20)), self._clock)

            yield from kept.follow(
                lambda: run.finished, wait,
                tail=tail, since=since, timestamps=timestamps, position=position,
            )  # fmt: skip

    def result(self, job_uid: str, attempt: int, replica: int) -> CallResult | None:
        """See `Backend.result`. The call has ended, and with it whoever could change what is read here."""
        run = self._made(job_uid, attempt, replica, "result")
        with translated("read what a call left"):
            if not run.finished:
                raise BackendError(f"attempt {attempt} of the job still runs")
        try:
            return calls.read(os.path.join(run.directory, layout.CALL))
        except OSError as error:
            raise BackendError(f"the result of a call cannot be read: {error.strerror}") from error

    def reach(self, job_uid: str, attempt: int, replica: int) -> WorkloadReach:
        """See `Backend.reach`."""
        return ProcessReach(lambda: self._made(job_uid, attempt, replica, "run"))

    def _made(self, job_uid: str, attempt: int, replica: int, what: str) -> Run:
        directory = self._path(run_directory(job_uid, attempt, replica))
        if not os.path.isfile(os.path.join(directory, layout.SPEC)):
            raise BackendError(f"there is no {what} of attempt {attempt}, replica {replica} on node {self._node}")
        return self._run(directory)

    def checkpoint_place(self, job_uid: str) -> tuple[str, UnixUser | None] | None:
        """Where the job keeps its checkpoints, and as whom to look there, where that is not the daemon's own user. None
        where nothing of it was started, or where it keeps none."""
        if not self._has(job_uid):
            return None
        job = self._path(JOBS, job_uid)
        for entry in sorted(os.listdir(job)):
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                spec = read_document(os.path.join(job, entry, layout.SPEC)) or {}
                path = spec["fixed_env"].get(CHECKPOINT_PATH)
                if path:
                    return path, UnixUser.read(spec.get("user"))
        return None

    def own_directory(self, job_uid: str, attempt: int) -> tuple[str, UnixUser | None] | None:
        """The directory that the attempt's first replica has of its own, and as whom to look there, where that is not
        the daemon's own user. None where it was not started here, or has none."""
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            spec = read_document(self._path(run_directory(job_uid, attempt, 0), layout.SPEC)) or {}
            if spec["fresh"]:
                return str(spec["cwd"]), UnixUser.read(spec.get("user"))
        return None

    def make_place(self, workload: Workload) -> tuple[str, UnixUser | None]:
        """Where the workload will find its checkpoints, and whose they are, where that is not the daemon's own user:
        what is above that is made, so that they can be brought there before it starts. What comes there is purged with
        the job, also where it never starts. Raises `BackendRefused` where it was purged."""
        refuse_impossible(workload, self._node)
        user, job = user_of(workload), self._path(JOBS, workload.job_uid)
        with translated("prepare a place for checkpoints"), self._mutex:
            if self._purged(workload.job_uid):
                raise BackendRefused(f"job {workload.job} was deleted")
            os.makedirs(job, 0o700, exist_ok=True)
            if user is not None:
                self._make_place_of(user)
                noted = os.path.join(job, layout.AHEAD)
                if not os.path.exists(noted):
                    write_document(noted, {"user": user})
            return checkpoint_place(workload, self._root, user), user

    def specifications(self, job_uid: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Directory and specification of each of the job's runs here, removed ones too."""
        if not self._has(job_uid):
            return []
        job, found = self._path(JOBS, job_uid), []
        for entry in sorted(os.listdir(job)):
            directory = os.path.join(job, entry)
            with contextlib.suppress(ValueError, OSError):
                if (spec := read_document(os.path.join(directory, layout.SPEC))) is not None:
                    found.append((directory, spec))
        return found

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """See `Backend.subscribe`. A change is told within milliseconds."""
        self._subscribers.append(changed)
        self._watching()
        with contextlib.suppress(OSError):  # The first start tries it again.
            self._spawner.prepare(supervisor_environment(self._environment))
        for observed in self.list():
            if not observed.state.finished:
                changed(observed.namespace, observed.job)

    def find(self, name: str) -> Run | None:
        """The run of a workload that was started and not removed."""
        link = self._path(layout.RUNS, name)
        with translated(f"find {name}"):
            try:
                target = os.readlink(link)
            except FileNotFoundError:
                with self._known:
                    self._runs.pop(name, None)
                return None
        return self._run(os.path.normpath(os.path.join(os.path.dirname(link), target)), name)

    def close(self) -> None:
        """See `Backend.close`."""
        with self._mutex:
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        self._spawner.close()

    def _create(self, workload: Workload, directory: str) -> None:
        """The run's directory with its specification, there as a whole or not at all."""
        user = user_of(workload)
        if user is not None:
            self._make_place_of(user)
        job = os.path.dirname(directory)
        with contextlib.suppress(FileExistsError):
            os.mkdir(job, 0o700)
            sync_directory(os.path.dirname(job))
        spec = specification(
            workload,
            root=self._root,
            secrets_root=os.path.abspath(self._secrets.of(workload.namespace).root),
            chronos_home=self._chronos_home,
            daemon=self._environment,
            node_env=self._job_env,
            retention=self._retention,
            user=user,
            runner=ensure_runner(self._root) if workload.call is not None else "",
            port=self._port(workload),
        )
        # Of this process alone: another may be at the same.
        made = f"{directory}.{os.getpid()}.new"
        shutil.rmtree(made, ignore_errors=True)
        os.mkdir(made, 0o700)
        os.close(os.open(os.path.join(made, layout.LOCK), os.O_CREAT | os.O_CLOEXEC, 0o600))
        if workload.call is not None:
            try:
                calls.make(os.path.join(made, layout.CALL), workload, workload.call, self._blobs)
            except BaseException:
                # It may be large, and may never come again.
                shutil.rmtree(made, ignore_errors=True)
                raise
        write_document(os.path.join(made, layout.SPEC), spec)
        try:
            os.rename(made, directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(made, ignore_errors=True)
        sync_directory(job)

    def _port(self, workload: Workload) -> int:
        """Where its gang meets; 0 where it has none."""
        if not workload.gang:
            return 0
        if not gang.is_local(workload):
            return gang.port(workload)
        return self._ports.of(workload.job_uid, workload.attempt)

    def _make_place_of(self, user: UnixUser) -> None:
        """Where the files of the user's jobs are: they pass through the directories above, and see nothing there."""
        for directory in (self._root, self._path(layout.USERS)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o711)
            os.chmod(directory, 0o711)
        place = layout.files_of(self._root, user.uid)
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o700)
        # Its name is root's to give: no user can have put anything else there.
        os.chown(place, user.uid, user.gid, follow_symlinks=False)

    def _run(self, directory: str, name: str | None = None) -> Run:
        with self._known:
            run = self._runs.get(name) if name else None
            if run is None or run.directory != directory:
                run = Run(directory)
                self._runs[name or run.spec["name"]] = run
            return run

    def _observe(self, run: Run) -> Observed:
        with translated("read the state of a workload"):
            observed = run.observe()
            if not observed.state.finished:
                self._ensure_supervised(run)
            else:
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    run.copy_on(self._clock, self._environment)
            return observed

    def _ensure_supervised(self, run: Run) -> None:
        """Make sure that an unfinished run has a supervisor: one to start it, or one to end what a dead one left."""
        with self._mutex:
            if run.finished:
                return
            name = run.spec["name"]
            pid = run.supervisor()
            if pid and run.is_stuck(self._clock):
                run.kill(pid)
            if pid and self._watching().add(name, pid):
                return
            if self._watching().watches(name):
                return  # Spawned a moment ago and not yet at its lock.
            if run.spawned < MAX_SPAWNS or run.started:
                if run.may_spawn(self._clock):
                    self._watching().take(name, run.spawn(self._clock, self._environment, self._spawner))
            elif run.give_up(self._clock):
                self._tell(run)

    def _watching(self) -> RunWatcher:
        with self._mutex:
            if self._watcher is None:
                self._watcher = RunWatcher(self._path(layout.EVENTS), self._changed)
            return self._watcher

    def _changed(self, name: str | None) -> None:
        """From the watcher's thread."""
        try:
            if name is None:
                for observed in self.list():
                    self._call(observed.namespace, observed.job)
                return
            run = self.find(name)
            if run is not None:
                self._observe(run)
                self._tell(run)
        except (BackendError, OSError, ValueError, KeyError):
            return  # Damaged or removed meanwhile: whoever asks for it next is told.

    def _tell(self, run: Run) -> None:
        observed = run.observe()
        self._call(observed.namespace, observed.job)

    def _call(self, namespace: str, job: str) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(namespace, job)
            except Exception:
                # Its bug must not end the thread that tells the others and reaps supervisors.
                log.exception("a subscriber failed", namespace=namespace, job=job)

    def _purged(self, job_uid: str) -> bool:
        return os.path.exists(self._path(PURGED, job_uid))

    def _has(self, job_uid: str) -> bool:
        return is_name(job_uid) and os.path.isdir(self._path(JOBS, job_uid))

    def _names_of(self, job_uid: str) -> Sequence[str]:
        """The workloads that have a complete directory below the job's."""
        if not self._has(job_uid):
            return []
        job = self._path(JOBS, job_uid)
        names = set()
        for entry in os.listdir(job):
            # What the job made there itself must not keep it from being deleted.
            with contextlib.suppress(ValueError, KeyError):
                spec = read_document(os.path.join(job, entry, layout.SPEC))
                if spec is not None:
                    names.add(str(spec["name"]))
        return sorted(names)

    def _forget(self, name: str) -> None:
        for path in (self._path(layout.RUNS, name), self._path(layout.EVENTS, name)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        sync_directory(self._path(layout.RUNS))
        with self._known:
            self._runs.pop(name, None)

    def _discard(self, job: str) -> str:
        """Move a job's directory to the trash. Harmless where another process is at the same."""
        trash = self._path(layout.TRASH, os.path.basename(job))
        with self._without_supervisors(job), contextlib.suppress(FileNotFoundError):
            os.rename(job, trash)
        return trash

    @contextlib.contextmanager
    def _without_supervisors(self, job: str) -> Iterator[None]:
        """While no supervisor is in a job's directory: one that comes late must not find half a run."""
        deadline = self._clock.monotonic() + _SUPERVISOR_PATIENCE
        with contextlib.ExitStack() as held:
            for entry in os.listdir(job) if os.path.isdir(job) else ():
                run = Run(os.path.join(job, entry))
                while run.exists and not held.enter_context(run.locked()):
                    if self._clock.monotonic() >= deadline:
                        # Its run's end is written: whatever keeps it, the job's signal perhaps, it is not needed.
                        if pid := run.supervisor():
                            run.kill(pid)
                        raise BackendError(f"the supervisor in {run.directory} has not ended yet")
                    self._clock.sleep(_LOCK_INTERVAL)
            yield

    def _delete(self, trash: str) -> None:
        """Delete what was a job's directory. First the files of the user whom it ran as, which it names."""
        for user in self._users_of(trash):
            now = self._clock.monotonic()
            if now < self._slow.get(user.uid, now):
                raise BackendError(f"files of {user.name}'s jobs are slow to delete; they are tried again later")
            try:
                delete_tree_as(user, os.path.join(layout.files_of(self._root, user.uid), os.path.basename(trash)))
            except TimeoutError:
                self._slow[user.uid] = now + _SLOW_SECONDS
                raise
        with self._mutex, self._without_supervisors(trash):
            delete_tree(trash)

    def _users_of(self, job: str) -> set[UnixUser]:
        runs = [os.path.join(job, entry) for entry in os.listdir(job)] if os.path.isdir(job) else []
        users = (*map(layout.user_of, runs), layout.user_ahead(job))
        return {user for user in users if user is not None}

    def _sweep(self) -> None:
        """Finish purges that were cut short, and forget the oldest. What cannot be deleted (immutable, mounted on) is
        in no other job's way."""
        now = self._clock.now().timestamp()
        # The files of another user are waited for: not each time.
        patient = now >= self._next_sweep
        for name in os.listdir(self._path(layout.TRASH)):
            trash = self._path(layout.TRASH, name)
            try:
                if patient or not self._users_of(trash):
                    self._delete(trash)
            except (OSError, BackendError) as error:
                log.warning("files of a deleted job cannot be deleted", path=trash, error=str(error))
        if not patient:
            return
        self._next_sweep = now + 3600
        for entry in os.scandir(self._path(PURGED)):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < now - TOMBSTONE_SECONDS:
                    os.unlink(entry.path)

    def _path(self, *parts: str) -> str:
        return os.path.join(self._root, *parts)
