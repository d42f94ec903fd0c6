"""What is said of jobs that wait for others when they are made, and while they wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.errors import InvalidObject
from cumulus.manifest import InvalidManifest, load_text
from cumulus.resources.key import Document, Key
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.documents import job, node
from tests.service.conftest import ME


def waits(name: str, *others: str, wants: str = "succeeded") -> Document:
    return job(name, after={wants: list(others)})


def a_service(tmp_path: Path) -> tuple[MemoryStore, Service]:
    store = MemoryStore()
    store.create(node("gpu-1"))
    return store, Service(lambda: store, tmp_path)


def test_no_job_waits_for_itself_through_others(tmp_path: Path) -> None:
    store, service = a_service(tmp_path)
    make = service.objects.create
    make(ME, waits("a", "b"))
    make(ME, waits("b", "c", "d"))
    with pytest.raises(InvalidObject, match="c after a after b after c") as refused:
        make(ME, waits("c", "x", "a", wants="finished"))
    assert refused.value.field == "spec.after.finished[1]"
    with pytest.raises(InvalidObject, match="is the job itself"):
        make(ME, waits("e", "e"))
    make(ME, waits("d", "e"))
    # What has begun waits for nobody any more.
    begun = store.get(Key("GPUJob", "default", "a"))
    store.update_status({**begun, "status": {"attemptCount": 1}})
    make(ME, waits("c", "a"))


def test_manifests_of_one_file_in_any_order(tmp_path: Path) -> None:
    _, service = a_service(tmp_path)
    one = "---\napiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\nmetadata: {{name: {}}}\n"
    one += "spec: {{command: [x], gpu: {{memory: 0.5, duration: 1h}}, after: {{succeeded: [{}]}}}}\n"
    service.objects.apply(ME, load_text((one.format("c", "b") + one.format("b", "a")).encode(), name="f.yaml"))
    looped = one.format("x", "y") + one.format("y", "x")
    with pytest.raises((InvalidManifest, InvalidObject), match="wait for itself: x after y after x"):
        service.objects.apply(ME, load_text(looped.encode(), name="f.yaml"))


def test_why_says_what_it_waits_for(tmp_path: Path) -> None:
    store, service = a_service(tmp_path)
    store.create(waits("train", "prepare", "fetch"))
    store.create(job("prepare"))

    def why() -> str:
        return service.explanations.why(ME, Key("GPUJob", "default", "train")).lines[0]

    said = "waits for prepare to succeed, for fetch to succeed (there is no such job yet)"
    assert why() == f"gpujob/train {said}. It joins the queue after that."
    assert service.explanations.forecast(ME, waits("more", "fetch")) == (
        "waits for fetch to succeed (there is no such job yet). It joins the queue after that"
    )
    found = store.get(Key("GPUJob", "default", "prepare"))
    store.update_status({**found, "status": {"phase": "Failed"}})
    assert why() == "gpujob/train waits in vain: prepare failed, and had to succeed."
