"""Tables as kubectl prints them: a header, columns three spaces apart, no lines. Standard library only.

A pipe gets every column whole. On a terminal that is too narrow, columns give way in the order that their headings
say: first they are shortened, then left out, with a note that names them. What a person copies (names) or must not
miss (phases, reasons) is never cut, and the heading never runs into a second line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from cumulus.lib import printable, safe_output

GAP, NARROW_GAP = "   ", "  "
Fit = Literal["whole", "cut", "wrap"]
_LEAST = {"cut": 14, "wrap": 24}
"""Columns below which a cell is not shortened, or broken into shorter lines."""
_WRAP_FIRST = 40
"""Text is broken into lines of so many columns before anything is cut."""
_GOOD = frozenset({"Running", "Succeeded", "Active", "Ready", "True", "OK"})
_BUSY = frozenset((
    "Pending", "Scheduled", "Bound", "Checkpointing", "Suspended", "Parked", "Unparking", "Unknown", "Warning", "WARN",
))  # fmt: skip
_BAD = frozenset({"Failed", "NotReady", "FAIL"})


@dataclass(frozen=True, slots=True)
class Heading:
    """A column's title, and what becomes of the column where there is no room.

    `fit`: cells are shown whole always, cut with …, or broken into several lines. `yields`: 0 is never left out; of
    all others, the highest goes first.
    """

    title: str
    fit: Fit = "cut"
    yields: int = 0


class Table:
    """Rows written as they come. Widths are kept between batches, so that a watch's rows line up."""

    def __init__(
        self,
        headings: Sequence[Heading | str],
        out: TextIO,
        *,
        heading: bool = True,
        indent: str = "",
        room: int | None = None,
    ) -> None:
        """A title alone stands for a column that may be cut; NAME and NAMESPACE never are: people copy names. `room`:
        columns that there are; those of the terminal behind `out`, if not given, and then a note names what they have
        no room for."""
        self._headings = [_heading(given) for given in headings]
        self._out = out
        self._heading = heading
        self._indent = indent
        self._room = room
        self.left_out: list[str] = []
        """Titles for which there was no room."""
        self._widths = [printable.cells(h.title) if heading else 0 for h in self._headings]
        self._shown = list(range(len(self._headings)))
        self._begun = False

    def write(self, rows: Sequence[Sequence[str]]) -> None:
        """Write rows; the heading goes before the first."""
        clean = [[printable.one_line(cell) for cell in row] for row in rows]
        for row in clean:
            self._widths = [max(w, printable.cells(text)) for w, text in zip(self._widths, row, strict=True)]
        room = safe_output.width(self._out) if self._room is None else self._room
        if room is not None:
            room = max(room - len(self._indent), 1)
        if room is not None and not self._begun:
            self._leave_out(room)
        self._begun = True
        gap, widths = fit([self._headings[i] for i in self._shown], [self._widths[i] for i in self._shown], room)
        if self._heading:
            titles = [h.title for h in self._headings]
            self._line([(titles[i], safe_output.BOLD) for i in self._shown], widths, gap)
            self._heading = False
        for row in clean:
            self._row([row[i] for i in self._shown], widths, gap, cut=room is not None)
        self._out.flush()

    def _leave_out(self, room: int) -> None:
        left: list[int] = []
        while not self._fit(self._shown, room):
            first = max(self._shown, key=lambda i: self._headings[i].yields)
            if not self._headings[first].yields or len(self._shown) == 1:
                break
            self._shown.remove(first)
            left.append(first)
        for index in reversed(left):
            # Beside those that were larger there was no room for it.
            if self._fit(with_it := sorted([*self._shown, index]), room):
                self._shown = with_it
        self.left_out = [heading.title for i, heading in enumerate(self._headings) if i not in self._shown]
        if self.left_out and self._room is None:
            text = f"{names(self.left_out)} left out: no room here; `| less -S` shows all"
            safe_output.line(sys.stderr, (text, safe_output.DIM))

    def _fit(self, shown: Sequence[int], room: int) -> bool:
        return fits([self._headings[i] for i in shown], [self._widths[i] for i in shown], room)

    def _row(self, row: Sequence[str], widths: Sequence[int], gap: str, *, cut: bool) -> None:
        cells: list[list[str]] = []
        for index, text, width in zip(self._shown, row, widths, strict=True):
            fit = self._headings[index].fit if cut else "whole"
            if fit == "whole":
                cells.append([text])
            else:
                cells.append([printable.clip(text, width)] if fit == "cut" else printable.wrap(text, width))
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            self._line([(part, colour_of(part) if number == 0 else "") for part in parts], widths, gap)

    def _line(self, cells: Sequence[tuple[str, str]], widths: Sequence[int], gap: str) -> None:
        last = max((i for i, (text, _) in enumerate(cells) if text), default=-1)
        parts: list[safe_output.StyledPart] = [self._indent]
        for (text, colour), width in zip(cells[: last + 1], widths, strict=False):
            parts += [(text, colour), " " * (width - printable.cells(text)) + gap]
        # Nothing stands behind the last cell.
        safe_output.line(self._out, *parts[:-1])


