"""A commit of 1,000 objects against the raw cost of reading and validating them; a look at what has not changed; and
what 600 Sources cost while nothing happens."""

from __future__ import annotations

import gc
import logging
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from benchmarks.harness import Result, in_rounds, limit
from cumulus import stores
from cumulus.clock import SystemClock
from cumulus.gitops.desired import desired
from cumulus.gitops.directory import read
from cumulus.gitops.following import Following, Where
from cumulus.gitops.git import Credentials
from cumulus.machinery.manager import YOUNG_OBJECTS
from cumulus.machinery.reconcile import Request
from cumulus.resources.git_url import parse_url
from tests.controllers.driver import drive
from tests.gitops.cluster import Cluster, Repo, job

OBJECTS, SOURCES, ROUNDS = 1_000, 600, 5
NOTHING_NEW_SECONDS = 0.050
IDLE_SECONDS_A_MINUTE = 1.0


def run() -> Iterator[Result]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    # As the daemon, in which all of this runs.
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    with tempfile.TemporaryDirectory() as directory:
        yield from _commit(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        yield _idle(Path(directory))


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


def _idle(directory: Path) -> Result:
    repo = Repo(directory / "repo")
    repo.commit({f"s{n}/a.yaml": str(n) for n in range(SOURCES)})
    following = Following(directory / "sources", SystemClock(), lambda namespace, name: Credentials())
    where = Where(None, parse_url(repo.url), (("branch", "main"),), "default", "")
    for n in range(SOURCES):
        following.follow(("default", f"s{n}"), where, f"s{n}", 60.0)
    following.step()

    def ask() -> None:
        following.now(("default", "s0"))
        following.step()

    spent = min(_cpu(ask) for _ in range(ROUNDS))
    what = f"{SOURCES} Sources of one repository, interval 1m: processor seconds a minute"
    return limit(what, spent, IDLE_SECONDS_A_MINUTE, unit="s")


def _cpu(work: Callable[[], object]) -> float:
    """Processor seconds of this process and of those that it starts and waits for."""
    before = _spent()
    work()
    return _spent() - before


def _spent() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
