"""What a program changed in the directory that was carried to it: who may have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cumulus.answers.carried import ChangePiece, ChangesFound
from cumulus.clock import FakeClock
from cumulus.errors import Forbidden
from cumulus.resources.key import Document, Key
from cumulus.service.access.access import Access
from cumulus.service.carried import Carried
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.store.memory import MemoryStore
from tests.documents import job
from tests.service.test_access import binding

TRAIN = Key("GPUJob", "default", "train")


def test_it_is_its_submitters_and_admins(store: MemoryStore, clock: FakeClock) -> None:
    asked: list[int] = []

    def read(found: Document, most: int, nodes: Callable[[str], Document | None]) -> Iterator[ChangePiece]:
        asked.append(most)
        return iter([ChangesFound("gpu-1", "/work", 0, 0, sent=True)])

    for name, role in (("ann", "user"), ("bob", "user"), ("vic", "viewer")):
        store.create(binding(role, "User", name, "default", name))
    access = Access(lambda: store, 0)
    carried = Carried(access, store, Objects(store, clock, access), read)
    document = job("train")
    document["metadata"]["annotations"] = {"cumulus.dev/submitter": "ann"}
    store.create(document)
    assert [*carried.changes(Identity("ann", 1001), TRAIN, most=-5)]
    assert [*carried.changes(Identity("root", 0), TRAIN, most=7)]
    for other in (Identity("bob", 1002), Identity("vic", 1003), Identity("eve", 1004)):
        with pytest.raises(Forbidden):
            carried.changes(other, TRAIN, most=7)
    assert asked == [0, 7]
