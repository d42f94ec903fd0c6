"""A commit of 1,000 objects against the raw cost of reading and validating them; a look at what has not changed; and of
a daemon with 600 Sources: how soon a commit is applied, and what they cost while nothing happens."""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import ssl
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from benchmarks.harness import Result, in_rounds, limit, until
from cumulus import stores
from cumulus.gitops.desired import desired
from cumulus.gitops.directory import read
from cumulus.machinery.manager import YOUNG_OBJECTS
from cumulus.machinery.reconcile import Request
from cumulus.resources.documents import lookup
from cumulus.resources.key import API_VERSION, Document
from cumulus.resources.query import Query
from cumulus.resources.source import Source
from cumulus.store.base import Store
from tests.controllers.driver import drive
from tests.daemon import DaemonBed
from tests.gitops.cluster import Cluster, Repo, job

OBJECTS, SOURCES, ROUNDS = 1_000, 600, 5
NOTHING_NEW_SECONDS = 0.050
COMMITS, APPLIED_SECONDS = 15, 1.0
IDLE_SECONDS, IDLE_SECONDS_A_MINUTE = 60.0, 1.0


def run() -> Iterator[Result]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    # As the daemon, in which all of this runs.
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    with tempfile.TemporaryDirectory() as directory:
        yield from _commit(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        yield from _many(Path(directory))


def _commit(directory: Path) -> Iterator[Result]:
    repo = Repo(directory / "repo")
    repo.commit({f"{n}.yaml": job(f"job-{n}", suspend="true") for n in range(OBJECTS)})
    raw, synced, quiet = [], [], []
    for round in range(ROUNDS):
        raw.append(_cpu(lambda: desired(read(str(repo.path)).files, "default")))
        cluster = Cluster(directory / f"home-{round}")
        cluster.store = cluster.world.store = stores.open_store(directory / f"store-{round}")
        cluster.world.client.store = cluster.store
        cluster.new_daemon()
        cluster.add(url=repo.url)
        drive(
            cluster.world, cluster.daemon, until=lambda made=cluster: bool(made.following.asked or made.following._of)
        )
        cluster.following.step()
        loops = cluster.daemon.loops
        assert loops is not None
        reconciler = loops.runners["source"].reconciler
        look = lambda of=reconciler: of.reconcile(Request("default", "cluster"))  # noqa: E731
        synced.append(_cpu(look))
        assert len(cluster.names()) == OBJECTS
        for _ in range(2):
            while cluster.daemon.informer.poll(0):
                pass
            look()
        revision = cluster.store.revision()
        quiet.append(_cpu(look))
        assert cluster.store.revision() == revision
        cluster.store.close()
    objects = f"{OBJECTS:,} objects"
    what = f"from a fetched commit to applied, {objects}: processor time"
    yield in_rounds(what, synced, raw, unit="s", peer_name="reading and validating them", at_most=2.0)
    yield limit(f"a look at a Source that has not changed, {objects}", min(quiet), NOTHING_NEW_SECONDS, unit="s",
                note="0 writes")  # fmt: skip


def _many(directory: Path) -> Iterator[Result]:
    """A daemon whose Sources are all of one repository, each with a path of its own."""
    repo = Repo(directory / "repo")
    repo.commit({f"s{n}/a.yaml": job(f"j{n}", suspend="true") for n in range(SOURCES)})
    bed = DaemonBed(directory / "bed")
    daemon = bed.serve()
    try:
        until(lambda: bed.run("get", "nodes", "-o", "name").stdout, seconds=120, what="the daemon is there")
        (directory / "token").write_text("s3cret")
        bed.ok("secret", "create", "forge", "--from-file", f"token={directory / 'token'}")
        bed.apply(*(_source(n, repo.url) for n in range(SOURCES)))
        store = stores.open_store(directory / "bed" / "cumulus" / "store")
        try:
            until(lambda: _synced(store) == SOURCES, seconds=600, what=f"{SOURCES} Sources are synced")
            called = json.loads((directory / "bed" / "cumulus" / "api.json").read_text())["url"]
            seconds = [_applied(repo, store, called, round * 37 % SOURCES, round) for round in range(1 + COMMITS)]
            spent, since = _of_daemon(daemon.pid), time.monotonic()
            time.sleep(IDLE_SECONDS)
            a_minute = (_of_daemon(daemon.pid) - spent) * 60 / (time.monotonic() - since)
        finally:
            store.close()
    finally:
        daemon.terminate()
        daemon.wait()
    # The first one also loads what the daemon had no use for before.
    what = f"from a forge's call after a commit that touches one of {SOURCES} Sources to applied: median of {COMMITS}"
    note = f"the first {seconds[0]:.2f} s, the longest after it {max(seconds[1:]):.2f} s; no other Source was written"
    yield limit(what, statistics.median(seconds[1:]), APPLIED_SECONDS, unit="s", note=note)
    what = f"an idle daemon with {SOURCES} Sources of one repository, interval 1m: processor seconds a minute"
    yield limit(what, a_minute, IDLE_SECONDS_A_MINUTE, unit="s", note="with all else that a daemon does, and git")


def _source(number: int, url: str) -> Document:
    git = {"url": url, "branch": "main", "path": f"s{number}"}
    return {
        "apiVersion": API_VERSION, "kind": Source.KIND, "metadata": {"name": f"s{number}"},
        "spec": {"git": git, "webhook": "forge"},
    }  # fmt: skip


def _synced(store: Store) -> int:
    time.sleep(0.5)
    return sum(bool((found.get("status") or {}).get("synced")) for found in store.list(Query(Source.KIND)).items)


def _applied(repo: Repo, store: Store, called: str, number: int, priority: int) -> float:
    """Seconds from the call that tells of a commit until the status says that it is applied."""
    name = f"s{number}"
    commit = repo.commit({f"{name}/a.yaml": job(f"j{number}", suspend="true", priority=priority + 1)})
    request = urllib.request.Request(f"{called}/hooks/default/{name}", b"{}", {"X-Gitlab-Token": "s3cret"})
    watch, written = store.watch(since=store.revision(), kinds=frozenset({Source.KIND})), set()
    since = time.monotonic()
    urllib.request.urlopen(request, context=ssl._create_unverified_context()).close()
    while True:
        for event in watch.next(timeout=1.0):
            written.add(event.key.name)
            synced = lookup(event.document, "status.synced.revision")
            if event.key.name == name and synced == commit:
                seconds = time.monotonic() - since
                watch.close()
                assert written == {name}
                return seconds
        assert time.monotonic() - since < 120, f"the commit is not applied: {name}"


def _of_daemon(pid: int) -> float:
    """Processor seconds of a process and of those that it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _cpu(work: Callable[[], object]) -> float:
    """Processor seconds of this process and of those that it starts and waits for."""
    before = _spent()
    work()
    return _spent() - before


def _spent() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
