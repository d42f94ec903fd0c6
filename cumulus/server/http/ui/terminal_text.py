"""What a program wrote for a terminal, as lines of coloured text. Nothing but colours and the return of the carriage is
obeyed; whatever else a program wrote is left out or shown.

    b"\\x1b[31mbad\\x1b[0m\\n 10%\\r100%"  ->  lines [[("fg1", "bad")]], partial [("", "100%")]
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cumulus.lib import printable

LONGEST = 8000
"""Characters of a line that are shown."""
StyledLine = Sequence[tuple[str, str]]
"""Pieces of text, each with the names of its classes: fg0 to fg15, bg0 to bg15, bold, dim, italic, under."""

# Colours; any other control sequence; strings that end with a bell or ST; other escapes; an escape that was cut off.
_PIECES = re.compile(
    r"\x1b\[(?P<sgr>[0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|\x1b"
)
_CUT = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?\Z")
_LONGEST_ESCAPE = 4096
_FLAGS = {1: "bold", 2: "dim", 3: "italic", 4: "under", 7: "inverse"}


class TerminalText:
    """Of one stream of bytes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        """What was written of the last line, as it came."""
        self._before = _Style()
        """The style at the beginning of that line."""

    def feed(self, data: bytes) -> list[StyledLine]:
        """The lines that end in it."""
        whole = self._rest + self._decoder.decode(data)
        *lines, self._rest = whole.split("\n")
        shown: list[StyledLine] = []
        for line in lines:
            made, self._before = _line(line.removesuffix("\r"), self._before)
            shown.append(made)
        if len(self._rest) > 4 * LONGEST:
            # A program that never ends its line, as one that draws a bar: what it drew last counts.
            self._rest = self._rest[-2 * LONGEST :]
        return shown

    def partial(self, *, end: bool = False) -> StyledLine:
        """The last line, as far as it was written. `end`: nothing comes after it."""
        visible = self._rest
        if not end and (cut := _CUT.search(visible)) and len(cut.group()) < _LONGEST_ESCAPE:
            visible = visible[: cut.start()]
        return _line(visible.removesuffix("\r"), self._before)[0] if visible else []


def alone(data: bytes) -> StyledLine:
    """One line by itself, in none of the colours that lines before it hand on."""
    text = data.removesuffix(b"\n").removesuffix(b"\r").decode(errors="replace")
    return _line(text, _Style())[0]


class _Style(NamedTuple):
    foreground: str = ""
    background: str = ""
    flags: frozenset[str] = frozenset()

    @property
    def classes(self) -> str:
        return " ".join(filter(None, (self.foreground, self.background, *sorted(self.flags))))

    def after(self, codes: str) -> _Style:
        """The style after `ESC [ codes m`."""
        numbers = [int(each) if each.isdigit() and len(each) < 4 else 0 for each in re.split("[;:]", codes)]
        style, at = self, 0
        while at < len(numbers):
            number = numbers[at]
            if number in (38, 48):
                kind = numbers[at + 1] if at + 1 < len(numbers) else 0
                name = _palette(numbers[at + 2]) if kind == 5 and at + 2 < len(numbers) else ""
                if name and number == 38:
                    style = style._replace(foreground=f"fg{name}")
                elif name:
                    style = style._replace(background=f"bg{name}")
                at += 3 if kind == 5 else 5 if kind == 2 else 2
                continue
            style = style._with(number)
            at += 1
        return style

    def _with(self, number: int) -> _Style:
        if number == 0:
            return _Style()
        if number in _FLAGS:
            return self._replace(flags=self.flags | {_FLAGS[number]})
        if number == 22:
            return self._replace(flags=self.flags - {"bold", "dim"})
        if number - 20 in _FLAGS:
            return self._replace(flags=self.flags - {_FLAGS[number - 20]})
        if 30 <= number <= 37 or 90 <= number <= 97:
            return self._replace(foreground=f"fg{number - 30 if number < 90 else number - 82}")
        if 40 <= number <= 47 or 100 <= number <= 107:
            return self._replace(background=f"bg{number - 40 if number < 100 else number - 92}")
        if number == 39:
            return self._replace(foreground="")
        return self._replace(background="") if number == 49 else self


def _palette(number: int) -> str:
    """Of 256 colours we have 16; of the others none is shown."""
    return str(number) if number < 16 else ""


def _line(text: str, before: _Style) -> tuple[StyledLine, _Style]:
    """One line, which began in the style `before`, and the style after it. What comes after a carriage return takes the
    place of what was there."""
    cells: list[tuple[str, str]] = []
    at = 0
    if len(text) > 4 * LONGEST:
        # No more than this is looked at, whatever a program writes: of a bar that is drawn anew again, the end.
        text = text[-2 * LONGEST :] if "\r" in text else text[: 2 * LONGEST]
    for piece, style in _styled(text, before):
        if piece == "\r":
            at = 0
            continue
        if piece == "\b":
            at = max(0, at - 1)
            continue
        classes = style.classes
        for char in printable.one_line(piece.replace("\t", "    ")):
            if at >= LONGEST:
                break
            if at < len(cells):
                cells[at] = classes, char
            else:
                cells.append((classes, char))
            at += 1
    return _joined(cells), style


def _styled(text: str, style: _Style) -> Iterator[tuple[str, _Style]]:
    """Its pieces, each with its style; \\r and \\b alone."""
    last = 0
    for found in _PIECES.finditer(text):
        yield from ((piece, style) for piece in _moves(text[last : found.start()]))
        if found.group("sgr") is not None:
            style = style.after(found.group("sgr"))
        last = found.end()
    yield from ((piece, style) for piece in _moves(text[last:]))
    # What ends in a colour hands it on.
    yield "", style


def _moves(text: str) -> list[str]:
    return [piece for piece in re.split("([\r\b])", text) if piece]


def _joined(cells: Sequence[tuple[str, str]]) -> StyledLine:
    made: list[tuple[str, str]] = []
    for classes, char in cells:
        if made and made[-1][0] == classes:
            made[-1] = classes, made[-1][1] + char
        else:
            made.append((classes, char))
    return made
