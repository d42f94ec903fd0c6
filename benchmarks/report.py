"""The table of docs/performance.md. The text around them is kept between runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import plot
from benchmarks.harness import Failed, LeftOut, Result, machine

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


def shown(results: Iterable[Result]) -> int:
    """Print results as they come; the exit code: 1 where a goal was missed."""
    missed = False
    for result in results:
        print(line(result), flush=True)
        missed |= not isinstance(result, LeftOut) and not result.met
    return int(missed)


def write(docs: Path, results: Sequence[Result]) -> None:
    """Put the results between the marks of performance.md and draw performance.svg beside it."""
    page = docs / "performance.md"
    text = page.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}{BEGIN}\n{_table(results)}\n{after}")
    draw(docs)


def draw(docs: Path) -> None:
    """Draw performance.svg from the table of performance.md."""
    (docs / "performance.svg").write_text(plot.draw(measured(docs)))


def measured(docs: Path) -> str:
    """What stands between the marks of performance.md."""
    text = (docs / "performance.md").read_text()
    return text[text.index(BEGIN) : text.index(END)]


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
