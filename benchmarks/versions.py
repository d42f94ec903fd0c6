"""`python -m benchmarks.versions OLD [PART…] [--pairs N] [--ratio R] [--set NAME=N]`: this version and an older one.

OLD is a checkout of the older version. Both run their own benchmarks in turn, N times each (7), on this machine; where
a checkout has a `.venv`, its Python is used. A ratio above 1 means that the new version takes more: more time, more
memory, or fewer a second. Each is the median of the ratios of the pairs, so that what else the machine does weighs on
both sides alike. `--set` gives another size to a constant of the part, on both sides: `jobs --set COUNT=1000`. The exit
code is 1 where a ratio is above R (1.10), or where a side failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import Row, machine, written

PARTS = ("store", "jobs", "idle", "command", "lease", "placement")
NEW = Path(__file__).resolve().parents[1]
Figures = dict[str, tuple[float, str]]
"""What was measured -> the figure and its unit."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("old", type=Path, help="a checkout of the older version")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if left out")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--ratio", type=float, default=1.10)
    parser.add_argument("--set", action="append", default=[], type=_size, metavar="NAME=N", dest="sizes")
    options = parser.parse_args(arguments)
    pairs: defaultdict[str, list[tuple[float, float, str]]] = defaultdict(list)
    failed: list[str] = []
    for part in options.parts or PARTS:
        for number in range(options.pairs):
            print(f"== {part}, pair {number + 1} of {options.pairs}", file=sys.stderr, flush=True)
            # Whoever goes second finds warmer caches: they take turns in that too.
            trees = {"old": options.old.resolve(), "new": NEW}
            order = ("old", "new") if number % 2 == 0 else ("new", "old")
            found = {side: _figures(trees[side], part, dict(options.sizes)) for side in order}
            failed += [f"{part} of the {side} version" for side in order if not found[side]]
            for what in found["old"].keys() & found["new"].keys():
                pairs[what].append((found["old"][what][0], found["new"][what][0], found["new"][what][1]))
    worse = _print(pairs, options.ratio)
    for what in dict.fromkeys(failed):
        print(f"FAILED: {what}")
    return 1 if worse or failed else 0


def _print(pairs: dict[str, list[tuple[float, float, str]]], most: float) -> bool:
    print(f"Measured on {machine()}.\n\n| what | old | new | ratio | pairs |\n|---|---|---|---|---|")
    worse = False
    for what, found in pairs.items():
        unit = found[0][2]
        ratios = [_cost(old, new, unit) for old, new, _ in found if old and new]
        if not ratios:
            continue
        ratio = statistics.median(ratios)
        worse = worse or ratio > most
        old, new = (statistics.median(side) for side in list(zip(*found, strict=True))[:2])
        shown = f"**{ratio:.2f}**" if ratio > most else f"{ratio:.2f}"
        print(f"| {what} | {old:,.4g} {unit} | {new:,.4g} {unit} | {shown} | {len(ratios)} |")
    return worse


def _cost(old: float, new: float, unit: str) -> float:
    return old / new if unit.endswith("/s") else new / old


def _size(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, int(number)


_RUN = """
import json, sys
from benchmarks import __main__ as benchmarks
part = __import__(f"benchmarks.{sys.argv[2]}", fromlist=["run"])
for name, size in json.loads(sys.argv[3]).items():
    if not isinstance(getattr(part, name, None), int):
        sys.exit(f"error: benchmarks.{sys.argv[2]} has no number {name}")
    setattr(part, name, size)
sys.exit(benchmarks.main(["--into", *sys.argv[1:3]]))
"""


def _figures(tree: Path, part: str, sizes: Mapping[str, int]) -> Figures:
    """What one part of one version measures; nothing where it fails."""
    own = tree / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    # Both start from compiled modules, as installed ones do: else a cold start would be the compiler's time.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "results"
        file.touch()
        done = subprocess.run(
            [python, "-c", _RUN, str(file), part, json.dumps(sizes)], cwd=tree, env=environment, check=False
        )
        rows = [result for result in written(file) if isinstance(result, Row)]
    if done.returncode != 0:
        return {}
    found = {row.what: re.match(r"([\d.,]+) (.*)", row.ours) for row in rows}
    return {what: (float(match[1].replace(",", "")), match[2]) for what, match in found.items() if match}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
