"""Watches a started command: its output, requests to stop, its memory, its end. Used by the supervisor only.

Standard library only.
"""

from __future__ import annotations

import fcntl
import math
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from cumulus.backends.lease_end import reason_of
from cumulus.backends.logs import LogWriter
from cumulus.backends.process import layout, process_tree
from cumulus.backends.process.checkpointing import CheckpointWatch, catches_sigterm
from cumulus.clock import SystemClock
from cumulus.lib import processes
from cumulus.resources.reasons import AttemptReason

if TYPE_CHECKING:
    from cumulus.backends.process.execs import Execs
    from cumulus.backends.process.lease_guard import LeaseGuard

_LOOK = 1.0
"""Seconds between looks at the stop file, in case the signal that announces it was lost with a dying daemon."""

_MEMORY_LOOK = 0.1
"""Seconds between readings of the tree's memory, where it is limited."""

_CLOCK = SystemClock()
_MONITOR_FIRST = 1.0
_LAST_SIGNAL = 5.0
"""Seconds before SIGKILL at which the stop signal is sent, if no checkpoint came."""
_AFTER_SAVE = 2.0
"""Seconds that a program has to end once it has saved."""
_EXITS = 1.0
"""After so many of them it gets the stop signal."""
_KILL_AGAIN = 0.05
_HOLD = 0.05
_CHUNK = 64 * 1024
_PIECES = 64
"""Of what is left in a terminal: it gives less at once than a pipe."""


class End(NamedTuple):
    """How a run ended: `code` as a shell counts it (128+N for signal N), `reason` "" where it succeeded."""

    code: int | None
    reason: AttemptReason | str
    message: str


