"""The checkpoints of a job: what is told to whom, and whose they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cumulus.answers.checkpoints import CheckpointBytes
from cumulus.clock import FakeClock
from cumulus.errors import Forbidden, InvalidObject, NotFound, UsageError
from cumulus.resources.key import Document, Key
from cumulus.service.access.access import Access
from cumulus.service.checkpoints import Checkpoints
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.store.memory import MemoryStore
from tests.documents import ago, job
from tests.service.conftest import ME, FakeCheckpoints
from tests.service.test_access import binding

ANN, BOB, VIEWER = Identity("ann", 1001), Identity("bob", 1002), Identity("vic", 1003)
TRAIN = Key("GPUJob", "default", "train")


class Bed:
    def __init__(self, store: MemoryStore, clock: FakeClock) -> None:
        self.store = store
        self.files = FakeCheckpoints()
        self.asked_beyond: list[str] = []
        access = Access(lambda: store, 0)
        self.objects = Objects(store, clock, access)
        self.checkpoints = Checkpoints(access, self.objects, lambda job, nodes: self.files, store, self.beyond)

    def beyond(self, job: Document, uri: str) -> FakeCheckpoints:
        self.asked_beyond.append(uri)
        return self.files

    def has(self, document: Document, *, submitter: str = "ann", started: bool = True) -> None:
        document["metadata"]["annotations"] = {"cumulus.dev/submitter": submitter}
        status = {"attempts": [{"number": 1, "node": "gpu-1", "startTime": ago(minutes=5)}], "attemptCount": 1}
        self.store.create({name: value for name, value in document.items() if name != "status"})
        if started:
            key = Key("GPUJob", "default", document["metadata"]["name"])
            self.store.update_status({**self.store.get(key), "status": status})


@pytest.fixture
def bed(store: MemoryStore, clock: FakeClock) -> Bed:
    for name, role in (("ann", "user"), ("bob", "user"), ("vic", "viewer")):
        store.create(binding(role, "User", name, "default", name))
    return Bed(store, clock)


def a_job(name: str = "train", **spec: Any) -> Document:
    made = job(name)
    made["spec"] = {**made["spec"], "checkpoint": {"uri": "s3://b/p"}, **spec}
    return made


def test_who_sees_the_job_sees_that_something_is_saved(bed: Bed) -> None:
    bed.has(a_job())
    found = bed.checkpoints.list(VIEWER, TRAIN)
    assert (found.node, found.path, found.uri, [each.step for each in found.found]) == (
        "gpu-1",
        "/c",
        "s3://b/p",
        [2, 1],
    )
    assert found.copied is not None
    assert (found.copied.step, found.copied.copying) == (1, 2)
    with pytest.raises(Forbidden):
        bed.checkpoints.list(Identity("eve", 1004), TRAIN)


WHAT: dict[str, Callable[[Bed, Identity], Any]] = {
    "verify": lambda bed, who: list(bed.checkpoints.verify(who, TRAIN)),
    "fetch": lambda bed, who: list(bed.checkpoints.fetch(who, TRAIN, step=1)),
    "prune": lambda bed, who: bed.checkpoints.prune(who, TRAIN, keep=1),
}


@pytest.mark.parametrize("what", WHAT)
def test_what_is_saved_is_the_submitters_and_an_admins(bed: Bed, what: str) -> None:
    bed.has(a_job())
    for other in (VIEWER, BOB):
        with pytest.raises(Forbidden):
            WHAT[what](bed, other)
    assert bed.files.kept == 0
    assert WHAT[what](bed, ANN) == WHAT[what](bed, ME)


def test_those_beyond_the_node_are_asked_of_their_place(bed: Bed) -> None:
    bed.has(a_job())
    found = bed.checkpoints.list(VIEWER, TRAIN, beyond=True)
    assert (found.node, found.copied, bed.asked_beyond) == ("", None, ["s3://b/p"])
    with pytest.raises(Forbidden):
        bed.checkpoints.prune(BOB, TRAIN, keep=1, beyond=True)
    assert bed.checkpoints.prune(ANN, TRAIN, keep=1, beyond=True) == [2]
    bed.has(a_job("near", checkpoint={}))
    with pytest.raises(UsageError, match="no checkpoints beyond its node"):
        bed.checkpoints.list(ANN, TRAIN._replace(name="near"), beyond=True)


def test_bytes_come_as_they_are(bed: Bed) -> None:
    bed.has(a_job())
    assert list(bed.checkpoints.fetch(ANN, TRAIN))[-1] == CheckpointBytes(b"\0\xff1")


def test_a_step_that_is_not_there_is_not_verified(bed: Bed) -> None:
    bed.has(a_job())
    for beyond in (False, True):
        with pytest.raises(NotFound, match="gpujob/train has no checkpoint of step 7"):
            list(bed.checkpoints.verify(ANN, TRAIN, step=7, beyond=beyond))


@pytest.mark.parametrize("step", [-1, 10**12])
def test_what_is_no_step_is_told(bed: Bed, step: int) -> None:
    bed.has(a_job())
    for ask in (bed.checkpoints.verify, bed.checkpoints.fetch):
        with pytest.raises(UsageError, match="a step is a whole number from 0 to 999999999999, not"):
            ask(ANN, TRAIN, step=step)


def test_the_last_one_is_not_pruned(bed: Bed) -> None:
    bed.has(a_job())
    with pytest.raises(UsageError, match="at least one"):
        bed.checkpoints.prune(ANN, TRAIN, keep=0)


def test_a_job_without_any_says_why(bed: Bed) -> None:
    bed.has(job("none"))
    with pytest.raises(UsageError, match="keeps no checkpoints"):
        bed.checkpoints.list(ANN, TRAIN._replace(name="none"))
    bed.has(a_job("new"), started=False)
    with pytest.raises(NotFound, match="not started"):
        bed.checkpoints.list(ANN, TRAIN._replace(name="new"))


class TestFrom:
    """A job that goes on from another's checkpoint."""

    def make(self, bed: Bed, who: Identity, source: str, namespace: str = "default") -> Document:
        made = a_job("next", checkpoint={"from": source}, image="python")
        made["metadata"] = {"name": "next", "namespace": namespace}
        return bed.objects.create(who, {name: value for name, value in made.items() if name != "status"})

    def test_is_for_its_submitter(self, bed: Bed) -> None:
        bed.has(a_job())
        assert self.make(bed, ANN, "train")["metadata"]["name"] == "next"

    def test_not_for_another_nor_for_an_admin(self, bed: Bed) -> None:
        bed.has(a_job())
        for other in (BOB, ME):
            with pytest.raises(Forbidden):
                self.make(bed, other, "default/train")

    def test_needs_the_role_to_read_there(self, bed: Bed) -> None:
        bed.store.create(binding("user", "User", "ann", "team", "ann-in-team"))
        bed.has(a_job())
        assert self.make(bed, ANN, "default/train", namespace="team")
        with pytest.raises(Forbidden):
            self.make(bed, ANN, "secret/train", namespace="team")

    def test_the_job_has_to_be_there(self, bed: Bed) -> None:
        with pytest.raises(InvalidObject, match="there is no") as caught:
            self.make(bed, ANN, "nobody")
        assert caught.value.field == "spec.checkpoint.from"
