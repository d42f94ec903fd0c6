from __future__ import annotations

import threading

import pytest

from cumulus.cli.set_fields import patch_of
from cumulus.clock import SystemClock
from cumulus.errors import Conflict
from cumulus.resources.kinds import gpujob
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.store.base import Document, Key
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import failed, job, node, running

TESTER = Identity("tester", 0)
TRAIN = Key("GPUJob", "default", "train")


@pytest.mark.parametrize("words", [["train"], ["job", "train"], ["gpujob/train"]])
def test_suspend_and_resume(store: SqliteStore, run: Run, words: list[str]) -> None:
    store.create(running("train"))
    done = run("suspend", *words)
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train suspended\n")
    assert "No daemon runs" in done.err
    found = store.get(TRAIN)
    assert found["spec"]["suspend"] is True
    assert found["status"]["phase"] == "Running"
    assert run("suspend", *words).out == "gpujob.cumulus.dev/train already suspended\n"
    assert run("resume", *words).out == "gpujob.cumulus.dev/train resumed\n"
    assert store.get(TRAIN)["spec"]["suspend"] is False


def test_what_is_over_can_not_be_suspended(store: SqliteStore, run: Run) -> None:
    store.create(failed("train"))
    done = run("suspend", "train")
    assert done.code == 1
    assert done.err == "error: gpujob/train is over (Failed) and cannot be suspended\n"
    assert run("suspend", "nope").code == 1
    assert run("suspend", "node/n").code == 2
    assert run("suspend", "a", "b", "c").code == 2


def test_cordon_and_uncordon(store: SqliteStore, run: Run) -> None:
    store.create(node("gpu-1"))
    assert run("cordon", "gpu-1").out == "gpunode.cumulus.dev/gpu-1 cordoned\n"
    assert "SchedulingDisabled" in run("get", "nodes").out
    assert run("uncordon", "node", "gpu-1").out == "gpunode.cumulus.dev/gpu-1 uncordoned\n"
    assert "SchedulingDisabled" not in run("get", "nodes").out


def test_labels(store: SqliteStore, run: Run) -> None:
    store.create(job("train", labels={"a": "1"}))
    assert run("label", "job", "train", "b=2", "c=").code == 0
    assert store.get(TRAIN)["metadata"]["labels"] == {"a": "1", "b": "2", "c": ""}
    refused = run("label", "job/train", "a=2")
    assert refused.code == 1
    assert "has a=1 already; give --overwrite" in refused.err
    assert run("label", "job/train", "a=2", "b-", "--overwrite").code == 0
    assert store.get(TRAIN)["metadata"]["labels"] == {"a": "2", "c": ""}
    assert run("label", "job/train", "a=2").out == "gpujob.cumulus.dev/train unchanged\n"


def test_annotations(store: SqliteStore, run: Run) -> None:
    store.create(job("train"))
    assert run("annotate", "job", "train", "note=two words = fine").out == "gpujob.cumulus.dev/train annotated\n"
    assert store.get(TRAIN)["metadata"]["annotations"] == {"note": "two words = fine"}
    assert run("annotate", "job", "train", "note-").code == 0
    assert not store.get(TRAIN)["metadata"].get("annotations")


@pytest.mark.parametrize("arguments", [["job", "train"], ["job", "train", "-bad-=x"], ["a=b"], ["jobs", "a=b"]])
def test_wrong_pairs(store: SqliteStore, run: Run, arguments: list[str]) -> None:
    store.create(job("train"))
    assert run("label", *arguments).code == 2


def test_a_change_is_made_again_when_another_was_faster(store: SqliteStore) -> None:
    store.create(job("train"))
    objects = Objects(store, SystemClock(), Access(lambda: store, 0))
    threads = [
        threading.Thread(target=objects.edit, args=(TESTER, TRAIN, lambda d, n=n: _labelled(d, str(n))))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(store.get(TRAIN)["metadata"]["labels"]) == {"l0", "l1", "l2", "l3"}


def _labelled(document: Document, number: str) -> Document:
    labels = {**(document["metadata"].get("labels") or {}), f"l{number}": ""}
    return {**document, "metadata": {**document["metadata"], "labels": labels}}


def test_an_object_that_never_holds_still_is_given_up(store: SqliteStore) -> None:
    store.create(job("train"))

    def change(document: Document) -> Document:
        store.update(_labelled(document, document["metadata"]["resourceVersion"]))
        return {**document, "spec": {**document["spec"], "suspend": True}}

    with pytest.raises(Conflict, match="keeps changing"):
        Objects(store, SystemClock(), Access(lambda: store, 0)).edit(TESTER, TRAIN, change)


@pytest.mark.parametrize(
    ("settings", "spec"),
    [
        (["spec.args=--lr 0.1 'a b'"], {"args": ["--lr", "0.1", "a b"]}),
        (['spec.args=["x"]', "spec.replicas=2"], {"args": ["x"], "replicas": 2}),
        (["spec.gpu.duration=2h", "spec.gpu.compute=25%"], {"gpu": {"duration": "2h", "compute": "25%"}}),
        (["spec.gpu.selector.nodeLabels.rack=7", "spec.image="], {"gpu": {"selector": {"nodeLabels": {"rack": "7"}}},
                                                                   "image": None}),
        (["spec.hostNetwork=true"], {"hostNetwork": True}),
    ],
)  # fmt: skip
def test_fields_that_are_set(settings: list[str], spec: Document) -> None:
    assert patch_of(gpujob.KIND, settings) == {"spec": spec}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("spec.arsg=1", "a GPUJob has no field spec.arsg; did you mean spec.args?"),
        ("spec.args", "'spec.args' is not PATH=VALUE"),
        ("spec.replicas=two", "spec.replicas takes integer, not 'two'"),
        ("spec.env=a", "spec.env is a list of objects"),
        ("metadata.name=x", "metadata stays as it is"),
    ],
)
def test_wrong_settings(store: SqliteStore, run: Run, setting: str, message: str) -> None:
    store.create(failed("train"))
    done = run("rerun", "train", "--set", setting)
    assert done.code == 2
    assert message in done.err
