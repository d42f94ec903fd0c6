"""Several logs at once on their way to stdout: each line says where it is from.

A pipe gets each line's bytes as the job wrote them. A terminal gets of each line what a terminal would show of it in
the end: a progress bar that overwrites itself is one line. One that goes on is shown now and then.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TextIO

from cumulus.answers.logs import AttemptEnded, AttemptFollows, LogBytes, LogPiece, NoneFollowed, NothingWritten
from cumulus.cli import terminal
from cumulus.errors import CumulusError
from cumulus.lib import safe_output
from cumulus.lib.screen import Screen

_COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
_LONGEST_LINE = 64 * 1024
"""Bytes after which a line that does not end is broken."""
_PROGRESS_SECONDS = 2.0
"""How often a line that goes on overwriting itself is shown on a terminal."""
_WAITING = 1000
"""Pieces that are held for the terminal, before who reads the logs waits."""


class LogSource(NamedTuple):
    """One log: how it is called, and what opens it."""

    name: str
    open: Callable[[], Iterator[LogPiece]]


def show(sources: Sequence[LogSource], out: TextIO, *, follow: bool) -> int:
    """Write them all, with `follow` at the same time; the exit code: 1 where one of them could not be read."""
    width = max((len(source.name) for source in sources), default=0)
    streams = [_Stream(source.name.ljust(width), out, _COLOURS[i % len(_COLOURS)]) for i, source in enumerate(sources)]
    code = 0
    for number, piece in _together(sources) if follow else _one_by_one(sources):
        stream = streams[number]
        if isinstance(piece, CumulusError):
            terminal.error(piece)
            code = 1
        elif isinstance(piece, LogBytes):
            stream.write(piece.data)
        elif piece is not None:
            stream.end()
            if said := words(piece):
                terminal.note(f"{sources[number].name}: {said}")
        else:
            stream.end()
    return code


_Item = tuple[int, LogPiece | CumulusError | None]
"""The number of a source, and its next piece; None is its end."""


def _pieces(number: int, source: LogSource) -> Iterator[_Item]:
    try:
        for piece in source.open():
            yield number, piece
    except CumulusError as error:
        yield number, error
    yield number, None


def _one_by_one(sources: Sequence[LogSource]) -> Iterator[_Item]:
    for number, source in enumerate(sources):
        yield from _pieces(number, source)


def _together(sources: Sequence[LogSource]) -> Iterator[_Item]:
    items: queue.Queue[_Item | BaseException] = queue.Queue(_WAITING)

    def read(number: int, source: LogSource) -> None:
        try:
            for item in _pieces(number, source):
                items.put(item)
        except BaseException as error:
            items.put(error)

    for number, source in enumerate(sources):
        threading.Thread(target=read, args=(number, source), daemon=True).start()
    left = len(sources)
    while left:
        item = items.get()
        if isinstance(item, BaseException):
            raise item
        left -= item[1] is None
        yield item


def words(piece: LogPiece) -> str:
    """What is told of a piece that is none of the log, as a clause; "" where that is nothing."""
    match piece:
        case AttemptFollows(attempt):
            return f"attempt {attempt} begins"
        case AttemptEnded(attempt, end, wrote=False):
            return f"attempt {attempt} wrote nothing; it ended with {end.rstrip('.')}"
        case AttemptEnded(attempt, end):
            return f"attempt {attempt} ended with {end.rstrip('.')}"
        case NothingWritten(attempt):
            return f"attempt {attempt} has written nothing so far"
        case NoneFollowed(state):
            return f"no attempt followed: {state}"
    return ""


class _Stream:
    def __init__(self, name: str, out: TextIO, colour: str) -> None:
        self._out = out
        self._prefix = f"{name} | "
        self._colour = colour if safe_output.colours(out) else ""
        self._held = b""
        self._shown = time.monotonic()

    def write(self, data: bytes) -> None:
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._held) > _LONGEST_LINE:
            self.end()
        elif self._out.isatty() and b"\r" in self._held and time.monotonic() - self._shown > _PROGRESS_SECONDS:
            # What is behind the last carriage return may not be whole.
            before, _, self._held = self._held.rpartition(b"\r")
            self._line(before)

    def end(self) -> None:
        """What is held has no line break: something else comes before it goes on, or it ends here."""
        if self._held:
            rest, self._held = self._held, b""
            self._line(rest)

    def _line(self, line: bytes) -> None:
        self._shown = time.monotonic()
        prefix = f"\x1b[{self._colour}m{self._prefix}\x1b[0m" if self._colour else self._prefix
        if self._out.isatty():
            screen = Screen()
            line = screen.feed(line.rstrip(b"\r").rpartition(b"\r")[2]) + screen.end()
        self._out.buffer.write(prefix.encode() + line + b"\n")
        self._out.buffer.flush()
