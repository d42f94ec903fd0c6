"""`python -m benchmarks [NAME…]`: run them, print the table, and write docs/performance.md with its plot.

All in one run on one machine: each row is a ratio whose two sides were measured in turn.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.harness import LeftOut, Result

NAMES = ("store", "jobs", "idle", "command", "lease", "placement", "swarm")
DOCS = Path(__file__).parents[1] / "docs"


def main(names: Sequence[str]) -> int:
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"error: there is no benchmark {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    results: list[Result] = []
    for name in names or NAMES:
        print(f"== {name}", file=sys.stderr, flush=True)
        for result in importlib.import_module(f"benchmarks.{name}").run():
            print(report.line(result), flush=True)
            results.append(result)
    if not names:
        report.write(DOCS, results)
        print(f"wrote {DOCS / 'performance.md'}", file=sys.stderr)
    missed = [result for result in results if not isinstance(result, LeftOut) and not result.met]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
