"""Follows a job until it is over, and ends as its program did. Ctrl-C leaves the job alone; twice ends it."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cumulus.answers.logs import (
    AttemptEnded,
    AttemptFollows,
    LogAwaits,
    LogBytes,
    LogPiece,
    NobodyActs,
    NoneFollowed,
    NothingWritten,
    ReplicaChosen,
)
from cumulus.cli import context, log_output, terminal
from cumulus.cli.progress import Progress
from cumulus.errors import CumulusError, NoLog, NotFound
from cumulus.lib.returned import Returned
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.reasons import AttemptReason, JobCondition
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import Client

DETACHED = 130
"""Exit code of a client that left its job alone, or ended it."""
TIME_OVER, OUT_OF_MEMORY, NOT_STARTED = 124, 137, 126
"""As timeout(1), SIGKILL and a shell have them."""
AGAIN = 2.0
"""Seconds within which a second Ctrl-C ends the job."""
_QUIET = 1.0
"""Seconds for which nobody is told that a job waits: most start at once."""
_LOOK = 5.0
"""Seconds between two questions why it waits."""
_ENDING = 60.0
"""Seconds for which the end of a job is waited for."""

_CODES: dict[str, int] = {
    AttemptReason.LEASE_EXPIRED: TIME_OVER,
    AttemptReason.EXPIRED_BEFORE_START: TIME_OVER,
    AttemptReason.DEADLINE: TIME_OVER,
    AttemptReason.OOM_KILLED: OUT_OF_MEMORY,
    AttemptReason.OVERUSED: OUT_OF_MEMORY,
    AttemptReason.START_ERROR: NOT_STARTED,
    AttemptReason.START_REFUSED: NOT_STARTED,
}
_WORDS: dict[str, str] = {
    AttemptReason.LEASE_EXPIRED: "its lease of {duration} is over; `cumulus run --for` asks for a longer one",
    AttemptReason.DEADLINE: "spec.activeDeadline is over",
    AttemptReason.OOM_KILLED: "it used more memory than it may: {message}",
    AttemptReason.OVERUSED: "{message}: ask for more with `cumulus run --gpu`, or for less in the program",
    AttemptReason.START_ERROR: "it could not be started: {message}",
    AttemptReason.START_REFUSED: "it cannot be started: {message}",
}


class JobEnding(NamedTuple):
    """How a job that is over ended: the exit code, and a line where the code does not say it all."""

    code: int
    line: str = ""


def outcome(job: Document) -> JobEnding:
    """Of a job that is over."""
    ended = [a for a in lookup(job, "status.attempts") or () if a.get("endTime")]
    last = ended[-1] if ended else {}
    reason, message = last.get("reason") or "", last.get("message") or ""
    code = int(last.get("exitCode") or 0)
    if condition(job, JobCondition.SUCCEEDED).get("status") == "True":
        return JobEnding(0)
    if reason in _CODES:
        duration = lookup(job, "spec.gpu.duration")
        said = _WORDS.get(reason, "{message}").format(duration=duration, message=message)
        return JobEnding(_CODES[reason], said)
    if reason == AttemptReason.ERROR and code and message in ("", f"ended with exit code {code}"):
        return JobEnding(code)
    if not reason:
        failed = condition(job, JobCondition.FAILED)
        reason, message = failed.get("reason") or "Failed", failed.get("message") or ""
    return JobEnding(code or 1, f"{reason}: {message}" if message else reason)


def waiting(lines: Sequence[str]) -> str:
    """What `why` says of a job that waits, in one line: when it starts, its place, and who holds what it waits for."""
    headline, *rest = lines
    place = [line for line in rest if line.startswith("place ")]
    after = itertools.dropwhile(lambda line: line != "waits for:", rest)
    holders = [line.strip() for line in itertools.takewhile(lambda line: line.startswith("  "), [*after][1:])]
    held = [f"waits for {holders[0]}", *([f"and {len(holders) - 1} more"] if holders[1:] else [])] if holders else []
    return "; ".join([headline.rstrip("."), *place, *held])


def attach(key: Key, uid: str, *, tail: int | None = None, leaving: Callable[[], str] = str) -> int:
    """Show the log of the job's last attempt, or its last lines, and of those that follow, until the job is over. The
    exit code of its program, or one that says how else it ended; DETACHED after Ctrl-C. `leaving`: a sentence on what
    comes of the job then, where it does not just go on."""
    try:
        with context.client() as client:
            return _Follower(client, key, uid).follow(tail)
    except KeyboardInterrupt:
        return interrupted(key, uid, leaving())
    except (OSError, CumulusError) as error:
        if not isinstance(error, NotFound) and not _is_over(key, uid):
            terminal.note(_ways_back(key))
        raise


class _Follower:
    """Writes bytes to stdout; what is waited for, and how attempts and the job ended, to stderr."""

    def __init__(self, client: Client, key: Key, uid: str) -> None:
        self._client = client
        self._key = key
        self._uid = uid
        self._title = f"gpujob/{key.name}"
        self._output = log_output.LogOutput(sys.stdout)
        self._progress = Progress()
        self._asked = time.monotonic() + _QUIET - _LOOK
        self._ended: AttemptEnded | None = None

    def follow(self, tail: int | None) -> int:
        """Raises NotFound where the job is gone, CumulusError where nobody keeps it up to date."""
        pieces = Returned(self._client.logs(self._key, follow=True, tail=tail))
        # Loaded once there is something to read, as the backend loads it too.
        from cumulus import log

        log.silence()
        unread: NoLog | None = None
        try:
            for piece in pieces:
                self._show(piece)
        except NoLog as error:
            # It never started, or is gone: the job itself says which.
            unread = error
        finally:
            self._output.end()
            self._progress.end()
        return self._end(pieces.value, unread)

    def _end(self, job: Document | None, unread: NoLog | None) -> int:
        """`job` as the server told it at the end of the log, None where it did not."""
        if job is None or not BY_NAME[self._key.kind].over(job):
            try:
                job = self._client.get(self._key)
            except NotFound:
                job = None
        if job is None or job["metadata"]["uid"] != self._uid:
            raise NotFound(f"{self._title} was deleted")
        if not BY_NAME[self._key.kind].over(job):
            if unread is not None:
                raise unread
            raise CumulusError("no daemon runs that could tell how it ends", hint="start it again: cumulus serve")
        code, line = outcome(job)
        if line:
            terminal.note(f"{self._title}: {line}")
        return code

    def _show(self, piece: LogPiece) -> None:
        match piece:
            case LogBytes():
                if piece.data:
                    self._progress.end()
                    self._output.write(piece.data)
            case LogAwaits("start"):
                self._tell_of_end()
                self._tell_why()
            case AttemptEnded():
                # How the last one ended is how the job ended, which is told then.
                self._ended = piece
            case AttemptFollows(attempt):
                self._tell_of_end()
                self._note(f"Attempt {attempt} begins.")
            case ReplicaChosen(replica, replicas):
                self._note(
                    f"This is replica {replica} of {replicas}; another's log: "
                    f"cumulus logs -f {named(self._key)} --replica N"
                )
            case NobodyActs("start"):
                if not BY_NAME[self._key.kind].over(self._client.get(self._key)):
                    self._note("No daemon runs: it starts once `cumulus serve` is started.")
            case LogAwaits() | NobodyActs() | NoneFollowed() | NothingWritten():
                pass

    def _tell_of_end(self) -> None:
        if self._ended is not None:
            self._note(f"Attempt {self._ended.attempt} ended with {self._ended.end.rstrip('.')}.")
            self._ended = None

    def _tell_why(self) -> None:
        now = time.monotonic()
        if now < self._asked + _LOOK:
            return
        self._asked = now
        answer = self._client.why(self._key)
        self._progress.say(waiting(answer.lines))

    def _note(self, text: str) -> None:
        self._output.end()
        self._progress.end()
        terminal.note(text)


def interrupted(key: Key, uid: str, said: str = "") -> int:
    """Leave the job alone, or end it where Ctrl-C comes again. `said`: one sentence more."""
    try:
        if sys.stderr.isatty():
            terminal.note("")  # Behind the terminal's ^C.
        more = f" {said}" if said else ""
        terminal.note(f"{_ways_back(key)}{more} Ctrl-C once more within {AGAIN:g} s ends the job.")
        time.sleep(AGAIN)
    except KeyboardInterrupt:
        _end_job(key, uid)
    return DETACHED


def _is_over(key: Key, uid: str) -> bool:
    """False also where nobody can be asked."""
    try:
        with context.client(quiet=True) as client:
            job = client.get(key)
    except NotFound:
        return True
    except CumulusError:
        return False
    return job["metadata"]["uid"] != uid or BY_NAME[key.kind].over(job)


def _end_job(key: Key, uid: str) -> None:
    terminal.note(f"Ending gpujob/{key.name}, whose log goes with it.")
    with context.client() as client:
        client.delete(key, uid=uid)
        for _ in client.wait((key,), "delete", seconds=_ENDING, uids={key: uid}):
            pass
    terminal.note(f"gpujob/{key.name} has ended.")


def _ways_back(key: Key) -> str:
    job = named(key)
    return (
        f"gpujob/{key.name} goes on without this terminal. Come back: cumulus attach {job}, or cumulus logs -f {job}. "
        f"End it: cumulus delete job {job}."
    )


def named(key: Key) -> str:
    """The job as a command takes it."""
    return key.name if key.namespace == context.namespace() else f"{key.name} -n {key.namespace}"
