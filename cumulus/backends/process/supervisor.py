"""The supervisor of one run, a process of its own: `python -I -S supervisor.py DIRECTORY`.

It outlives the daemon. Order is all: the run's lock, then the lease checked and attached, then `started.json`,
and only then the command is let go. A supervisor that finds any of them missing or taken ends without running
it, so that any number of supervisors may be started for one run. Standard library only, imported by path,
because each running job pays for it with memory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # Run by path: neither site-packages nor the working directory is on sys.path (-I -S).
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../../..")]

from cumulus.backends import checkpoints, variables
from cumulus.backends.checkpoints import document_of
from cumulus.backends.exit_codes import SAVED
from cumulus.backends.logs import LogWriter
from cumulus.backends.process import layout, process_tree
from cumulus.backends.process.checkpointing import CheckpointWatch
from cumulus.backends.process.command import Command, End
from cumulus.backends.process.console import Console
from cumulus.backends.process.execs import Execs
from cumulus.backends.process.feeding import ProcessInput
from cumulus.backends.process.launch import CAUGHT, Child, StartFailed, StartUnreachable, launch, resolve_secrets
from cumulus.backends.process.lease_guard import LeaseGuard, LeaseRefused
from cumulus.backends.redactor import Redactor
from cumulus.backends.rundir.documents import NO_ROOM, read_document, write_document
from cumulus.backends.rundir.log import FileLog, retention_of
from cumulus.clock import SystemClock, timestamp
from cumulus.lib import cgroup, processes
from cumulus.lib.descriptors import close_all_but
from cumulus.resources.reasons import AttemptReason

if TYPE_CHECKING:
    from cumulus.backends.process.ledger_server import LedgerClient
    from cumulus.backends.process.uploading import Uploading

_DISK_PATIENCE = 1.0
_STOPPED = End(None, AttemptReason.STOPPED, "stopped before it started")


def main(arguments: list[str], server: LedgerClient | None = None, waiting: Child | None = None) -> int:
    """Supervise the run in the directory `arguments[0]` to its end. `server` has the ledger open, `waiting` becomes the
    program."""
    kept = [] if server is None else [server.fileno()]
    close_all_but(*kept, *([] if waiting is None else [waiting.channel.fileno()]))
    os.chdir(arguments[0])
    os.umask(0o077)
    wake = _catch_signals()
    try:
        lock = os.open(layout.LOCK, os.O_RDWR | os.O_CLOEXEC)
        # A record lock belongs to this process alone: the job does not inherit it, and fcntl(F_GETLK) tells its pid.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 2)
    except (BlockingIOError, FileNotFoundError):
        return 0  # Another supervisor is at it, or the run is being purged.
    layout.show_progress()
    if os.path.exists(layout.EXIT):
        return 0
    spec = read_document(layout.SPEC)
    if spec is None:
        return 1
    run = _Supervision(spec, server, waiting)
    try:
        end = run.to_its_end(wake) if not os.path.exists(layout.STARTED) else run.bury()
        run.dismiss()
    except Exception as error:
        # Whatever went wrong, the run has an end that says so, and nothing of it runs after that.
        process_tree.end_children()
        with contextlib.suppress(OSError, ValueError):
            cgroup.kill(layout.enclosure(read_document(layout.STARTED)))
        reason = AttemptReason.ERROR if os.path.exists(layout.STARTED) else AttemptReason.START_ERROR
        run.finish(End(None, reason, f"its supervisor failed: {type(error).__name__}: {error}"))
        sys.stderr.write(run.without_secrets(traceback.format_exc()))
        return 1
    run.finish(end)
    return 0


class _NotAnyMore(Exception):
    """The run is to end before its command was started."""


class _Supervision:
    def __init__(self, spec: dict[str, Any], server: LedgerClient | None, waiting: Child | None) -> None:
        self._spec = spec
        self._server = server
        self._waiting = waiting
        self._clock = SystemClock()
        self._started_at = ""
        self._redactor = Redactor(())
        self._checkpoint = CheckpointWatch(spec)

    def to_its_end(self, wake: int) -> End:
        spec = self._spec
        if int(spec["format"]) > layout.FORMAT:
            return End(None, AttemptReason.START_ERROR, "its specification was written by a newer version of Cumulus")
        leases = LeaseGuard(spec, server=self._server)
        try:
            # First: it is not below this process, which holds the leases from here on.
            uploading = self._uploading()
            hold = leases.attach(os.getpid())
            if os.path.exists(layout.STOP):
                return _STOPPED
            # Not before: what the enforcement started for the node is not to end with this job.
            processes.become_subreaper()
            secrets = resolve_secrets(spec)
            # Before anything is made beside them: no text of this run holds a secret.
            self._redactor = Redactor(list(secrets.values()))
            log = FileLog(".", retention_of(spec)).writer(list(secrets.values()))
            if uploading is not None:
                uploading.prepare(lambda: self._check(leases), lambda line: _say(log, line))
            if spec.get("call"):
                spec = {**spec, "command": self._prepare_call(log, leases)}
            started = launch(spec, secrets, hold.variables, self._waiting)
            self._waiting = None
            enclosure = hold.cgroup if hold.cgroup and cgroup.enter(hold.cgroup, started.pid) else ""
            console = Console(started.output, started.pid) if spec.get("terminal") else None
            given = ProcessInput(started.input, started.pid) if started.input >= 0 else None
            execs = Execs(spec, started.environment, enclosure, console, given)
            self._started_at = timestamp(self._clock.now())
            # In a child that has the ledger open, while this process waits for the disk too.
            leases.begin()
            write_document(
                layout.STARTED,
                {
                    "started_at": self._started_at,
                    "boot_id": processes.boot_id(),
                    "session": os.getsid(0),
                    "cgroup": enclosure,
                },
            )
        except _NotAnyMore:
            return leases.end("before it was started") or _STOPPED
        except LeaseRefused as error:
            return _STOPPED if os.path.exists(layout.STOP) else error.end
        except StartFailed as error:
            return End(None, AttemptReason.START_ERROR, str(error))
        except StartUnreachable as error:
            return End(None, AttemptReason.LOST, f"not started: its checkpoints can't be fetched: {error}")
        except OSError as error:
            # The command waits at its gate and ends with this process.
            reason = AttemptReason.LOST if error.errno in NO_ROOM else AttemptReason.START_ERROR
            return End(None, reason, f"it could not be started: {error.strerror}")
        command = Command(
            spec, started.pid, started.output, wake, log, leases, self._checkpoint, execs, enclosure
        )  # fmt: skip
        leases.wait_begun()
        try:
            failure = started.release()
        except ConnectionError:
            command.abandon()
            return self._killed_at_the_gate(leases)
        if failure:
            command.abandon()
            return End(None, AttemptReason.START_ERROR, failure)
        self.announce()
        return command.run()

    def _prepare_call(self, log: LogWriter, leases: LeaseGuard) -> list[str]:
        """The command of a call. Its modules are loaded here: other runs do not pay for them."""
        from cumulus.backends.process import call

        return call.prepare(self._spec, lambda line: _say(log, line), lambda: self._check(leases))

    def _check(self, leases: LeaseGuard) -> None:
        """Raises _NotAnyMore where what is prepared is not to start."""
        layout.show_progress()
        if os.path.exists(layout.STOP) or leases.ended():
            raise _NotAnyMore

    def _uploading(self) -> Uploading | None:
        """What keeps its checkpoints beyond this node, started; None where it names no place. Its modules are loaded
        here: other runs do not pay for them."""
        if not (self._spec.get("checkpoint") or {}).get("uri"):
            return None
        from cumulus.backends.process.uploading import Uploading

        made = Uploading(self._spec, os.environ)
        made.start()
        self._checkpoint.not_copied = made.renew
        return made

    def _killed_at_the_gate(self, leases: LeaseGuard) -> End:
        """Nothing of the job has run. The monitor did it, or something else, for want of memory perhaps."""
        over = leases.end("before the command was started")
        if over is None and os.path.exists(layout.STOP):
            return _STOPPED
        return over or End(None, AttemptReason.LOST, "its process was killed before the command was started")

    def dismiss(self) -> None:
        """End what was to become the program, and did not."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.dismiss()

    def bury(self) -> End:
        """The end of a run whose supervisor died after the start: nothing of it is left running when this returns."""
        started = read_document(layout.STARTED) or {}
        self._started_at = started.get("started_at", "")
        leases = LeaseGuard(self._spec, server=self._server)
        with contextlib.suppress(OSError, StartFailed):
            self._uploading()
        if started.get("boot_id") != processes.boot_id():
            return End(None, AttemptReason.LOST, "the machine was restarted while it ran")
        mark = f"{variables.WORKLOAD}={self._spec['name']}"
        process_tree.end_orphans(mark, started["session"], self._grace_left(), layout.enclosure(started))
        over = leases.end("while it had no supervisor")
        if over is None and os.path.exists(layout.STOP):
            return End(
                None, AttemptReason.STOPPED, "stopped; its supervisor had died, and what it had started was ended"
            )
        return over or End(None, AttemptReason.LOST, "its supervisor died; what it had started was ended")

    def _grace_left(self) -> float:
        """Seconds for what lost its supervisor to end by itself: after a request to stop no more than that one left."""
        grace = float(self._spec["grace"])
        stop = layout.read_stop()
        return grace if stop is None else min(grace, max(0.0, stop.kill_at - self._clock.monotonic()))

    def finish(self, end: End) -> None:
        """Write the end, durable, once. On a full disk it waits for room: the end is not to be lost."""
        if self._spec.get("call"):
            end = self._collect_call(end)
        # What never started saved nothing.
        store = self._checkpoint.store if self._started_at else None
        told = end.code == SAVED or end.reason == AttemptReason.LEASE_EXPIRED
        document = {
            **{k: self._spec[k] for k in ("name", "job_uid", "namespace", "job", "attempt", "replica", "node")},
            "state": "Succeeded" if end.reason == "" else "Failed",
            "exit_code": end.code,
            "reason": end.reason,
            "message": self.without_secrets(end.message),
            "started_at": self._started_at,
            "finished_at": timestamp(self._clock.now()),
            "checkpoint": document_of(checkpoints.saved(store, self._checkpoint.saved)),
            "checkpoint_at": checkpoints.written_at(store) if told else None,
        }
        while True:
            try:
                write_document(layout.EXIT, document)
                break
            except OSError as error:
                if error.errno not in (*NO_ROOM, errno.EIO):
                    raise
                layout.show_progress()
                self._clock.sleep(_DISK_PATIENCE)
        self.announce()

    def _collect_call(self, end: End) -> End:
        from cumulus.backends.process import call

        try:
            call.collect(self._spec)
        except (OSError, ValueError) as error:
            sys.stderr.write(f"what the call left cannot be taken: {error}\n")
            return end._replace(message=end.message or f"its result cannot be taken: {error}")
        return end

    def without_secrets(self, text: str) -> str:
        return self._redactor.text(text)

    def announce(self) -> None:
        """Tell whoever watches that something changed. They look anyway, later: failing here is harmless."""
        with contextlib.suppress(OSError):
            os.utime(self._spec["events"])


def _say(log: LogWriter, line: str) -> None:
    log.append(line.encode("utf-8", "replace") + b"\n")
    log.flush()


def _catch_signals() -> int:
    """Handlers before the lock: whoever finds this process by its lock may signal it. Returns the descriptor that
    becomes readable on each signal."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in CAUGHT:
        signal.signal(number, lambda *_: None)
    return readable


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