def names(titles: Sequence[str]) -> str:
    """As in "A, B and C"."""
    return " and ".join(filter(None, (", ".join(titles[:-1]), titles[-1])))


def fits(headings: Sequence[Heading], widths: Sequence[int], room: int) -> bool:
    """Whether the columns fit, when each that may gives way as far as it can."""
    return sum(map(_floor, headings, widths)) + len(NARROW_GAP) * (len(headings) - 1) <= room


def fit(headings: Sequence[Heading], widths: Sequence[int], room: int | None) -> tuple[str, list[int]]:
    """The gap and the widths in which the columns fit: those that yield most are shortened first, and of those that
    yield the same the widest. Where even that is too wide, cells that are shown whole run over their column's edge."""
    fitted = list(widths)
    if room is None or sum(fitted) + len(GAP) * (len(fitted) - 1) <= room:
        return GAP, fitted
    # Cells may be huge; what is wider than the terminal is cut to that at once.
    fitted = [min(width, room) for width in widths]
    over = sum(fitted) + len(NARROW_GAP) * (len(fitted) - 1) - room
    text = {i: max(_WRAP_FIRST, _title(h, fitted[i])) for i, h in enumerate(headings) if h.fit == "wrap"}
    over = _shorten(fitted, text, over)
    for floor in (_floor, _title):
        for yields in sorted({h.yields for h in headings}, reverse=True):
            group = [i for i, h in enumerate(headings) if h.yields == yields]
            over = _shorten(fitted, {i: floor(headings[i], widths[i]) for i in group}, over)
    return NARROW_GAP, fitted


def _shorten(widths: list[int], floors: dict[int, int], over: int) -> int:
    """Take up to `over` columns away, always from the widest of those with a floor. What is left of `over`."""
    while over > 0:
        yielding = [i for i, floor in floors.items() if widths[i] > floor]
        if not yielding:
            break
        widths[max(yielding, key=lambda i: widths[i])] -= 1
        over -= 1
    return over


def _floor(heading: Heading, width: int) -> int:
    return width if heading.fit == "whole" else min(width, max(_title(heading, width), _LEAST[heading.fit]))


def _title(heading: Heading, width: int) -> int:
    return min(width, printable.cells(heading.title))


def _heading(given: Heading | str) -> Heading:
    if isinstance(given, Heading):
        return given
    return Heading(given, "whole" if given in ("NAME", "NAMESPACE") else "cut")


def colour_of(text: str) -> str:
    """The colour of a cell that says how something is; "" for all others."""
    word = text.partition(",")[0].partition(" ")[0]
    for words, code in ((_GOOD, safe_output.GREEN), (_BUSY, safe_output.YELLOW), (_BAD, safe_output.RED)):
        if word in words:
            return code
    return ""
