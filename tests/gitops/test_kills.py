"""A daemon that SIGKILL ends at any moment of a sync, with its store on the disk: the old set or the new one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cumulus.resources.query import Query
from cumulus.stores import open_store
from tests.gitops.cluster import Cluster, Repo, job

ROOT = Path(__file__).parents[2]
HOLD = {"suspend": "true"}

DAEMON = f"""
import logging, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
from cumulus.stores import open_store
from tests.gitops.cluster import Cluster
home = Path(sys.argv[1])
cluster = Cluster(home, store=open_store(home / "store"))
print("begins", flush=True)
cluster.sync()
cluster.sync(seconds=10)
print("done", flush=True)
"""


def daemon(home: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", DAEMON, home], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    return process


def finished(home: Path) -> float:
    """Let a daemon come to the end of its sync; the seconds that this takes."""
    process = daemon(home)
    since = time.monotonic()
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    seconds = time.monotonic() - since
    process.wait()
    return seconds


def there(home: Path) -> dict[str, int]:
    """The jobs that are stored, by name, with their priority."""
    store = open_store(home / "store")
    try:
        return {item["metadata"]["name"]: item["spec"].get("priority", 0) for item in store.list(Query("GPUJob")).items}
    finally:
        store.close()


def commit(repo: Repo, size: int, number: int) -> dict[str, int]:
    """A third of the jobs gets another priority, a third comes or goes, a third stays. What it says."""
    said = {f"j{n}": number for n in range(0, size, 3)} | {f"j{n}": 7 for n in range(1, size, 3)}
    said |= {f"j{n}-{number % 2}": 7 for n in range(2, size, 3)}
    files: dict[str, str | None] = {f"{name}.yaml": job(name, priority=value, **HOLD) for name, value in said.items()}
    gone = {path.name for path in repo.path.glob("*.yaml")} - files.keys()
    repo.commit({**files, **dict.fromkeys(gone)}, f"commit {number}")
    return said


@pytest.mark.parametrize(
    ("size", "kills"), [(12, 2), pytest.param(1_000, 100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_killed_at_any_moment(tmp_path: Path, size: int, kills: int) -> None:
    home, repo = tmp_path / "home", Repo(tmp_path / "repo")
    home.mkdir()
    old = commit(repo, size, 0)
    store = open_store(home / "store")
    Cluster(home, store=store).add(url=repo.url, prune="Auto", pruneLimit={"count": size})
    store.close()
    longest = finished(home)
    assert there(home) == old
    chance = random.Random(7)
    seen = {"old": 0, "new": 0}
    new = commit(repo, size, 1)
    number = 1
    for _ in range(kills):
        process = daemon(home)
        time.sleep(chance.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = there(home)
        assert found in (old, new), f"between two sets: {len(found)} jobs"
        seen["new" if found == new else "old"] += 1
        if found == new:
            # What the killed one did not come to (the uids) the next one does, and the commit after that begins.
            finished(home)
            assert there(home) == new
            old, number = new, number + 1
            new = commit(repo, size, number)
    finished(home)
    assert there(home) == new
    print(f"{kills} kills within {longest:.1f} s of a sync of {size} objects: {seen}")
    assert kills < 10 or all(seen.values())
