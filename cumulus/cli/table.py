"""Tables as kubectl draws them: a heading, columns three spaces apart, no lines."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TextIO

from cumulus.cli import terminal

GAP = "   "
_GOOD = frozenset({"Running", "Succeeded", "Active", "Ready", "True", "OK"})
_BUSY = frozenset({"Pending", "Scheduled", "Bound", "Checkpointing", "Suspended", "Unknown", "Warning", "WARN"})
_BAD = frozenset({"Failed", "NotReady", "FAIL"})


class Table:
    """Rows written as they come. Widths are kept between batches, so that a watch's rows line up."""

    def __init__(self, titles: Sequence[str], out: TextIO, *, heading: bool = True) -> None:
        """A column titled NAME is never cut: people copy names."""
        self._titles = list(titles)
        self._out = out
        self._heading = heading
        self._widths = [0] * len(self._titles)
        self._whole = frozenset(i for i, title in enumerate(self._titles) if title in ("NAME", "NAMESPACE"))

    def write(self, rows: Sequence[Sequence[str]]) -> None:
        """Write rows; the heading goes before the first."""
        clean = [[terminal.one_line(cell) for cell in row] for row in rows]
        lines = [self._titles, *clean] if self._heading else clean
        for line in lines:
            self._widths = [max(w, cells(text)) for w, text in zip(self._widths, line, strict=True)]
        limit = terminal.width(self._out)
        widths = fit(self._widths, limit, self._whole)
        for number, line in enumerate(lines):
            style = self._heading and number == 0
            self._out.write(self._line(line, widths, limit, bold=style) + "\n")
        self._heading = False
        self._out.flush()

    def _line(self, line: Sequence[str], widths: Sequence[int], limit: int | None, *, bold: bool) -> str:
        cut = [clip(text, w) if limit else text for text, w in zip(line, widths, strict=True)]
        padding = [" " * (w - cells(text)) for text, w in zip(cut, widths, strict=True)]
        padding[-1] = ""
        painted = [terminal.paint(text, terminal.BOLD if bold else colour_of(text), self._out) for text in cut]
        return GAP.join(text + pad for text, pad in zip(painted, padding, strict=True)).rstrip()


def cells(text: str) -> int:
    """Terminal columns that `text` takes: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def clip(text: str, limit: int) -> str:
    """`text` in at most `limit` columns, with … where something was cut off."""
    if cells(text) <= limit:
        return text
    while text and cells(text) > limit - 1:
        text = text[:-1]
    return text + "…"


def fit(widths: Sequence[int], limit: int | None, whole: frozenset[int] = frozenset()) -> list[int]:
    """Widths that fit `limit` columns as far as they can: the widest gives way first, none below eight, those in
    `whole` never."""
    fitted = list(widths)
    yielding = [i for i in range(len(fitted)) if i not in whole]
    if limit is None or not yielding:
        return fitted
    over = sum(fitted) + len(GAP) * (len(fitted) - 1) - limit
    while over > 0:
        widest = max(yielding, key=lambda i: fitted[i])
        if fitted[widest] <= 8:
            break
        fitted[widest] -= 1
        over -= 1
    return fitted


def colour_of(text: str) -> str:
    """The colour of a cell that says how something is; "" for all others."""
    word = text.partition(",")[0].partition(" ")[0]
    for words, code in ((_GOOD, terminal.GREEN), (_BUSY, terminal.YELLOW), (_BAD, terminal.RED)):
        if word in words:
            return code
    return ""
