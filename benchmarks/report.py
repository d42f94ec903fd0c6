"""The table and the plot of docs/performance.md. The text around them is kept between runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.harness import Failed, LeftOut, Result, Row, machine

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def line(result: Result) -> str:
    if isinstance(result, LeftOut):
        return f"LEFT OUT  {result.what}: {result.why}"
    if isinstance(result, Failed):
        return f"FAILED  {result.what}: {result.why}"
    verdict = {True: "met   ", False: "MISSED"}[result.met] if result.goal != "none" else "      "
    note = f" ({result.note})" if result.note else ""
    return (
        f"{verdict}  {result.what}: {result.ours} against {result.peer}: {result.ratio:.2f}, goal {result.goal}{note}"
    )


def write(docs: Path, results: Sequence[Result]) -> None:
    """Put the results between the marks of performance.md and draw performance.svg beside it."""
    (docs / "performance.svg").write_text(plot([r for r in results if isinstance(r, Row)]))
    page = docs / "performance.md"
    text = page.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}{BEGIN}\n{_table(results)}\n{after}")


def _table(results: Sequence[Result]) -> str:
    rows = [
        f"Measured on {machine()}.",
        "",
        "| what | Cumulus | against | ratio | goal | |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        if isinstance(result, LeftOut):
            rows.append(f"| {result.what} | | left out: {result.why} | | | |")
        elif isinstance(result, Failed):
            rows.append(f"| {result.what} | | {result.why} | | | **failed** |")
        else:
            verdict = "" if result.goal == "none" else "met" if result.met else "**missed**"
            what = f"{result.what} ({result.note})" if result.note else result.what
            rows.append(f"| {what} | {result.ours} | {result.peer} | {result.ratio:.2f} | {result.goal} | {verdict} |")
    return "\n".join(rows)


def plot(rows: Sequence[Row]) -> str:
    """How far each row is from its goal, as bars from the goal's line: to the right is better than asked for."""
    compared = [(row, factor) for row in rows if (factor := _better_by(row)) is not None]
    height, left, width = 26, 560, 360
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height * len(compared) + 50}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="20">how many times better than its goal (1: just met; the bars end at 8)</text>',
    ]
    for number, (row, factor) in enumerate(compared):
        y = 34 + number * height
        length = min(factor, 8) / 8 * width
        color = "#2a7f62" if row.met else "#b3392f"
        out.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(row.what[:92])}</text>')
        out.append(f'<rect x="{left}" y="{y}" width="{length:.0f}" height="{height - 8}" fill="{color}"/>')
        out.append(f'<text x="{left + length + 6:.0f}" y="{y + 14}">{factor:.1f}</text>')
    goal = left + width / 8
    out.append(f'<line x1="{goal}" y1="28" x2="{goal}" y2="{34 + height * len(compared)}" stroke="black"/>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _better_by(row: Row) -> float | None:
    """At least 1 when the goal is met; None for rows without a bound to divide by."""
    if row.goal.startswith("at least "):
        return row.ratio / float(row.goal.removeprefix("at least "))
    if row.goal.startswith("at most ") and row.ratio > 0:
        return float(row.goal.removeprefix("at most ")) / row.ratio
    return None
