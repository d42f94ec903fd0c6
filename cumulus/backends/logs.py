"""`LogStore`: what backends and readers of logs ask of the place that keeps a run's log.

    the program's output -> LogWriter.append (secrets replaced) -> the store -> LogStore.read, LogStore.follow

A store keeps the beginning and the end of a log, which say how the program began and how it ended. Of a log that grows
longer than that it drops the middle, and a reader finds a line in its place that says how many bytes are missing.
Implemented by `rundir.log.FileLog`, files on this disk. Standard library only: each supervisor imports this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol


class LogRetention(NamedTuple):
    """How many bytes of a log are kept: of its beginning (`first`) and of its end (`last`)."""

    first: int = 8 * 2**20
    last: int = 56 * 2**20


DEFAULT_RETENTION = LogRetention()


class Gap(bytes):
    """The line that a reader finds in the place of bytes that were dropped: so many, `dropped`."""

    dropped = 0

    @classmethod
    def of(cls, size: int) -> Gap:
        made = cls(gap_line(size))
        made.dropped = size
        return made


def gap_line(size: int, why: str = "it passed its limit") -> bytes:
    return f"\n[cumulus: {size} bytes of the log were dropped here: {why}]\n".encode()


class LogWriter(Protocol):
    """Appends to one log. Never raises: a job goes on without its log, and `error` says what was lost."""

    error: str
    """Why something could not be written, for a person; "" where everything was."""

    @property
    def holding(self) -> bool:
        """Whether bytes are held back because they may be the beginning of a secret."""
        ...

    def append(self, data: bytes, at: float | None = None) -> None:
        """Add `data`, with the values of secrets replaced. What cannot be written is dropped, and a line says so. `at`:
        when the program wrote it, in seconds since 1970; now if left out."""
        ...

    def flush(self) -> None:
        """Write what is held back too: the program pauses, and readers should not wait for it."""
        ...

    def seal(self) -> None:
        """Write the rest and make the whole log durable. Nothing is appended after that."""
        ...


class LogStore(Protocol):
    """The log of one run. It has one writer and any number of readers, in other processes too."""

    def writer(self, secrets: Sequence[str] = ()) -> LogWriter:
        """Begins the log; for the one process that runs the program. `secrets` are values that must not be in it."""
        ...

    def read(
        self, *, tail: int | None = None, since: float | None = None, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """The log in chunks as it is now; nothing where nothing was written. Where bytes were dropped a chunk is a
        `Gap`, unless `timestamps` are asked for.

        `tail`: only its last lines, so many. `since`: only lines that were begun then or later, in seconds since 1970.
        `timestamps`: each line begins with when it was begun, to the second, as RFC 3339 has it. `position`: from that
        byte of the whole log on, counting those that were dropped. Raises UsageError where times are asked for of a log
        that has none: an older version wrote it.
        """
        ...

    def follow(
        self, ended: Callable[[], bool], wait: Callable[[], None], *,
        tail: int | None = None, since: float | None = None, timestamps: bool = False, position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """As `read`, then what is appended until `ended()`. `wait()` is called between two looks, after an empty chunk,
        at which a reader may stop. All that was appended before `ended()` became true is given; something is missed,
        and said to be, only where the program writes faster than the reader reads."""
        ...


class Stamper:
    """Puts the time before each line of what is fed in pieces."""

    def __init__(self) -> None:
        self._begins = True
        """Whether the next byte begins a line."""

    def feed(self, at: float, data: bytes) -> bytes:
        """`at`: when the piece was written, in seconds since 1970. A line has the time of its first piece."""
        if not data:
            return b""
        stamp = f"{datetime.fromtimestamp(int(at), UTC):%Y-%m-%dT%H:%M:%SZ} ".encode()
        stamped = data[:-1].replace(b"\n", b"\n" + stamp) + data[-1:]
        begins, self._begins = self._begins, data.endswith(b"\n")
        return stamp + stamped if begins else stamped
