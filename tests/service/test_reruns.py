"""Who may make a job anew, as whom it then runs, and what nobody writes by hand."""

from __future__ import annotations

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import Conflict, Forbidden
from cumulus.resources.key import Document, Key
from cumulus.resources.query import Query
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.reruns import Reruns
from cumulus.store.memory import MemoryStore
from tests.documents import running
from tests.service.test_access import binding

TRAIN = Key("GPUJob", "team", "train")
ANN, BOB, EVE = (Identity(name, uid) for name, uid in (("ann", 1001), ("bob", 1002), ("eve", 1003)))


class Bed:
    def __init__(self, store: MemoryStore, clock: FakeClock) -> None:
        self.store = store
        access = Access(lambda: store, 0)
        self.objects = Objects(store, clock, access)
        self.reruns = Reruns(store, self.objects, access, clock)
        for name, role in (("ann", "user"), ("eve", "user"), ("bob", "admin")):
            store.create(binding(role, "User", name, "team", name))
        made = running("train", namespace="team", image="x")
        made["metadata"] |= {"annotations": {"cumulus.dev/submitter": "ann", "cumulus.dev/submitter-uid": "1001"}}
        self.made = store.create(made)


@pytest.fixture
def bed(store: MemoryStore, clock: FakeClock) -> Bed:
    return Bed(store, clock)


def submitter(document: Document) -> str:
    return str(document["metadata"]["annotations"]["cumulus.dev/submitter"])


def test_its_submitter_may_change_it_on_the_way(bed: Bed) -> None:
    made = bed.reruns.rerun(ANN, TRAIN, changes={"args": ["-x"]})
    assert (submitter(made), made["spec"]["args"]) == ("ann", ["-x"])


def test_an_admin_reruns_it_as_it_is_and_its_submitter_stays(bed: Bed) -> None:
    with pytest.raises(Forbidden, match="is ann's, and would run something else as ann"):
        bed.reruns.rerun(BOB, TRAIN, changes={"args": ["-x"]})
    made = bed.reruns.rerun(BOB, TRAIN)
    assert submitter(made) == "ann"
    (event,) = bed.store.list(Query("Event")).items
    assert event["message"].startswith("bob deleted this job")
    assert made["metadata"]["uid"] != bed.made["metadata"]["uid"]


def test_another_user_may_not(bed: Bed) -> None:
    with pytest.raises(Forbidden, match="cannot delete"):
        bed.reruns.rerun(EVE, TRAIN)
    assert bed.store.get(TRAIN) == bed.made


def test_nobody_writes_earlier_runs_by_hand(bed: Bed) -> None:
    made = bed.reruns.rerun(ANN, TRAIN)
    run = {**made["status"]["earlierRuns"][0], "uid": "another-jobs"}
    for identity in (BOB, Identity("root", 0)):
        with pytest.raises(Forbidden) as raised:
            bed.objects.patch_status(identity, TRAIN, {"status": {"earlierRuns": [run]}})
        assert raised.value.hint == "nobody writes status.earlierRuns by hand"


def test_what_anothers_finalizer_holds_stays(bed: Bed) -> None:
    metadata = {**bed.made["metadata"], "finalizers": ["example.com/backup"]}
    held = bed.store.update({**bed.made, "metadata": metadata})
    with pytest.raises(Conflict, match=r"while example\.com/backup holds it"):
        bed.reruns.rerun(ANN, TRAIN)
    assert bed.store.get(TRAIN) == held
