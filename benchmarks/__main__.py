"""`python -m benchmarks [NAME…]`: run them, print the table, and write docs/performance.md with its plot.
`python -m benchmarks plot`: draw the plot anew from the table that is there.

All in one run on one machine: each row is a ratio whose two sides were measured in turn. Each part runs in a process
of its own, so that one that fails or hangs takes no other with it: it stands in the table as failed, and the exit
code is 1, as it is where a goal is missed.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.harness import Failed, LeftOut, Result, written

NAMES = (
    "store", "history", "watches", "http_watches", "http_objects", "jobs", "idle", "command", "run", "lease",
    "placement", "checkpoint", "handover", "storage", "sdk", "swarm", "gitops", "page", "arrays",
)  # fmt: skip
DOCS = Path(__file__).parents[1] / "docs"
LONGEST_SECONDS = 300.0
"""A part that takes longer hangs."""


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--into"]:
        return _measure(Path(arguments[1]), arguments[2])
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\nThe parts: {', '.join(NAMES)}.")
        return 0
    if list(arguments) == ["plot"]:
        report.draw(DOCS)
        return 0
    unknown = sorted(set(arguments) - set(NAMES))
    if unknown:
        print(f"error: there is no benchmark {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    results: list[Result] = []
    for name in arguments or NAMES:
        print(f"== {name}", file=sys.stderr, flush=True)
        for result in _part(name):
            print(report.line(result), flush=True)
            results.append(result)
    if not arguments:
        report.write(DOCS, results)
        print(f"wrote {DOCS / 'performance.md'}", file=sys.stderr)
    return 0 if all(isinstance(result, LeftOut) or result.met for result in results) else 1


def _measure(file: Path, name: str) -> int:
    """In the part's own process: write each result to the file as it comes."""
    with open(file, "ab") as out:
        for result in importlib.import_module(f"benchmarks.{name}").run():
            pickle.dump(result, out)
            out.flush()
    return 0


def _part(name: str) -> Iterator[Result]:
    """Run one part; what it measured, also where it failed later."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "results"
        file.touch()
        command = [sys.executable, "-m", "benchmarks", "--into", str(file), name]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            code: int | None = process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        yield from written(file)
    if code is None:
        yield Failed(f"benchmark {name}", f"did not end within {LONGEST_SECONDS:g} s")
    elif code != 0:
        yield Failed(f"benchmark {name}", f"ended with code {code}; its error is above")
    print(f"   {name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The part and all that it started and left behind in its session."""
    for number, patience in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        if process.poll() is None:
            try:
                os.killpg(process.pid, number)
                process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
