"""Which lines of a whole log have some words. It is read in pieces and never held; one answer finds so many lines and
does so much work, and says from where on to search for more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cumulus.answers.logs import LogBytes, LogPiece
from cumulus.server.http.ui import terminal_text
from cumulus.server.http.ui.terminal_text import StyledLine

MOST_LINES = 500
"""That one answer has."""
MOST_WORK = 64 * 2**20
"""Bytes that are looked at for one answer. Those with control codes count `_DRAWN` times: they must be drawn first."""
_DRAWN = 32
_LONGEST = 2**16
"""Bytes of a line that are searched as one: what never ends is searched in parts."""
_CONTROL = re.compile(rb"[\x1b\r\b]")


@dataclass
class FoundLines:
    """`on`: attempt and position to search on from; None where the log is over."""

    lines: list[StyledLine] = field(default_factory=list)
    dropped: int = 0
    """Bytes in the middle of the log that were not kept."""
    on: tuple[int, int] | None = None


def search(pieces: Iterator[LogPiece], wanted: str) -> FoundLines:
    """The lines that have the words, in capitals or not. `pieces`: of a log that is read from a position on."""
    found, work, words = FoundLines(), MOST_WORK, wanted.lower()
    for attempt, position, block in _blocks(pieces, found):
        for line in _lines(block, words):
            if len(found.lines) == MOST_LINES or work <= 0:
                found.on = attempt, position
                return found
            position += len(line)
            shown = None
            if _CONTROL.search(line):
                work -= len(line) * _DRAWN
                shown = terminal_text.alone(line)
            work -= len(line)
            if words in (_text(line) if shown is None else "".join(text for _, text in shown).lower()):
                found.lines.append(terminal_text.alone(line) if shown is None else shown)
    return found


def _blocks(pieces: Iterator[LogPiece], found: FoundLines) -> Iterator[tuple[int, int, bytes]]:
    """Whole lines, many at once, with their attempt and the position where they begin."""
    attempt, position, rest = 0, 0, b""
    for piece in pieces:
        if not isinstance(piece, LogBytes):
            continue
        whole = rest + piece.data
        attempt, position = piece.attempt, piece.position - piece.dropped - len(whole)
        found.dropped += piece.dropped
        cut = whole.rfind(b"\n") + 1
        if piece.dropped or (not cut and len(whole) > _LONGEST):
            cut = len(whole)
        if cut:
            yield attempt, position, whole[:cut]
        position, rest = position + cut, whole[cut:]
    if rest:
        yield attempt, position, rest


def _lines(block: bytes, words: str) -> Sequence[bytes]:
    """Its lines; where none of them can have the words, all of it at once."""
    if not _CONTROL.search(block) and words not in _text(block):
        return [block]
    return re.findall(rb"[^\n]*\n|[^\n]+", block)


def _text(data: bytes) -> str:
    return data.decode(errors="replace").lower()
