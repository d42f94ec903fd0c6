from __future__ import annotations

import threading
import time
from pathlib import Path

from cumulus.cli.context import DaemonLock
from cumulus.store.base import Document, Key, Query
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run, active, job, partition, running

TRAIN = Key("GPUJob", "default", "train")


def held(document: Document) -> Document:
    return {**document, "metadata": {**document["metadata"], "finalizers": ["cumulus.dev/job"]}}


def names(store: SqliteStore, kind: str = "GPUJob") -> list[str]:
    return [item["metadata"]["name"] for item in store.list(Query(kind=kind)).items]


def test_by_name(store: SqliteStore, run: Run) -> None:
    for name in ("a", "b", "c"):
        store.create(job(name))
    done = run("delete", "job", "a", "b")
    assert done == (0, "gpujob.cumulus.dev/a deleted\ngpujob.cumulus.dev/b deleted\n", "")
    assert names(store) == ["c"]
    missing = run("delete", "job/a", "job/c")
    assert (missing.code, missing.out) == (1, "gpujob.cumulus.dev/c deleted\n")
    assert missing.err == "error: gpujob.cumulus.dev 'a' not found in namespace default\n"
    assert run("delete", "job/a", "--ignore-not-found") == (0, "", "")


def test_by_selector_and_all(store: SqliteStore, run: Run) -> None:
    store.create(job("a", labels={"x": "1"}))
    store.create(job("b"))
    store.create(job("c", namespace="other"))
    store.create(partition("p"))
    assert run("delete", "jobs", "-l", "x=1").code == 0
    assert names(store) == ["b", "c"]
    assert run("delete", "jobs", "--all").code == 0
    assert names(store) == ["c"]
    assert run("delete", "jobs,parts", "--all", "-A").code == 0
    assert names(store) == names(store, "GPUPartition") == []
    assert run("delete", "jobs", "--all") == (0, "", "No resources found.\n")


def test_a_kind_alone_is_refused(store: SqliteStore, run: Run) -> None:
    store.create(job("a"))
    assert run("delete", "jobs").code == 2
    assert run("delete", "job", "a", "--all").code == 2
    assert run("delete").code == 2
    assert run("delete", "job", "a", "--cascade=foreground").code == 2
    assert run("delete", "job", "a", "-f", "x.yaml").code == 2
    assert names(store) == ["a"]


def test_from_files(store: SqliteStore, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    gpu = "gpu: {memory: 50%, duration: 1h}"
    text = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\nmetadata: {name: NAME}\nspec: {command: [x], GPU}\n"
    file.write_text("---\n".join(text.replace("NAME", n).replace("GPU}", gpu + "}") for n in ("a", "b")))
    assert run("apply", "-f", str(file)).code == 0
    assert run("delete", "-f", str(file)).out == "gpujob.cumulus.dev/b deleted\ngpujob.cumulus.dev/a deleted\n"
    assert run("delete", "-f", str(file)).code == 1


def test_without_a_daemon_it_is_marked_and_not_waited_for(store: SqliteStore, run: Run, home: Path) -> None:
    store.create(held(running("train")))
    done = run("delete", "job", "train")
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train marked for deletion\n")
    assert done.err == f"No daemon runs on {home}; it is deleted once `cumulus serve` is started.\n"
    assert store.get(TRAIN)["metadata"]["deletionTimestamp"]


def test_it_is_waited_for(store: SqliteStore, run: Run, home: Path) -> None:
    store.create(held(running("train")))
    lock = DaemonLock(home)
    # In this process the lock does not conflict with its own look, so the time-out is what makes it wait.
    thread = threading.Thread(target=_release, args=(store,))
    thread.start()
    done = run("delete", "job", "train", "--timeout=20s")
    thread.join()
    lock.close()
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train deleted\n")


def _release(store: SqliteStore) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = store.get(TRAIN)
        if found["metadata"].get("deletionTimestamp"):
            store.update({**found, "metadata": {**found["metadata"], "finalizers": []}})
            return
        time.sleep(0.01)


def test_the_time_out(store: SqliteStore, run: Run) -> None:
    store.create(held(running("train")))
    done = run("delete", "job", "train", "--timeout=0.05s")
    assert done.code == 1
    assert "timed out" in done.err


def test_a_grace_period_is_written_with_the_mark(store: SqliteStore, run: Run) -> None:
    def asked() -> int:
        return int(store.get(TRAIN)["metadata"]["deletionGracePeriodSeconds"])

    store.create(held(running("train")))
    assert run("delete", "job", "train").code == 0
    assert asked() == 0
    assert run("delete", "job", "train", "--grace-period=7").code == 0
    assert asked() == 7
    assert run("delete", "job", "train", "--now").code == 0
    assert asked() == 1
    assert run("delete", "job", "train", "--grace-period=5").code == 0
    assert asked() == 1


def test_a_grace_period_that_cannot_be_held_to_is_refused(store: SqliteStore, run: Run) -> None:
    store.create(held(running("train")))
    store.create(partition("share"))
    for arguments in (["--grace-period=0"], ["--grace-period=-1"], ["--now", "--grace-period=2"]):
        refused = run("delete", "job", "train", *arguments)
        assert refused.code == 2
        assert "--now is the shortest" in refused.err
    refused = run("delete", "part", "share", "--now")
    assert refused.code == 2
    assert "a partition has its own grace period" in refused.err
    assert names(store, "GPUPartition") == ["share"]
    assert "deletionTimestamp" not in store.get(TRAIN)["metadata"]


def test_orphans_stay(store: SqliteStore, run: Run) -> None:
    train = store.create(running("train"))
    store.create(active("train-a1-r0-d0", owner=train))
    assert run("delete", "job", "train", "--cascade=orphan").code == 0
    [left] = store.list(Query(kind="GPUPartition")).items
    assert not left["metadata"].get("ownerReferences")
    assert names(store) == []
