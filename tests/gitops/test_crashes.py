"""A daemon that dies at any write of a sync leaves the old set or the new one, and the next one makes it right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cumulus.machinery.reconcile import Request
from cumulus.store.base import Query, Write
from tests.controllers.driver import drive
from tests.gitops.cluster import Cluster, Repo, job

HOLD = {"suspend": "true"}


class Killed(BaseException):
    """The process is gone: nothing below catches it."""


class DyingStore:
    """A store whose process dies before its write number `at`, or right after it."""

    def __init__(self, store: Any, at: int, *, after: bool) -> None:
        self._store = store
        self._left = at
        self._after = after
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("transact", "update_status", "update", "create", "delete"):
            return found

        def write(given: Any, **options: Any) -> Any:
            if not self._is_the_sources(given):
                return found(given, **options)
            self._left -= 1
            if self._left == 0 and not self._after:
                self.dead = True
                raise Killed
            answer = found(given, **options)
            if self._left == 0:
                self.dead = True
                raise Killed
            return answer

        return write

    def _is_the_sources(self, given: Any) -> bool:
        documents = [w.document for w in given] if isinstance(given, Sequence) else [given]
        return any(document and document.get("kind") == "Source" for document in documents)


def names(cluster: Cluster) -> frozenset[tuple[str, str]]:
    return frozenset((name, cluster.get(name)["spec"]["command"][1]) for name in cluster.names())


def run(cluster: Cluster, at: int, *, after: bool) -> bool:
    """Sync with a daemon that dies then. Whether it died."""
    dying = DyingStore(cluster.store, at, after=after)
    cluster.new_daemon(store=dying)
    cluster.room.submitters._store = dying  # type: ignore[attr-defined]
    try:
        cluster.sync()
        cluster.sync(seconds=10)
    except Killed:
        return True
    return dying.dead


@pytest.mark.parametrize("size", [30, pytest.param(1_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_old_or_new_and_never_between(cluster: Cluster, repo: Repo, after: bool, size: int) -> None:
    old = {f"{n}.yaml": job(f"j{n}", **HOLD) for n in range(size)}
    new: dict[str, str | None] = {f"{n}.yaml": job(f"j{n}", command="other.py", **HOLD) for n in range(0, size, 3)}
    new |= {f"{n}.yaml": None for n in range(1, size, 3)} | {
        f"x{n}.yaml": job(f"x{n}", **HOLD) for n in range(size // 3)
    }
    repo.commit(old)  # type: ignore[arg-type]
    cluster.add(url=repo.url, prune="Auto", pruneLimit={"count": size})
    died = 0
    for at in range(1, 20):
        if not run(cluster, at, after=after):
            break
        died += 1
        assert len(names(cluster)) in (0, size)
    first = names(cluster)
    assert len(first) == size
    repo.commit(new)
    kept = {pair for pair in first if int(pair[0][1:]) % 3 == 2}
    made = {(f"x{n}", "train.py") for n in range(size // 3)}
    replaced = {(f"j{n}", "other.py") for n in range(0, size, 3)}
    for at in range(1, 20):
        if not run(cluster, at, after=after):
            break
        died += 1
        # Of the new set, what is made anew may still be missing: its predecessors are gone first.
        assert names(cluster) in (first, frozenset(kept | made), frozenset(kept | made | replaced))
    assert died >= 3
    cluster.new_daemon()
    cluster.sync(seconds=10)
    cluster.sync()
    assert names(cluster) == kept | made | replaced
    assert cluster.condition("Synced") == ("True", "Synced")
    inventory = {item.name: item.uid for item in cluster.source().status.inventory}
    assert inventory == {name: cluster.get(name)["metadata"]["uid"] for name in cluster.names()}


def test_a_commit_that_comes_while_a_sync_runs(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a", **HOLD)})
    cluster.add(url=repo.url)
    cluster.sync()
    second = repo.commit({"b.yaml": job("b", **HOLD)})
    real = cluster.room.submitters.commit

    def commit(*arguments: Any, **options: Any) -> Any:
        if repo.head == second:
            repo.commit({"c.yaml": job("c", **HOLD)})
        return real(*arguments, **options)

    cluster.room.submitters.commit = commit  # type: ignore[method-assign]
    cluster.sync()
    cluster.sync()
    assert cluster.names() == ["a", "b", "c"]
    assert [entry.revision for entry in cluster.source().status.history][-2:] == [second, repo.head]


def test_a_thousand_manifests_are_one_commit(cluster: Cluster, repo: Repo) -> None:
    many = {f"team-{n % 7}/{n}.yaml": job(f"j{n}", **HOLD) for n in range(1_000)}
    repo.commit({**many, "bad.yaml": job("bad", retrry=1)})
    cluster.add(url=repo.url)
    drive(cluster.world, cluster.daemon, until=lambda: bool(cluster.following._of))
    assert cluster.following.step()
    loops = cluster.daemon.loops
    assert loops is not None
    # The Source's controller alone: what others do with a thousand jobs is not looked at here.
    look = loops.runners["source"].reconciler
    look.reconcile(Request("default", "cluster"))
    assert cluster.condition("Synced") == ("False", "InvalidManifests")
    assert cluster.names() == []
    repo.commit({"bad.yaml": None})
    cluster.following.now(("default", "cluster"))
    assert cluster.following.step()
    while cluster.daemon.informer.poll(0):
        pass
    before = cluster.store.revision()
    look.reconcile(Request("default", "cluster"))
    assert cluster.source().status.counts.objects == len(cluster.names()) == len(many)
    assert cluster.condition("Synced") == ("True", "Synced")
    versions = {item["metadata"]["resourceVersion"] for item in cluster.store.list(Query("GPUJob")).items}
    assert all(before < int(version) <= before + len(many) for version in versions)


def test_writes_are_of_one_transaction(cluster: Cluster, repo: Repo) -> None:
    repo.commit({f"{n}.yaml": job(f"j{n}", **HOLD) for n in range(5)})
    cluster.add(url=repo.url)
    seen: list[list[Write]] = []
    real = cluster.store.transact

    def transact(writes: Sequence[Write], **options: Any) -> Any:
        if any(w.verb == "create" and w.document and w.document["kind"] == "GPUJob" for w in writes):
            seen.append(list(writes))
        return real(writes, **options)

    cluster.store.transact = transact  # type: ignore[method-assign]
    cluster.sync()
    assert [[w.verb for w in writes] for writes in seen] == [["create"] * 5 + ["status"]]
