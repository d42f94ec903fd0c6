"""What controllers write leaves the owners of fields as they are: it is of no manager."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import InvalidObject
from cumulus.resources.job import GPUJob
from cumulus.resources.key import Document, Key
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.service import Service
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from tests.documents import job

ME = Identity("tester", 0)
TRAIN = Key("GPUJob", "default", "train")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(FakeClock())


@pytest.fixture
def objects(store: MemoryStore, tmp_path: Path) -> Objects:
    objects = Service(lambda: store, tmp_path).objects
    objects.create(ME, job("train", env=[{"name": "A", "value": "1"}]), field_manager="web")
    return objects


def entries(store: MemoryStore) -> list[Document]:
    found: list[Document] = store.get(TRAIN)["metadata"]["managedFields"]
    return found


def test_a_write_through_a_model(store: MemoryStore, objects: Objects) -> None:
    before, client = entries(store), StoreClient(store)
    read = client.get(GPUJob, "default", "train")
    held = read.metadata.model_copy(update={"finalizers": ("cumulus.dev/job",)})
    client.update(read.replace(metadata=held))
    revision = store.revision()
    client.update(client.get(GPUJob, "default", "train"))
    assert store.revision() == revision, "what is read is what was written"
    status = client.get(GPUJob, "default", "train")
    client.update_status(status.replace(status=status.status.model_copy(update={"failures": 1})))
    assert entries(store) == before


def test_what_belongs_to_nobody_is_in_no_conflict(store: MemoryStore, objects: Objects) -> None:
    document = store.get(TRAIN)
    store.update({**document, "spec": {**document["spec"], "priority": 5}})
    config = {**job("train"), "spec": {"priority": 7}}
    after, made = objects.apply_patch(ME, TRAIN, config, field_manager="ci")
    assert (after["spec"]["priority"], made) == (7, False)


def test_owners_count_towards_the_room_of_an_object(objects: Objects) -> None:
    """A user could fill the room that is left for status otherwise."""
    fields = {f"f:{'x' * 1000}{number}": {} for number in range(1100)}
    forged = [{"manager": "m", "operation": "Update", "apiVersion": "cumulus.dev/v1alpha1", "fieldsV1": fields}]
    with pytest.raises(InvalidObject, match="more than the 1048576 that may be given"):
        objects.patch(ME, TRAIN, {"metadata": {"managedFields": forged}})
