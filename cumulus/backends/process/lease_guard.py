"""The leases of a run, as its supervisor sees them: may the run start, and did a lease end it?

Standard library only. Before the start a forked child uses the ledger, and this process only at the end: the ledger
doubles a supervisor's memory, and there is one supervisor for each running job.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from cumulus.backends.lease_end import reason_of
from cumulus.backends.process import layout
from cumulus.backends.process.command import End
from cumulus.backends.rundir.documents import NO_ROOM
from cumulus.backends.variables import LEASE_DEADLINE
from cumulus.clock import SystemClock, timestamp
from cumulus.lib.unix_user import UnixUser
from cumulus.resources.reasons import AttemptReason

if TYPE_CHECKING:
    from cumulus.chronos.local import Ledger

Answer = TypeVar("Answer")

_MONITOR_TELLS = 1.0
_ASK_AGAIN = 0.05


def preload() -> None:
    """Load what `LeaseGuard.attach` needs, for a process that forks supervisors."""
    from cumulus.chronos import local

    local.preload()


class LeaseRefused(Exception):
    """The command must not be started; `end` says why."""

    def __init__(self, end: End) -> None:
        super().__init__(end.message)
        self.end = end


class Hold(NamedTuple):
    """What holds a job to its leases: variables of its environment, and the cgroup it is started in, if any."""

    variables: dict[str, str] = {}
    cgroup: str | None = None


class LeaseGuard:
    """The leases of one run, as spec.json names them. A ledger that is unavailable is asked again for
    `ledger_patience` seconds before the run is given up."""

    def __init__(self, spec: dict[str, Any], ledger_patience: float = 10.0) -> None:
        self._ledger_patience = ledger_patience
        self._leases: list[dict[str, Any]] = spec["leases"]
        self._own: dict[str, str] = spec["env"]
        self._home: str | None = spec["chronos_home"]
        user = UnixUser.read(spec.get("user"))
        self._user = None if user is None else user.uid
        self._opened: Ledger | None = None
        self._ready: tuple[int, int, BinaryIO] | None = None
        """The child that attached, which waits to be told that the command starts: how, and where it answers."""
        self._began = math.inf
        """When the command was let go, by the machine's monotonic clock."""

    def attach(self, pid: int) -> Hold:
        """Register `pid`, whose descendants end with the leases, and prepare what holds its job to them.

        Raises `LeaseRefused` where a lease is not to be had, or cannot be enforced as it promises."""
        if not self._leases:
            return Hold()
        readable, writable = os.pipe2(os.O_CLOEXEC)
        gate, opener = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            try:
                os.close(opener)
                with open(writable, "wb") as words:
                    verdict = self._attach(pid)
                    words.write(json.dumps(verdict).encode() + b"\n")
                    words.flush()
                    if verdict[0] is None and os.read(gate, 1):
                        self._begin()
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(0)
        os.close(writable)
        os.close(gate)
        answer = os.fdopen(readable, "rb")
        said = answer.readline()
        if said:
            end, hold = json.loads(said)
            if end is None:
                self._ready = child, opener, answer
                return Hold(*hold)
        os.close(opener)
        answer.close()
        _, status = os.waitpid(child, 0)
        if not said:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            how = f"was killed by signal {number}, perhaps for want of memory" if number else "ended without a word"
            raise LeaseRefused(End(None, AttemptReason.LOST, f"not started: what checks its leases {how}"))
        raise LeaseRefused(End(*end))

    def begin(self) -> None:
        """Start the leases' time: the command is about to be let go. `wait_begun` waits until that is done."""
        self._began = SystemClock().monotonic()
        if self._ready is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._ready[1], b"x")

    def wait_begun(self) -> None:
        """Wait until that is done, and the process gone that did it: it is none of the job's."""
        if self._ready is None:
            return
        child, opener, answer = self._ready
        self._ready = None
        os.close(opener)
        answer.read()
        answer.close()
        os.waitpid(child, 0)

    def ended(self, by: float = math.inf) -> str:
        """An `EndReason` where a lease of the run has ended or is ending, of several the one that says most; else "".
        With `by`, where it had begun to end by that time of the machine's monotonic clock."""
        if not self._leases:
            return ""
        from cumulus.chronos.contract import EndReason
        from cumulus.errors import ChronosError

        reasons: set[EndReason | None] = set()
        for lease in self._leases:
            try:
                found = self._ledger().get(lease["id"])
                since = self._ledger().ended_since(lease["id"]) if by < math.inf else None
            except ChronosError:
                # The ledger is gone, say. The monitor ends the leases that it knew all the same.
                if self._began + (lease.get("seconds") or math.inf) <= min(by, SystemClock().monotonic()):
                    reasons.add(EndReason.EXPIRED)
                continue
            if found is not None and not found.state.goes_on and (since is None or since <= by):
                reasons.add(found.end_reason)
        lost = (EndReason.LOST, EndReason.UNPARK_FAILED, EndReason.REBOOTED)
        order = (EndReason.OVERUSED, *lost, EndReason.EXPIRED, EndReason.RELEASED)
        return next((str(r) for r in order if r in reasons), "")

    def ended_at_last(self, by: float) -> str:
        """The same for a command that a signal ended of which nobody here knows: the node's monitor, which sends it
        where a lease is overused, tells the ledger a moment later."""
        deadline = time.monotonic() + _MONITOR_TELLS
        while not (found := self.ended(by)) and self._leases and time.monotonic() < deadline:
            time.sleep(_ASK_AGAIN)
        return found

    def end(self, when: str) -> End | None:
        """The end of a run whose command was not waited for `when` a lease of it ended. None where they all live."""
        over = reason_of(self.ended(), f" {when}")
        return None if over is None else End(None, *over)

    def _attach(self, pid: int) -> tuple[End | None, Hold]:
        """In the child: the run's end where it must not start, else what holds it."""
        from cumulus.errors import ChronosError, LedgerUnavailable, NoSuchLease, StaleToken

        variables: dict[str, str] = {}
        try:
            for lease in self._leases:
                attach = partial(self._ledger().attach, lease["id"], pid, lease["token"], role="supervisor")
                self._patiently(attach)
                variables = self._enforced(variables, lease["id"])
            # Last: what the enforcement starts for the node is not to be taken for the job's.
            ids = [lease["id"] for lease in self._leases]
            enclosure = self._patiently(partial(self._ledger().make_cgroup, ids, pid))
        except NoSuchLease as error:
            over = self.end("before the command was started")
            return over or End(None, AttemptReason.START_ERROR, f"not started without its lease: {error}"), Hold()
        except StaleToken as error:
            return End(
                None, AttemptReason.START_ERROR, f"not started, its lease was granted to another holder: {error}"
            ), Hold()
        except LedgerUnavailable as error:
            # The node's fault, not the job's: another attempt may find it well.
            return End(None, AttemptReason.LOST, f"not started: {error}"), Hold()
        except ChronosError as error:
            return End(None, AttemptReason.START_ERROR, f"not started: {error}"), Hold()
        except Exception as error:
            # A defect, most likely. It would be the same the next time, and its text is what can be acted upon.
            sys.excepthook(*sys.exc_info())
            full = isinstance(error, OSError) and error.errno in NO_ROOM
            reason = AttemptReason.LOST if full or isinstance(error, MemoryError) else AttemptReason.START_ERROR
            what = f"what holds it to its lease could not be set up: {type(error).__name__}: {error}"
            return End(None, reason, f"not started: {what}"), Hold()
        return None, Hold(variables, enclosure)

    def _begin(self) -> None:
        """In the child. Where the ledger cannot be written, the time counts a little later, as it would anyway."""
        from cumulus.errors import ChronosError

        for lease in self._leases:
            with contextlib.suppress(ChronosError):
                self._ledger().begin(lease["id"])

    def _enforced(self, variables: dict[str, str], id: str) -> dict[str, str]:
        from cumulus.chronos import local
        from cumulus.chronos.contract import variables as contract
        from cumulus.errors import NoSuchLease

        ledger = self._ledger()
        lease = ledger.get(id)
        device = next((d for d in ledger.devices() if lease and d.id == lease.device_id), None)
        if lease is None or device is None:
            raise NoSuchLease(f"the device of lease {id} is no longer on this node")
        ours = contract.join(variables, local.hold_to(lease, device, ledger.home, self._user))
        # Over the job's own: what is a list, as PYTHONPATH, keeps the job's part too.
        merged = contract.merge(self._own, ours)
        variables = {name: value for name, value in merged.items() if value != self._own.get(name)}
        return variables | self._ends(id, lease.expires_in, variables)

    def _ends(self, id: str, expires_in: float, variables: dict[str, str]) -> dict[str, str]:
        """The variables that say when the first lease ends. Where its time has yet to count, it does from about now
        on."""
        from cumulus.chronos.contract.variables import EXPIRES_AT

        seconds = next((x["seconds"] for x in self._leases if x["id"] == id and x.get("seconds")), expires_in)
        deadline = SystemClock().monotonic() + min(seconds, expires_in)
        found = {LEASE_DEADLINE: f"{min(deadline, float(variables.get(LEASE_DEADLINE, deadline))):.3f}"}
        if seconds >= expires_in:
            return found
        ends = timestamp(SystemClock().now() + timedelta(seconds=seconds))
        return found | {EXPIRES_AT: min(ends, variables.get(EXPIRES_AT, ends))}

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        from cumulus.errors import LedgerUnavailable

        deadline = time.monotonic() + self._ledger_patience
        while True:
            try:
                return ask()
            except LedgerUnavailable:
                if time.monotonic() >= deadline or os.path.exists(layout.STOP):
                    raise
                time.sleep(0.2)

    def _ledger(self) -> Ledger:
        if self._opened is None:
            from pathlib import Path

            from cumulus.chronos.local import Ledger

            # No monitor from here: it would be this subreaper's child and end with the job.
            self._opened = Ledger(Path(self._home) if self._home else None, start_monitor=False)
        return self._opened