class Command:
    """One command of a run, from exec to its end."""

    def __init__(
        self,
        spec: dict[str, Any],
        pid: int,
        output: int,
        wake: int,
        log: LogWriter,
        leases: LeaseGuard,
        checkpoint: CheckpointWatch,
        execs: Execs,
        enclosure: str = "",
    ) -> None:
        """`enclosure` is the cgroup that the command was put into, "" for none."""
        self._execs = execs
        self._checkpoint = checkpoint
        self._spec = spec
        self._pid = pid
        self._output = output
        self._wake = wake
        self._log = log
        self._leases = leases
        self._enclosure = enclosure
        self._status: int | None = None
        self._gone_at = math.inf
        """When the command was seen to be gone, on the machine's monotonic clock."""
        self._interrupted = False
        """It was there when it was told to stop."""
        self._stopping = False
        self._kill_at: float | None = None
        self._signal_at: float | None = None
        """Until when the stop signal waits for the checkpoint that the program was asked for."""
        self._saved = False
        """It has saved since it was asked."""
        self._out_of_memory = 0
        self._killed = False
        self._closed = False
        self._poll = select.poll()
        self._poll.register(output, select.POLLIN)
        self._poll.register(wake, select.POLLIN)
        execs.watch(self._poll)

    def run(self) -> End:
        """Until the command and everything it started are gone."""
        next_look = next_memory = 0.0
        oom_kills = _kernel_oom_kills()
        while self._reap() and (self._status is None or self._is_ending()):
            now = time.monotonic()
            if self._kill_at is not None:
                layout.show_progress()
            if now >= next_look:
                self._look_for_stop()
                next_look = now + _LOOK
            self._checkpoint.look(now)
            self._execs.look(now)
            if self._checkpoint.answered or (self._signal_at is not None and now >= self._signal_at):
                self._saved_or_late(now)
            if self._spec["memory_bytes"] and now >= next_memory:
                self._check_memory()
                next_memory = now + _MEMORY_LOOK
            if self._kill_at is not None and now >= self._kill_at:
                self._killed = True
                process_tree.kill_all(os.getpid(), self._enclosure)
                self._kill_at = now + _KILL_AGAIN
            times = (
                next_look, self._kill_at, self._signal_at, self._memory_look(next_memory), self._answer_look(),
                self._execs.next_look,
            )  # fmt: skip
            wake_at = min(t for t in times if t is not None)
            if self._wait(max(0.0, wake_at - time.monotonic())):
                next_look = 0.0
        self.abandon()
        return self._end(_kernel_oom_kills() > oom_kills)

    def abandon(self) -> None:
        """End whatever the command left running, and what runs beside it, and close its log."""
        self._execs.close()
        while self._reap():
            layout.show_progress()
            process_tree.kill_all(os.getpid(), self._enclosure)
            self._wait(_KILL_AGAIN)
        console = self._execs.console
        # What is left in the pipe, and no more: a process outside the tree may hold its other end, and write for ever.
        for _ in range(_PIECES if console is not None else fcntl.fcntl(self._output, fcntl.F_GETPIPE_SZ) // _CHUNK + 1):
            if self._closed or not self._copy():
                break
        self._log.seal()
        if console is not None:
            status = self._status or 0
            console.finish(status if status >= 0 else 128 - status)

    def _answer_look(self) -> float | None:
        return self._checkpoint.next_look if self._checkpoint.asked and not self._checkpoint.answered else None

    def _memory_look(self, at: float) -> float | None:
        return at if self._spec["memory_bytes"] else None

    def _wait(self, seconds: float) -> bool:
        """Wait for output or a signal and take it. True where a signal came."""
        if self._log.holding:
            seconds = min(seconds, _HOLD)
        signalled = copied = False
        for descriptor, event in self._poll.poll(seconds * 1000 + 1):
            if descriptor == self._wake:
                signalled = True
                self._take_signals()
            elif descriptor != self._output:
                self._execs.handle(descriptor)
            else:
                if event & select.POLLOUT and self._execs.console is not None:
                    self._execs.console.type_on()
                if event & ~select.POLLOUT:
                    copied = True
                    self._copy()
        if not copied:
            # A pause: what looks like the beginning of a secret must not be held back from its reader for long.
            self._log.flush()
        return signalled

    def _take_signals(self) -> None:
        while True:
            try:
                numbers = os.read(self._wake, _CHUNK)
            except BlockingIOError:
                return
            if signal.SIGTERM in numbers and not self._stopping:
                self._terminated()

    def _copy(self) -> bool:
        """Move a chunk of output to the log. False: there is none now, or none any more."""
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            # How a terminal says that its other end is closed.
            data = b""
        console = self._execs.console
        if not data:
            self._closed = True
            self._poll.unregister(self._output)
            if console is not None:
                console.closed()
            return False
        self._log.append(data)
        if console is not None:
            console.show(data)
        return True

    def _look_for_stop(self) -> None:
        request = layout.read_stop()
        if request is None:
            return
        kill_at = time.monotonic() + request.grace
        # A second request can only bring the end nearer.
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
        if not self._stopping:
            self._begin_to_stop()
            # The monitor signals the tree of an ended lease itself; programs may take a second signal for impatience.
            if not self._leases.ended():
                self._ask_to_end(request.reason)

    def _ask_to_end(self, reason: str) -> None:
        """Ask for a checkpoint, then send the stop signal. Whoever has a handler for that gets it at once. Others would
        end by it: where they have shown that they save, it waits for the checkpoint."""
        assert self._kill_at is not None
        now = time.monotonic()
        if reason:
            self._checkpoint.ask(now, reason)
        below = self._own_processes()
        if self._checkpoint.asked and self._checkpoint.saved is not None and not any(map(catches_sigterm, below)):
            self._signal_at = self._kill_at - min(_LAST_SIGNAL, (self._kill_at - now) / 2)
            return
        process_tree.send(below, signal.SIGTERM)
        self._execs.hang_up()

    def _saved_or_late(self, now: float) -> None:
        """The program has saved since it was asked, or has no more time for it: the grace is a limit, not a wait."""
        if self._checkpoint.answered and self._kill_at is not None and not self._saved:
            self._saved = True
            self._kill_at = min(self._kill_at, now + _AFTER_SAVE)
            if self._signal_at is not None:
                # It knows no signal: one would take from it the exit code with which it ends by itself.
                self._signal_at = min(self._signal_at, now + _EXITS)
        if self._signal_at is not None and now >= self._signal_at:
            self._signal_at = None
            process_tree.send(self._own_processes(), signal.SIGTERM)
            self._execs.hang_up()

    def _begin_to_stop(self) -> None:
        """Called before the signal is sent: if the command has ended already, its exit code decides, not the stop."""
        self._reap()
        self._stopping = True
        self._interrupted = self._status is None

    def _terminated(self) -> None:
        """SIGTERM to this process: a person or the system ends the run. (The monitor signals what is below.)"""
        self._begin_to_stop()
        self._kill_at = time.monotonic() + float(self._spec["grace"])
        process_tree.send(self._own_processes(), signal.SIGTERM)
        self._execs.hang_up()

    def _own_processes(self) -> list[int]:
        """Those of the command: what was started beside it is not told by the signal that it stops."""
        beside = self._execs.members()
        return [pid for pid in processes.descendants(os.getpid()) if pid not in beside]

    def _is_ending(self) -> bool:
        """The command is gone: whether what it left may use the grace period, to write a checkpoint perhaps.

        A shell does not wait for its children when it is told to end. A command that ends by itself takes all along."""
        if self._kill_at is None and self._leases.ended():
            # The monitor kills after the lease's grace: this is for the case that there is none.
            self._kill_at = time.monotonic() + float(self._spec["grace"]) + _MONITOR_FIRST
        # A shell beside it keeps no job alive.
        return self._kill_at is not None and bool(self._own_processes())

    def _check_memory(self) -> None:
        limit = self._spec["memory_bytes"]
        used = processes.memory_bytes(processes.descendants(os.getpid()), limit)
        if used > limit and not self._out_of_memory:
            self._out_of_memory = used
            self._kill_at = 0.0

    def _reap(self) -> bool:
        """Collect ended children. False: there are none left at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._status = os.waitstatus_to_exitcode(status)
                self._gone_at = _CLOCK.monotonic()
            else:
                self._execs.reaped(pid, status)

    def _end(self, kernel_oom: bool) -> End:
        status = self._status or 0
        code = status if status >= 0 else 128 - status
        how = f"exit code {code}" if status >= 0 else f"signal {_signal_name(-status)}"
        if self._log.error:
            how = f"{how}; {self._log.error}"
        if self._out_of_memory:
            used, limit = (n / 2**20 for n in (self._out_of_memory, self._spec["memory_bytes"]))
            return End(
                code, AttemptReason.OOM_KILLED, f"it used {used:.0f} MiB of memory, its limit is {limit:.0f} MiB"
            )
        signalled = status in (-signal.SIGKILL, -signal.SIGTERM) and not (self._interrupted or self._killed)
        lease = self._leases.ended_at_last(self._gone_at) if signalled else self._leases.ended(self._gone_at)
        by_node = lease in ("expired", "overused")
        killed = ", killed after its grace period" if self._killed and not by_node else ""
        ended_with = f", and it ended with {how}{killed}"
        if self._interrupted and not by_node:
            return End(code, AttemptReason.STOPPED, f"stopped{ended_with}")
        if over := reason_of(lease, ended_with):
            return End(code, *over)
        if status == -signal.SIGKILL and kernel_oom:
            return End(code, AttemptReason.OOM_KILLED, "killed by the kernel: the machine ran out of memory")
        if status != 0:
            return End(code, AttemptReason.ERROR, f"ended with {how}")
        return End(0, "", self._log.error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _kernel_oom_kills() -> int:
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
