"""A job is made of blobs of its submitter, by whichever door it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulus.admission.problems import Rejected
from cumulus.blob.base import owner_of
from cumulus.clock import FakeClock
from cumulus.errors import InvalidObject
from cumulus.manifest import InvalidManifest, from_documents
from cumulus.resources.key import Document, Key
from cumulus.resources.submitter import Submitter
from cumulus.service.identity import Identity
from cumulus.service.on_behalf import OnBehalf
from cumulus.service.service import Service
from cumulus.store.base import Write
from cumulus.stores import empty_store
from tests.documents import NOW
from tests.service.conftest import FakeInfrastructure
from tests.service.test_access import binding, job

ANN, ROOT = Identity("ann", 1001), Identity("root", 0)
PAYLOAD = b"a call"
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()
TRAIN = Key("GPUJob", "team", "train")


@pytest.fixture
def outside() -> FakeInfrastructure:
    return FakeInfrastructure()


@pytest.fixture
def service(outside: FakeInfrastructure, tmp_path: Path) -> Service:
    store = empty_store()
    store.create(binding("user", "User", "ann", "team"))
    return Service(lambda: store, tmp_path, FakeClock(NOW), infrastructure=outside, owner=0)


def call() -> Document:
    made = job(call={"payload": SHA256, "python": "3.11"})
    del made["spec"]["command"], made["metadata"]["annotations"]
    return made


DOORS: dict[str, Callable[[Service, Identity], Any]] = {
    "create": lambda s, who: s.objects.create(who, call()),
    "server-side apply": lambda s, who: s.objects.apply_patch(who, TRAIN, call(), field_manager="kubectl"),
    "apply": lambda s, who: s.objects.apply(who, from_documents([call()])),
    "submit": lambda s, who: s.submissions.submit(who, call(), "key"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("who", [ANN, ROOT], ids=lambda who: who.name)
def test_each_door(service: Service, outside: FakeInfrastructure, door: str, who: Identity) -> None:
    other = ROOT if who is ANN else ANN
    outside.blobs.write(owner_of(other), SHA256, len(PAYLOAD), [PAYLOAD])
    outside.blobs.write(owner_of(who), SHA256, len(PAYLOAD), [PAYLOAD[:2]])
    with pytest.raises((InvalidObject, InvalidManifest), match=r"spec[.]call[.]payload: you have no blob"):
        DOORS[door](service, who)
    outside.blobs.write(owner_of(who), SHA256, len(PAYLOAD), [PAYLOAD])
    DOORS[door](service, who)
    assert service.objects.get(who, TRAIN)["spec"]["call"]["payload"] == SHA256


def test_it_can_be_changed_to_no_others(service: Service, outside: FakeInfrastructure) -> None:
    outside.blobs.write(owner_of(ANN), SHA256, len(PAYLOAD), [PAYLOAD])
    service.objects.create(ANN, call())
    with pytest.raises(InvalidObject, match=r"cannot be changed|immutable|may not change"):
        service.objects.patch(ANN, TRAIN, {"spec": {"call": {"payload": "1" * 64}}}, type="merge")


def test_by_a_source(service: Service, outside: FakeInfrastructure) -> None:
    behalf = OnBehalf(service.store, service.clock, service.access, blobs=lambda: outside.blobs)
    submitter = Submitter("root", 0)
    with pytest.raises(Rejected):
        behalf.commit(submitter, [Write("create", call())], [], fence=None)
    outside.blobs.write(owner_of(submitter), SHA256, len(PAYLOAD), [PAYLOAD])
    behalf.commit(submitter, [Write("create", call())], [], fence=None)


def test_without_blobs_no_job_is_made_of_them(tmp_path: Path) -> None:
    store = empty_store()
    with pytest.raises(Rejected):
        Service(lambda: store, tmp_path, owner=0).objects.create(ROOT, call())
