"""The command line against an empty Python and against kubectl, in turn in one run: cold, and with a command server."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import LeftOut, Result, at_most, in_rounds, reported, running, until, version_of
from benchmarks.installed import install
from benchmarks.store import document
from cumulus import environment, paths
from cumulus.store.sqlite import SqliteStore
from tests.commands import CUMULUS

ROUNDS = 15
PYTHON = f"python {sys.version.split()[0]} -c pass"
EMPTY = [sys.executable, "-c", "pass"]


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as home:
        yield from _get(Path(home))
    with tempfile.TemporaryDirectory() as home:
        yield from _get_of_a_daemon(Path(home))
    with tempfile.TemporaryDirectory() as home:
        yield from _apply(Path(home))


def _get(home: Path) -> Iterator[Result]:
    store = SqliteStore(home / "store")
    for number in range(10):
        store.create(document(f"job-{number}"))
    store.close()
    kubectl = version_of("kubectl", "version", "--client")
    commands = {"cumulus": [CUMULUS, "get", "jobs"], "python": EMPTY}
    if kubectl:
        commands["kubectl"] = ["kubectl", "version", "--client"]
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS + 1):
        for name, command in commands.items():
            times[name].append(_milliseconds(command, {"CUMULUS_HOME": str(home)}))
    # The first round warms the caches of the disk.
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    what = "`cumulus get jobs`, 10 jobs, cold start"
    yield at_most(what, medians["cumulus"], medians["python"], 8, unit="ms", peer_name=PYTHON)
    if kubectl is None:
        yield LeftOut(f"{what} against kubectl", "kubectl is not installed")
        return
    peer = f"kubectl {kubectl.removeprefix('Client Version: ')}, version --client"
    yield reported(what, medians["cumulus"], medians["kubectl"], unit="ms", peer_name=peer)


def _get_of_a_daemon(home: Path) -> Iterator[Result]:
    """Each a new process, against the API of one daemon: `cumulus` at its socket, kubectl over TLS. Both as they are
    installed for users."""
    what = "`cumulus get jobs` over the socket, 10 jobs"
    kubectl = version_of("kubectl", "version", "--client")
    if kubectl is None:
        yield LeftOut(f"{what} against kubectl", "kubectl is not installed")
        return
    _, command = install(home / "venv")
    store = SqliteStore(home / "store")
    for number in range(10):
        made = document(f"job-{number}")
        store.create({**made, "spec": {**made["spec"], "suspend": True}})
    store.close()
    variables = {"CUMULUS_HOME": str(home), "CHRONOS_HOME": str(home / "chronos"), "CHRONOS_MONITOR_IDLE": "1"}
    config, cache = home / "kubeconfig", home / "cache"
    theirs = ["kubectl", "--kubeconfig", str(config), f"--cache-dir={cache}", "get", "gpujobs"]
    peer = f"kubectl {kubectl.removeprefix('Client Version: ')}, get gpujobs of the same API"
    with running([command, "serve"], log=home / "serve.log", env=variables):
        for name in (paths.API_SOCKET, paths.COMMAND_SOCKET, "api.json"):
            until((home / name).exists, seconds=60, what=f"the daemon makes {name}")
        _milliseconds([command, "kubeconfig", "-o", str(config)], variables)
        times: dict[str, list[float]] = {"served": [], "kubectl": [], "alone": []}
        for _ in range(ROUNDS + 1):
            times["served"].append(_milliseconds([command, "get", "jobs"], variables))
            times["kubectl"].append(_milliseconds(theirs, variables))
            alone = {**variables, environment.NO_COMMAND_SERVER: "1"}
            times["alone"].append(_milliseconds([command, "get", "jobs"], alone))
    # The first round fills kubectl's cache of discovery, and the disk's.
    found = {name: measured[1:] for name, measured in times.items()}
    yield in_rounds(what, found["served"], found["kubectl"], unit="ms", peer_name=peer, at_most=1.0)
    yield in_rounds(f"{what}, without the command server", found["alone"], found["kubectl"], unit="ms", peer_name=peer)


def _apply(home: Path) -> Iterator[Result]:
    """Each time another job, which is written and synced to disk."""
    file = home / "job.json"
    command = [CUMULUS, "apply", "-f", str(file)]
    served: list[float] = []
    cold: list[float] = []
    empty: list[float] = []
    with _command_server(home):
        for number in range(2 * ROUNDS + 2):
            file.write_text(json.dumps(document(f"job-{number}")))
            off = {environment.NO_COMMAND_SERVER: "1"} if number % 2 else {}
            (cold if off else served).append(_milliseconds(command, {"CUMULUS_HOME": str(home), **off}))
            if off:
                empty.append(_milliseconds(EMPTY, {}))
    what = "`cumulus apply` of a job"
    yield in_rounds(
        f"{what}, in a fork of the command server", served[1:], empty[1:], unit="ms", peer_name=PYTHON, at_most=3
    )
    yield in_rounds(f"{what}, cold start", cold[1:], empty[1:], unit="ms", peer_name=PYTHON)


@contextmanager
def _command_server(home: Path) -> Iterator[None]:
    """As a daemon keeps one."""
    command = [sys.executable, "-P", "-m", "cumulus.cli.command_server", str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as server:
        try:
            until((home / paths.COMMAND_SOCKET).is_socket, seconds=30, what="the command server listens")
            yield
        finally:
            server.communicate()


def _milliseconds(command: Sequence[str], more: Mapping[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(
        command, env={**os.environ, **more}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )
    return (time.perf_counter() - start) * 1000
