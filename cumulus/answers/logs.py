"""What a job's log consists of on its way to who asked for it: bytes, and notes between them. The words are the
reader's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Awaited = Literal["start", "end"]
"""The next attempt's start, or that the controllers tell how an attempt ended."""


@dataclass(frozen=True, slots=True)
class LogBytes:
    """What the replica wrote next, as it wrote it."""

    attempt: int
    data: bytes


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
