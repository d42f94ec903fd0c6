"""The plot of docs/performance.md, drawn from its table: how far each figure is from its goal, and against whom."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import NamedTuple
from xml.sax.saxutils import escape

_LABEL, _BAR, _END = 640, 340, 60
"""Widths of the parts of a row, in pixels."""
_CHARACTERS = 90
"""Of a line of the label. Sans-serif letters of 12 pixels are 6.3 pixels wide on average, in wide fonts 6.9."""
_LINE, _GAP, _TOP = 15, 9, 46
_MOST = 8.0
_GOOD, _BAD = "#2a7f62", "#b3392f"


class Figure(NamedTuple):
    """A row of the table that has a goal to be measured by."""

    what: str
    against: str
    factor: float
    """At least 1 where the goal is met."""
    met: bool


def figures(table: str) -> Iterator[Figure]:
    """Those of the table, as `report` writes it."""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 6 or not cells[3].replace(".", "").isdigit():
            continue
        what, ours, peer, ratio, goal, verdict = cells
        factor = _factor(float(ratio), goal)
        if factor is not None:
            yield Figure(what, f"{ours} against {peer}: {ratio}, goal {goal}", factor, verdict == "met")


def _factor(ratio: float, goal: str) -> float | None:
    """None for rows without a bound to divide by."""
    if goal.startswith("at least "):
        return ratio / float(goal.removeprefix("at least "))
    if goal.startswith("at most ") and ratio > 0:
        return float(goal.removeprefix("at most ")) / ratio
    return None


def draw(table: str) -> str:
    """An SVG with a bar for each figure, from the left; what passes the line is better than asked for."""
    body: list[str] = []
    y = _TOP
    for figure in figures(table):
        label = textwrap.wrap(figure.what, _CHARACTERS)
        against = textwrap.wrap(figure.against, _CHARACTERS)
        for number, (text, colour) in enumerate([*((t, "black") for t in label), *((t, "#666") for t in against)]):
            body.append(f'<text x="10" y="{y + 12 + number * _LINE}" fill="{colour}">{escape(text)}</text>')
        length = min(figure.factor, _MOST) / _MOST * _BAR
        body.append(
            f'<rect x="{_LABEL}" y="{y}" width="{length:.0f}" height="18" fill="{_GOOD if figure.met else _BAD}"/>'
        )
        body.append(f'<text x="{_LABEL + length + 6:.0f}" y="{y + 13}">{figure.factor:.1f}</text>')
        y += (len(label) + len(against)) * _LINE + _GAP
    goal = _LABEL + _BAR / _MOST
    return (
        "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL + _BAR + _END}" height="{y}" '
                'font-family="sans-serif" font-size="12">',
                '<rect width="100%" height="100%" fill="white"/>',
                f'<text x="{_LABEL}" y="18">how many times better than its goal (1: just met;</text>',
                f'<text x="{_LABEL}" y="33">green: met, red: missed; bars end at {_MOST:g})</text>',
                *body,
                f'<line x1="{goal:g}" y1="{_TOP - 6}" x2="{goal:g}" y2="{y - _GAP}" stroke="black"/>',
                "</svg>",
            ]
        )
        + "\n"
    )
