"""One run as the daemon sees it: its files, its supervisor, and starting one where there is none."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from cumulus.backends.base import Observed, WorkloadState
from cumulus.backends.checkpoints import document_of, read_saved
from cumulus.backends.process import layout
from cumulus.backends.process.spawner import PYTHON, Spawned, Spawner
from cumulus.backends.process.watch import signal_process
from cumulus.backends.rundir.documents import read_document, write_document
from cumulus.chronos.contract import variables
from cumulus.clock import Clock, timestamp
from cumulus.lib import cgroup, locks
from cumulus.resources.reasons import AttemptReason

MAX_SPAWNS = 5
"""A supervisor that ended so often without starting the command will not do better."""

_STUCK = 10.0
"""Seconds after the end of the grace period in which a supervisor that shows no progress is given up."""

_SPAWN_PAUSE = 10.0
"""Seconds between supervisors after that, for a run that must be buried: its end cannot be written now, perhaps."""

UPLOADING = os.path.join(os.path.dirname(os.path.abspath(__file__)), "uploading.py")
_COPY_PAUSE = 60.0
"""Seconds between uploaders of a run that has ended."""
_SUPERVISOR_BYTE, _BACKEND_BYTE = 0, 1
"""Of the lock file. A supervisor holds both; a backend holds the second, which keeps supervisors away without making
the backend look like one."""

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid."""

_ENVIRONMENT = (
    "PATH", "HOME", "LD_LIBRARY_PATH", "XDG_STATE_HOME",
    variables.HOME, variables.OFFER_CPU, variables.MPS_MODE, variables.OPENCL_LAYER,
    variables.CUDA_COUNTER,
)  # fmt: skip
"""What a supervisor gets of the daemon's environment: enough to find Python's libraries and the ledger, and how the
node holds jobs to their leases."""


def supervisor_environment(daemon: Mapping[str, str]) -> dict[str, str]:
    """What each supervisor gets of the daemon's environment; some get more."""
    return {name: daemon[name] for name in _ENVIRONMENT if name in daemon}


