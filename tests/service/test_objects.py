"""What the service adds to the store, where the suite of clients does not show it."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import Conflict, InvalidObject
from cumulus.resources.key import Document, Key
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import ATTEMPTS, Objects, kind_of
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.documents import job

TESTER = Identity("tester", 0)
TRAIN = Key("GPUJob", "default", "train")


def test_an_object_that_never_holds_still_is_given_up() -> None:
    store = MemoryStore()
    store.create(job("train"))
    tries = 0

    def change(document: Document) -> Document:
        nonlocal tries
        tries += 1
        store.update({**document, "metadata": {**document["metadata"], "labels": {"n": str(tries)}}})
        return {**document, "spec": {**document["spec"], "suspend": True}}

    with pytest.raises(Conflict, match="gpujob/train keeps changing"):
        Objects(store, FakeClock(), Access(lambda: store, 0)).edit(TESTER, TRAIN, change)
    assert tries == ATTEMPTS


def test_a_dry_run_is_told_what_the_write_would_be_told(tmp_path: Path) -> None:
    objects = Service(MemoryStore, tmp_path).objects
    made = objects.create(TESTER, job("train"))
    with pytest.raises(Conflict):
        objects.update(TESTER, {**made, "metadata": {**made["metadata"], "resourceVersion": "7"}}, dry_run=True)
    with pytest.raises(InvalidObject):
        objects.create(TESTER, job("other", gpu={"duration": "soon"}), dry_run=True)


def test_a_kind_that_there_is_not() -> None:
    with pytest.raises(InvalidObject, match="there is no kind None") as raised:
        kind_of({})
    assert raised.value.field == "kind"


def test_the_user_of_this_process() -> None:
    me = Identity.of_this_process()
    assert (me.name, me.uid) == (pwd.getpwuid(os.geteuid()).pw_name, os.geteuid())
    assert me.groups == tuple(grp.getgrgid(gid).gr_name for gid in os.getgroups())


def test_a_user_without_a_name_goes_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_001)
    monkeypatch.setattr(os, "getgroups", lambda: [4_000_000_002])
    assert Identity.of_this_process() == Identity("4000000001", 4_000_000_001, ("4000000002",))
