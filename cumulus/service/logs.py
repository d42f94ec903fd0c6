"""What a job's replica wrote, from the backend that ran it: attempt after attempt, and how each ended."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import NamedTuple

from cumulus.answers.logs import (
    AttemptEnded,
    AttemptFollows,
    Awaited,
    LogAwaits,
    LogBytes,
    LogPiece,
    NobodyActs,
    NoneFollowed,
    NothingWritten,
    ReplicaChosen,
)
from cumulus.errors import NoLog, NotFound, UsageError
from cumulus.resources import reruns
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.reasons import AttemptReason
from cumulus.resources.registry import BY_NAME
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.infrastructure import LogReaders
from cumulus.service.objects import Objects
from cumulus.service.replicas import replicas_of
from cumulus.service.wait_conditions import phase_summary

_PATIENCE = 2.0
"""Seconds for the controllers to write down that an attempt ended; a missing daemon does not. Who reads hears so often
that the log goes on."""


class _Wanted(NamedTuple):
    """Which lines, and how: see `Logs.read`."""

    tail: int | None
    since: float | None
    timestamps: bool
    position: int | None

    @property
    def all_lines(self) -> bool:
        """Whether nothing to show means that nothing was written."""
        return self.tail != 0 and self.since is None and not self.position

    @property
    def of_the_next_attempt(self) -> _Wanted:
        return self._replace(tail=None, position=None if self.position is None else 0)


class Logs:
    """`readers` open the log of a job on a node; `served` tells whether a daemon runs."""

    def __init__(self, access: Access, objects: Objects, readers: LogReaders, served: Callable[[], bool]) -> None:
        self._access = access
        self._objects = objects
        self._readers = readers
        self._served = served

    def read(
        self, identity: Identity, key: Key, *,
        attempt: int = 0, replica: int | None = None, follow: bool = False, tail: int | None = None,
        since: float | None = None, timestamps: bool = False, skip: int = 0, onwards: bool = False,
        position: int | None = None, run: int = 0,
    ) -> Generator[LogPiece, None, Document | None]:  # fmt: skip
        """The log of one attempt, the last where `attempt` is 0; with `follow` also of those that come after it, until
        the job is over. `tail`: only the last lines of the first. `since`: only lines that were begun then or later,
        in seconds since 1970. `timestamps`: each line begins with its time, to the second. Where nothing is new an
        empty `LogBytes` comes, so that the caller can stop.

        `run`: of the run of that number, of which reruns keep the logs; the last where it is 0.

        For who was cut off: `skip` leaves out the first bytes of the first attempt, and with `onwards` the attempts
        after a given `attempt` are followed too. `position`: from that byte of the first attempt's whole log on, and
        with each piece where it goes on; that is right also where bytes are dropped meanwhile. `tail`, `since` and
        `timestamps` don't go with it.

        With `follow` the generator returns the job as it was at the end, so that nobody need ask for it.

        Raises NotFound, and UsageError for a replica that there is not. The iterator raises NoLog where there is
        nothing to show, UsageError where an older version wrote the log without times.
        """
        if not BY_NAME[key.kind].leaves_files:
            raise UsageError(f"only jobs have logs, not a {key.kind}")
        self._access.check(identity, "get", "gpujobs/log", key.namespace, key.name)
        job = _of_run(self._objects.get(identity, key), run, follow=follow)
        replicas = replicas_of(job, replica)
        wanted = _Wanted(tail, since, timestamps, position)
        return self._pieces(identity, key, job, attempt, replica, replicas, follow, wanted, skip, onwards)

    def _pieces(
        self, identity: Identity, key: Key, job: Document, attempt: int,
        replica: int | None, replicas: int, follow: bool, wanted: _Wanted, skip: int, onwards: bool,
    ) -> Generator[LogPiece, None, Document | None]:  # fmt: skip
        if replica is None and replicas > 1:
            yield ReplicaChosen(0, replicas)
        if follow:
            follower = _Follower(self._objects, self._readers, self._served, identity, key, job, replica or 0)
            yield from follower.pieces(attempt, wanted, skip, onwards)
            return follower.job
        number = _shown_attempt(job, attempt)
        for shown in [number, *(later for later in _begun(job) if onwards and later > number)]:
            wrote = yield from _copied(self._readers, job, shown, replica or 0, follow=False, wanted=wanted, skip=skip)
            if not wrote and wanted.all_lines:
                yield _silence(job, shown)
            wanted, skip = wanted.of_the_next_attempt, 0
        return None


class _Follower:
    """The log of one attempt after another, until the job is over."""

    def __init__(
        self, objects: Objects, readers: LogReaders, served: Callable[[], bool],
        identity: Identity, key: Key, job: Document, replica: int,
    ) -> None:  # fmt: skip
        self._objects = objects
        self._readers = readers
        self._served = served
        self._identity = identity
        self._key = key
        self.job = job
        self._replica = replica

    def pieces(self, asked: int, wanted: _Wanted, skip: int, onwards: bool) -> Iterator[LogPiece]:
        """Of the attempt `asked` alone; where that is 0, of the last one and all that follow it. Raises NoLog."""
        if not _begun(self.job):
            if not self._served():
                yield NobodyActs("start")
            yield from self._until(partial(self._followed, 0), "start")
        number = _shown_attempt(self.job, asked)
        asked = 0 if onwards else asked
        while True:
            wrote = yield from _copied(
                self._readers, self.job, number, self._replica, follow=True, wanted=wanted, skip=skip
            )
            skip = 0
            come = yield from self._until(partial(self._ended, number), "end")
            if not come:
                yield NobodyActs("end")
                return
            if not wrote and wanted.all_lines:
                yield _silence(self.job, number)
            elif (ended := _attempt(self.job, number)).get("reason") != AttemptReason.COMPLETED:
                yield AttemptEnded(number, _end(ended), wrote=True)
            if asked or (_over(self.job) and not self._later(number)):
                return
            yield from self._until(partial(self._followed, number), "start")
            later = self._later(number)
            if not later:
                yield NoneFollowed(phase_summary(self.job))
                return
            number, wanted = later[0], wanted.of_the_next_attempt
            yield AttemptFollows(number)

    def _later(self, number: int) -> list[int]:
        return [begun for begun in _begun(self.job) if begun > number]

    def _followed(self, number: int) -> bool:
        return bool(self._later(number)) or _over(self.job)

    def _ended(self, number: int) -> bool:
        attempt = _attempt(self.job, number)
        return not attempt or bool(attempt.get("endTime")) or _over(self.job)

    def _until(self, come: Callable[[], bool], what: Awaited) -> Generator[LogPiece, None, bool]:
        """Follow the job until `come` is true. False where that an attempt ended is waited for, and no daemon is there
        to tell it. Raises NoLog where the job is deleted."""
        since = self._objects.revision(self._identity)
        watch = self._objects.follow(self._identity, self._key, since=since)
        try:
            self._see(self._read())
            while not come():
                if what == "start":
                    yield LogAwaits(what, phase_summary(self.job))
                events = watch.next(timeout=_PATIENCE)
                for event in events:
                    if event.key == self._key:
                        self._see(None if event.type == "DELETED" else event.document)
                if events or what == "start":
                    continue
                if not self._served():
                    return False
                # Other replicas of the gang may go on for long.
                yield LogAwaits(what, phase_summary(self.job))
            return True
        finally:
            watch.close()

    def _read(self) -> Document | None:
        try:
            return self._objects.get(self._identity, self._key)
        except NotFound:
            return None

    def _see(self, job: Document | None) -> None:
        if job is None or job["metadata"]["uid"] != self.job["metadata"]["uid"]:
            anew = job is not None and self.job["metadata"]["uid"] in reruns.uids(job)
            raise NoLog(f"gpujob/{self._key.name} was {'made anew by a rerun' if anew else 'deleted'}")
        self.job = job


def _of_run(job: Document, run: int, *, follow: bool) -> Document:
    """The job as it was in that run. Raises NoLog, UsageError."""
    now = reruns.run_number(job)
    if run in (0, now):
        return job
    name = f"gpujob/{job['metadata']['name']}"
    found = reruns.as_it_was(job, run)
    if found is None:
        known = ", ".join(str(number) for number in (*(each["number"] for each in reruns.kept(job)), now))
        raise NoLog(f"there is no log of run {run} of {name}", hint=f"the runs that can be read are {known}")
    if follow:
        raise UsageError(f"run {run} of {name} is over: nothing follows", hint="leave -f out")
    return found


def _copied(
    readers: LogReaders, job: Document, attempt: int, replica: int, *, follow: bool, wanted: _Wanted, skip: int = 0
) -> Generator[LogPiece, None, bool]:
    """The bytes of one attempt; whether there were any."""
    reader = readers(job, _node(job, attempt, replica))
    wrote, position = skip > 0, wanted.position
    try:
        for chunk in reader.logs(job["metadata"]["uid"], attempt, replica, follow=follow, **wanted._asdict()):
            if position is not None:
                # Of a gap in the log: see `backends.logs.Gap`.
                dropped = getattr(chunk, "dropped", 0)
                position += dropped or len(chunk)
                wrote = wrote or bool(chunk)
                yield LogBytes(attempt, b"" if dropped else chunk, position, dropped)
                continue
            known = min(skip, len(chunk))
            skip -= known
            wrote = wrote or bool(chunk)
            yield LogBytes(attempt, chunk[known:])
        return wrote
    finally:
        reader.close()


def _begun(job: Document) -> list[int]:
    """The numbers of the attempts that have a process, as far as the status remembers."""
    return [a["number"] for a in lookup(job, "status.attempts") or () if a.get("startTime")]


def _shown_attempt(job: Document, asked: int) -> int:
    """The attempt to show. Raises NoLog, with why there is none."""
    begun = _begun(job)
    name = f"gpujob/{job['metadata']['name']}"
    if not begun and _over(job):
        raise NoLog(f"{name} never started: {_why_not(job)}")
    if not begun:
        raise NoLog(
            f"{name} has not started yet: {phase_summary(job)}",
            hint=f"see `cumulus why {job['metadata']['name']}`",
        )
    if asked > begun[-1]:
        raise NoLog(f"{name} has started {begun[-1]} attempts: there is no log of an attempt {asked}")
    if asked and asked not in begun and (attempt := _attempt(job, asked)):
        raise NoLog(f"attempt {asked} of {name} never started: {_end(attempt)}")
    return asked or begun[-1]


def _why_not(job: Document) -> str:
    """Why a job that is over never started: how its last attempt ended, or what its condition says."""
    ended = [a for a in lookup(job, "status.attempts") or () if a.get("endTime")]
    return f"attempt {ended[-1]['number']} ended with {_end(ended[-1])}" if ended else phase_summary(job)


def _over(job: Document) -> bool:
    return BY_NAME[job["kind"]].over(job)


def _attempt(job: Document, number: int) -> Document:
    """The attempt, empty where the status has forgotten it."""
    return next((dict(a) for a in lookup(job, "status.attempts") or () if a.get("number") == number), {})


def _end(attempt: Document) -> str:
    """How it ended: `Error, exit code 3`, `StartError: there is no program tarin`."""
    code, message = attempt.get("exitCode"), attempt.get("message")
    said = (attempt.get("reason") or "no reason") + (f", exit code {code}" if code else "")
    return f"{said}: {message}" if message and message != f"ended with exit code {code}" else said


def _silence(job: Document, number: int) -> LogPiece:
    attempt = _attempt(job, number)
    return AttemptEnded(number, _end(attempt), wrote=False) if attempt.get("endTime") else NothingWritten(number)


def _node(job: Document, attempt: int, replica: int) -> str:
    """Where the replica ran, "" where the status has forgotten it."""
    made = _attempt(job, attempt)
    nodes = made.get("nodes") or [made.get("node", "")]
    return str(nodes[min(replica, len(nodes) - 1)])
