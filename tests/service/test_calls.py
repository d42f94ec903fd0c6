"""Calls whose Python is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cumulus.errors import Forbidden, InvalidObject
from cumulus.resources.key import Document
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.documents import node
from tests.service.conftest import ME, FakeInfrastructure


class WithoutPython(FakeInfrastructure):
    def missing_python(self, job: Document) -> str:
        return "no Python 3.99 is on this node"


def call(**more: Any) -> Document:
    return {"spec": {"call": {"python": "3.99", **more}}}


def test_a_call_without_its_python_is_refused_unless_another_node_may_have_it(tmp_path: Path) -> None:
    store = MemoryStore()
    calls = Service(lambda: store, tmp_path, infrastructure=WithoutPython()).calls
    store.create(node("here"))
    with pytest.raises(InvalidObject, match=r"spec\.call\.python: no Python 3\.99 is on this node"):
        calls.check_python(ME, call(interpreter="/opt/python"))
    store.create(node("there"))
    calls.check_python(ME, call(interpreter="/opt/python"))
    # These go to no other node.
    for stays in (call(), call(interpreter="/opt/python", environment="a" * 64)):
        with pytest.raises(InvalidObject):
            calls.check_python(ME, stays)


def test_who_may_make_no_job_learns_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    calls = Service(lambda: store, tmp_path, infrastructure=WithoutPython()).calls
    with pytest.raises(Forbidden):
        calls.check_python(Identity("nobody", 65534), call())