class Run:
    """The run in `directory`. Every method may raise OSError, and ValueError where a file is damaged."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.spawned = 0
        self._spawned_at = 0.0
        self._end: Observed | None = None
        self._copied = False
        """There is nothing that an uploader has left."""
        self._next_copy = 0.0

    @cached_property
    def spec(self) -> dict[str, Any]:
        """What it runs; never changes."""
        spec = read_document(self._path(layout.SPEC))
        if spec is None:
            raise FileNotFoundError(2, "the run was purged", self.directory)
        return spec

    def observe(self) -> Observed:
        """Its state by its files."""
        if self._end is None:
            end = self._recorded_end()
            if end is None:
                started = read_document(self._path(layout.STARTED))
                if started is None:
                    return self._observed(WorkloadState.STARTING)
                saved = layout.read_saved(self._path(layout.SAVED))
                return self._observed(WorkloadState.RUNNING, started_at=started["started_at"], checkpoint=saved)
            self._end = end
            self.__dict__.pop("spec", None)  # Not needed any more, and there may be thousands of ended runs.
        return self._end

    def _recorded_end(self) -> Observed | None:
        """What its supervisor recorded at its end. Where the job wrote something else there, its supervisor writes
        over it when it ends, so that the run can be stopped until then."""
        try:
            end = read_document(self._path(layout.EXIT))
            if end is None:
                return None
            saved = read_saved(end.get("checkpoint"))
            return Observed(**{**end, "state": WorkloadState(end["state"]), "checkpoint": saved})
        except (ValueError, KeyError, TypeError):
            if self.supervisor():
                return None
            raise

    @property
    def finished(self) -> bool:
        """Whether it has ended; also where it was purged meanwhile. Who follows a log asks many times a second, so no
        document is read before there is an end."""
        if self._end is None and not os.path.exists(self._path(layout.EXIT)):
            return not os.path.exists(self._path(layout.SPEC))
        try:
            return self.observe().state.finished
        except FileNotFoundError:
            return True

    @property
    def exists(self) -> bool:
        """Whether the directory is a run's and not, say, the job's checkpoint."""
        return os.path.exists(self._path(layout.LOCK))

    @property
    def started(self) -> bool:
        """Whether the command may have run."""
        return os.path.exists(self._path(layout.STARTED))

    def supervisor(self) -> int:
        """The pid of its live supervisor, told by the kernel from the lock it holds; 0 where it has none."""
        try:
            descriptor = os.open(self._path(layout.LOCK), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _SUPERVISOR_BYTE, 1, 0)
            kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        finally:
            os.close(descriptor)
        return 0 if kind == fcntl.F_UNLCK else int(pid)

    def request_stop(self, grace: float, clock: Clock, reason: str = "") -> None:
        """Ask its supervisor, and all later ones, for its end. A second request can only bring the end nearer."""
        kill_at = clock.monotonic() + max(0.0, grace)
        earlier = layout.read_stop(self._path(layout.STOP))
        if earlier is None or earlier.kill_at > kill_at:
            layout.write_stop(self._path(layout.STOP), layout.Stop(max(0.0, grace), kill_at, reason))

    def is_stuck(self, clock: Clock) -> bool:
        """Whether its supervisor was asked to end it, and neither has nor shows any progress: the job may have
        stopped it, or the file system of its command does not answer."""
        request = layout.read_stop(self._path(layout.STOP))
        if request is None or clock.monotonic() < request.kill_at + _STUCK:
            return False
        return clock.now().timestamp() - os.stat(self._path(layout.LOCK)).st_mtime >= _STUCK

    def kill(self, supervisor: int) -> None:
        """SIGKILL a supervisor that is stuck, and all in the job's cgroup. The next supervisor ends what is left."""
        signal_process(supervisor, signal.SIGKILL, lambda: self.supervisor() == supervisor)
        cgroup.kill(layout.enclosure(read_document(self._path(layout.STARTED))))

    def may_spawn(self, clock: Clock) -> bool:
        """Whether it is time for another supervisor."""
        return self.spawned < MAX_SPAWNS or clock.monotonic() >= self._spawned_at + _SPAWN_PAUSE

    def spawn(self, clock: Clock, environment: Mapping[str, str], spawner: Spawner) -> Spawned:
        """Start a supervisor with what it needs of the daemon's `environment`. Harmless where one is there: it ends at
        once."""
        self.spawned += 1
        self._spawned_at = clock.monotonic()
        os.utime(self._path(layout.LOCK))  # It has not had the time to show progress itself.
        return spawner.spawn(self.directory, self._environment(environment))

    def copy_on(self, clock: Clock, environment: Mapping[str, str]) -> None:
        """Start another uploader where the one of this run was killed before it had copied all, by a restart of the
        machine for example."""
        if self._copied or clock.monotonic() < self._next_copy:
            return
        self._next_copy = clock.monotonic() + _COPY_PAUSE
        try:
            with open(self._path(layout.UPLOADER), "rb") as file:
                self._copied = bool(file.read(1))
                if self._copied or not locks.try_lock(file.fileno()):
                    return
        except FileNotFoundError:
            self._copied = True
            return
        program = [*PYTHON, UPLOADING, self.directory]
        subprocess.run(program, env=self._environment(environment), check=False, stdin=subprocess.DEVNULL, timeout=60)

    def _environment(self, daemon: Mapping[str, str]) -> dict[str, str]:
        kept = supervisor_environment(daemon)
        if (self.spec.get("call") or {}).get("environment"):
            from cumulus.environments.ensure import told

            kept |= told(daemon, private=True)
        if (self.spec.get("checkpoint") or {}).get("uri"):
            from cumulus.backends.rundir import uploading

            kept |= {name: daemon[name] for name in uploading.ENVIRONMENT if name in daemon}
        return kept

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Keep supervisors away. False: one is there. For one thread of a process at a time.

        Another backend that is at the same keeps them away as well, and is not waited for: it may have been stopped."""
        with open(self._path(layout.LOCK), "r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _BACKEND_BYTE)
            except BlockingIOError:
                yield not self.supervisor()
            else:
                yield True

    def give_up(self, clock: Clock) -> bool:
        """Record that no supervisor could start the command. False: one is at it after all."""
        with self.locked() as locked:
            if not locked or self.started or os.path.exists(self._path(layout.EXIT)):
                return False
            message = f"its supervisor ended {self.spawned} times before it could start the command"
            end = self._observed(
                WorkloadState.FAILED, reason=AttemptReason.START_ERROR, message=f"{message}: {self._last_words()}"
            )
            document = {name: getattr(end, name) for name in Observed.__slots__}
            document |= {"finished_at": timestamp(clock.now()), "checkpoint": document_of(end.checkpoint)}
            write_document(self._path(layout.EXIT), document)
        return True

    def _observed(self, state: WorkloadState, **more: Any) -> Observed:
        names = ("name", "job_uid", "namespace", "job", "attempt", "replica", "node")
        return Observed(**{n: self.spec[n] for n in names}, state=state, **more)

    def _last_words(self) -> str:
        try:
            with open(self._path(layout.SUPERVISOR_LOG), encoding="utf-8", errors="replace") as file:
                lines = file.read()[-4096:].split("\n")
        except FileNotFoundError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)
