from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest

from cumulus.daemon_lock import DaemonLock
from cumulus.store.base import Document, Key, Query
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import active, job, node, partition, running

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


def test_all_is_never_a_node(store: SqliteStore, run: Run) -> None:
    store.create(job("a"))
    store.create(partition("p"))
    store.create(node("gpu-1", ssh={"host": "gpu-1", "user": "root"}))
    assert run("delete", "all", "--all").code == 0
    assert names(store) == names(store, "GPUPartition") == []
    assert names(store, "GPUNode") == ["gpu-1"]


WITH_STAKES = {
    "by-hand": node("by-hand", ssh={"host": "h", "user": "root"}),
    "cordoned": node("cordoned", unschedulable=True),
    "holder": node("holder"),
    "lender": node("lender"),
}
WITH_STAKES["lender"]["status"]["devices"][0]["foreignLeases"] = [{"partitionId": "x"}]


@pytest.fixture
def fleet(store: SqliteStore) -> SqliteStore:
    """Nodes with something to lose, and one that discovery brings back."""
    store.create(node("plain"))
    for each in WITH_STAKES.values():
        store.create(each)
    store.create(active("share", node="holder"))
    store.create(partition("over", status={"phase": "Released", "node": "plain"}))
    return store


def test_nodes_with_something_to_lose_need_their_name(fleet: SqliteStore, run: Run) -> None:
    everything = names(fleet, "GPUNode")
    for arguments in (["--all"], ["--field-selector=metadata.name!=none"]):
        done = run("delete", "nodes", *arguments)
        assert (done.code, done.out) == (1, "")
        assert done.err.splitlines() == [
            "warning: gpunode/by-hand was added by hand",
            "warning: gpunode/cordoned is cordoned",
            "warning: gpunode/holder holds 1 lease, which go on there while their jobs start again elsewhere",
            "warning: gpunode/lender holds 1 lease made on the node itself",
            "error: nobody can confirm it here, so nothing was deleted; "
            "name them: cumulus delete node by-hand cordoned holder lender; or give --yes",
        ]
        assert names(fleet, "GPUNode") == everything
    assert run("delete", "nodes", "--field-selector=metadata.name=plain").code == 0
    named = run("delete", "node", "by-hand", "holder")
    assert (named.code, named.err.count("warning: ")) == (0, 2)
    assert run("delete", "nodes", "--all", "--yes").code == 0
    assert names(fleet, "GPUNode") == []


@pytest.mark.parametrize(("answer", "left"), [("n", 5), ("", 5), ("y", 0)])
def test_a_person_at_the_terminal_is_asked(
    fleet: SqliteStore, run: Run, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    done = run("delete", "nodes", "--all")
    assert "Delete them all the same? [y/N]" in done.err
    assert done.code == (1 if left else 0)
    assert len(names(fleet, "GPUNode")) == left


def test_who_deletes_a_queue_is_told_what_becomes_of_its_jobs(store: SqliteStore, run: Run) -> None:
    def queue(name: str, waiting: int, held: float, **spec: object) -> None:
        document = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "Queue", "metadata": {"name": name}, "spec": spec}
        store.create({**document, "status": {"waiting": waiting, "held": held}})

    queue("vision", 5, 2.5)
    queue("night", 3, 2, parent="vision")
    queue("default", 1, 0)
    queue("idle", 0, 0)
    done = run("delete", "queues", "--all")
    assert done.code == 1
    assert done.err.splitlines()[:-1] == [
        "warning: queue/default has 1 job that waits in it, without its rules from then on",
        "warning: queue/night has 3 jobs that wait in it, until there is a queue night again: "
        "the queue of a job does not change, holds 2 devices, whose jobs go on to the end of their leases",
        "warning: queue/vision has 2 jobs that wait in it, until there is a queue vision again: "
        "the queue of a job does not change, holds 0.5 devices, whose jobs go on to the end of their leases, "
        "is the parent of night: its limits and quota hold for that no more",
    ]
    assert names(store, "Queue") == ["default", "idle", "night", "vision"]
    assert run("delete", "queue", "vision").err.count("warning: ") == 1
    assert run("delete", "queues", "--all", "--yes").code == 0
    assert names(store, "Queue") == []


def test_an_unknown_field_deletes_nothing(store: SqliteStore, run: Run) -> None:
    store.create(running("train"))
    for selector, problem in (
        ("status.phse!=Running", "a GPUJob has no field status.phse; did you mean status.phase?"),
        ("status.phase!=running", "status.phase of a GPUJob is never 'running'; did you mean Running?"),
        ("status.attempts!=x", "status.attempts of a GPUJob is not a single value"),
        ("spec.suspend!=yes", "spec.suspend of a GPUJob is never 'yes'; it is true, false"),
    ):
        done = run("delete", "jobs", "--field-selector", selector)
        assert (done.code, done.out) == (2, "")
        assert problem in done.err
    assert names(store) == ["train"]


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
    done = run("delete", "job", "train", "--timeout=150s")
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
