"""The leases of a run, as its supervisor sees them: may the run start, and did a lease end it?

Standard library only. The process that has the ledger open is asked. Where it does not answer, a forked child uses the
ledger before the start, and this process only at the end: the ledger doubles a supervisor's memory, and there is one
supervisor for each running job.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from cumulus.backends.lease_end import reason_of
from cumulus.backends.process import layout
from cumulus.backends.process.command import End
from cumulus.backends.process.held_leases import HeldLeases, LeaseHold
from cumulus.backends.rundir.documents import NO_ROOM
from cumulus.clock import SystemClock
from cumulus.lib import processes
from cumulus.resources.reasons import AttemptReason

if TYPE_CHECKING:
    from cumulus.backends.process.ledger_server import LedgerClient, Question

AnswerT = TypeVar("AnswerT")

_MONITOR_TELLS = 1.0
_ASK_AGAIN = 0.05


class LeaseRefused(Exception):
    """The command must not be started; `end` says why."""

    def __init__(self, end: End) -> None:
        super().__init__(end.message)
        self.end = end


class LeaseGuard:
    """The leases of one run, as spec.json names them. A ledger that is unavailable is asked again for
    `ledger_patience` seconds before the run is given up."""

    def __init__(self, spec: dict[str, Any], ledger_patience: float = 10.0, server: LedgerClient | None = None) -> None:
        """`server`: what has the ledger open, where there is such a process."""
        self._ledger_patience = ledger_patience
        self._leases: list[dict[str, Any]] = spec["leases"]
        self._words: dict[str, Any] = {
            "leases": spec["leases"], "own": spec["env"], "home": spec["chronos_home"], "user": spec.get("user")
        }  # fmt: skip
        self._held = HeldLeases(**self._words)
        self._server = server
        self._begun: Question | None = None
        """The server was asked to start the leases' time."""
        self._served = False
        """It has attached."""
        self._ready: tuple[int, int, BinaryIO] | None = None
        """The child that attached, which waits to be told that the command starts: how, and where it answers."""
        self._began = math.inf
        """When the command was let go, by the machine's monotonic clock."""

    def attach(self, pid: int) -> LeaseHold:
        """Register `pid`, whose descendants end with the leases, and prepare what holds its job to them.

        Raises `LeaseRefused` where a lease is not to be had, or cannot be enforced as it promises."""
        if not self._leases:
            return LeaseHold()
        identity = processes.read(pid)
        if identity is not None and (said := self._answer(self._ask("attach", process=[pid, identity.start]))):
            self._served = True
            return LeaseHold(*said[0])
        return self._attach_in_a_child(pid)

    def _attach_in_a_child(self, pid: int) -> LeaseHold:
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
                        self._held.begin()
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
                return LeaseHold(*hold)
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
        if self._served:
            self._begun = self._ask("begin")
        elif self._ready is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._ready[1], b"x")

    def wait_begun(self) -> None:
        """Wait until that is done, and a child gone that did it: it is none of the job's."""
        if self._served and not self._answer(self._begun):
            self._held.begin()
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
        times = [None if at == math.inf else at for at in (by, self._began)]
        said = self._answer(self._ask("ended", times=times))
        return str(said[0]) if said else self._held.ended(by, self._began)

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

    def _ask(self, what: str, **more: Any) -> Question | None:
        """None where there is nobody to be asked."""
        return None if self._server is None else self._server.ask(what, self._words, **more)

    def _answer(self, question: Question | None) -> list[Any]:
        """What was answered, in a list; an empty one where nothing was: nothing more is asked there then."""
        answer = [] if question is None else question.answer()
        if not answer:
            self._server = None
        return answer

    def _attach(self, pid: int) -> tuple[End | None, LeaseHold]:
        """In the child: the run's end where it must not start, else what holds it."""
        from cumulus.errors import ChronosError, LedgerUnavailable, NoSuchLease, StaleToken

        try:
            hold = self._held.attach(pid, self._patiently)
        except NoSuchLease as error:
            over = self.end("before the command was started")
            return over or End(None, AttemptReason.START_ERROR, f"not started without its lease: {error}"), LeaseHold()
        except StaleToken as error:
            return End(
                None, AttemptReason.START_ERROR, f"not started, its lease was granted to another holder: {error}"
            ), LeaseHold()
        except LedgerUnavailable as error:
            # The node's fault, not the job's: another attempt may find it well.
            return End(None, AttemptReason.LOST, f"not started: {error}"), LeaseHold()
        except ChronosError as error:
            return End(None, AttemptReason.START_ERROR, f"not started: {error}"), LeaseHold()
        except Exception as error:
            # A defect, most likely. It would be the same the next time, and its text is what can be acted upon.
            sys.excepthook(*sys.exc_info())
            full = isinstance(error, OSError) and error.errno in NO_ROOM
            reason = AttemptReason.LOST if full or isinstance(error, MemoryError) else AttemptReason.START_ERROR
            what = f"what holds it to its lease could not be set up: {type(error).__name__}: {error}"
            return End(None, reason, f"not started: {what}"), LeaseHold()
        return None, hold

    def _patiently(self, ask: Callable[[], AnswerT]) -> AnswerT:
        from cumulus.errors import LedgerUnavailable

        deadline = time.monotonic() + self._ledger_patience
        while True:
            try:
                return ask()
            except LedgerUnavailable:
                if time.monotonic() >= deadline or os.path.exists(layout.STOP):
                    raise
                time.sleep(0.2)
