"""What a job's log consists of on its way to who asked for it: bytes, and notes between them. The words are the
reader's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Awaited = Literal["start", "end"]
"""The next attempt's start, or that the controllers tell how an attempt ended."""


@dataclass(frozen=True, slots=True)
class LogBytes:
    """What the replica wrote next, as it wrote it. For who asked for the log from a position on: `position` is where
    it goes on after this, and `dropped` how many bytes before this were dropped, of which `data` says nothing then."""

    attempt: int
    data: bytes
    position: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaChosen:
    """The log is of this one of several replicas, since none was named."""

    replica: int
    replicas: int


@dataclass(frozen=True, slots=True)
class AttemptFollows:
    """The bytes after this are of another attempt than those before."""

    attempt: int


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """How it ended: `Error, exit code 3`. `wrote` is False where it wrote nothing."""

    attempt: int
    end: str
    wrote: bool


@dataclass(frozen=True, slots=True)
class NothingWritten:
    """So far, by an attempt that has not ended as far as is known."""

    attempt: int


@dataclass(frozen=True, slots=True)
class NoneFollowed:
    """The job is over without another attempt. `state`: how the job is."""

    state: str


@dataclass(frozen=True, slots=True)
class LogAwaits:
    """Nothing comes until then. `state`: how the job is."""

    what: Awaited
    state: str


@dataclass(frozen=True, slots=True)
class NobodyActs:
    """No daemon runs that could bring it about."""

    what: Awaited


LogPiece = (
    LogBytes | ReplicaChosen | AttemptFollows | AttemptEnded | NothingWritten | NoneFollowed | LogAwaits | NobodyActs
)
