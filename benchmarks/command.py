"""Cold start of `cumulus get jobs` against an empty Python and against kubectl, in turn in one run."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import LeftOut, Result, at_most, reported, version_of
from benchmarks.store import document
from cumulus.store.sqlite import SqliteStore

ROUNDS = 15


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as home:
        store = SqliteStore(Path(home) / "store")
        for number in range(10):
            store.create(document(f"job-{number}"))
        store.close()
        env = {**os.environ, "CUMULUS_HOME": home}
        kubectl = version_of("kubectl", "version", "--client")
        commands = {
            "cumulus": [str(Path(sys.executable).parent / "cumulus"), "get", "jobs"],
            "python": [sys.executable, "-c", "pass"],
        }
        if kubectl:
            commands["kubectl"] = ["kubectl", "version", "--client"]
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
                times[name].append((time.perf_counter() - start) * 1000)
    # The first round warms the caches of the disk.
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    what = "`cumulus get jobs`, 10 jobs, cold start"
    python = f"python {sys.version.split()[0]} -c pass"
    yield at_most(what, medians["cumulus"], medians["python"], 8, unit="ms", peer_name=python)
    if kubectl is None:
        yield LeftOut(f"{what} against kubectl", "kubectl is not installed")
        return
    peer = f"kubectl {kubectl.removeprefix('Client Version: ')}, version --client"
    yield reported(what, medians["cumulus"], medians["kubectl"], unit="ms", peer_name=peer)
