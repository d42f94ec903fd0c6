"""What every benchmark returns and how it is shown: a row is a ratio taken in one run on one machine, with its goal."""

from __future__ import annotations

import os
import pickle
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measured comparison. `ratio` is what `goal` speaks of; `ours` and `peer` are its two sides with units."""

    what: str
    ours: str
    peer: str
    ratio: float
    goal: str
    met: bool
    note: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A comparison that could not be run here, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Failed:
    """A part that ended with an error, or did not end."""

    what: str
    why: str
    met: bool = False


Result = Row | LeftOut | Failed


def written(file: Path) -> Iterator[Result]:
    """The results that a part's process wrote into the file, one after another."""
    with open(file, "rb") as found:
        while True:
            try:
                yield pickle.load(found)
            except EOFError:
                return


Sides = Sequence[float]
"""What one side measured, round by round; the other side was measured in the same rounds."""


def at_least(what: str, ours: float, peer: float, goal: float, *, unit: str, peer_name: str, note: str = "") -> Row:
    """A row where more is better: ours/peer must be at least `goal`."""
    return _judged(reported(what, ours, peer, unit=unit, peer_name=peer_name, note=note), at_least=goal)


def at_most(what: str, ours: float, peer: float, goal: float, *, unit: str, peer_name: str, note: str = "") -> Row:
    """A row where less is better: ours/peer must be at most `goal`."""
    return _judged(reported(what, ours, peer, unit=unit, peer_name=peer_name, note=note), at_most=goal)


def in_rounds(
    what: str, ours: Sides, peer: Sides, *, unit: str, peer_name: str,
    at_least: float | None = None, at_most: float | None = None,
) -> Row:  # fmt: skip
    """A row of two sides that took turns. Its ratio is the median of each round's, so that what else the machine did
    meanwhile weighs on both sides of a ratio alike; its figures are the medians."""
    row = reported(what, statistics.median(ours), statistics.median(peer), unit=unit, peer_name=peer_name)
    ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
    return _judged(replace(row, ratio=ratio), at_least=at_least, at_most=at_most)


def _judged(row: Row, *, at_least: float | None = None, at_most: float | None = None) -> Row:
    if at_least is not None:
        return replace(row, goal=f"at least {at_least:g}", met=row.ratio >= at_least)
    if at_most is not None:
        return replace(row, goal=f"at most {at_most:g}", met=row.ratio <= at_most)
    return row


def limit(what: str, value: float, bound: float, *, unit: str, note: str = "") -> Row:
    """A row whose peer is a fixed bound: value/bound must be at most 1."""
    return at_most(what, value, bound, 1, unit=unit, peer_name="bound", note=note)


def reported(what: str, ours: float, peer: float, *, unit: str, peer_name: str, note: str = "") -> Row:
    """A row without a goal."""
    return Row(
        what, f"{_figure(ours)} {unit}", f"{_figure(peer)} {unit} ({peer_name})", ours / peer, "none", True, note
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percentile(values: list[float], fraction: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def version_of(*command: str) -> str | None:
    """The first line that a program prints of its version, or None where it is not there."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else None


@contextmanager
def running(command: list[str], *, log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A server that runs while the block does."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(check: Callable[[], object], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


def machine() -> str:
    """What the figures were taken on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    when = datetime.now(UTC).date()
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}, {when}"
