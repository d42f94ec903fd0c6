"""The typed client: reads and writes models, and is never surprised by what a row holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.clock import FakeClock
from cumulus.errors import Conflict, Fenced, InvalidObject, NotFound
from cumulus.resources.job import GPUJob
from cumulus.resources.lease import Lease
from cumulus.resources.meta import Resource
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.store.base import Fence, Query
from cumulus.store.client import StoreClient, decode
from cumulus.store.memory import MemoryStore

SPEC = {"leaseDurationSeconds": 6, "acquireTime": "2030-01-01T00:00:00Z", "renewTime": "2030-01-01T00:00:00Z"}


def lease(name: str = "leader", token: int = 1, **metadata: Any) -> Lease:
    return Lease.model_validate(
        {"kind": "Lease", "metadata": {"name": name, **metadata}, "spec": {**SPEC, "token": token}}
    )


@pytest.fixture
def client() -> StoreClient:
    return StoreClient(MemoryStore(FakeClock()))


def test_reads_back_what_it_wrote(client: StoreClient) -> None:
    made = client.create(lease(labels={"a": "b"}))
    assert made.uid
    assert made.spec.token == 1
    assert client.get(Lease, "", "leader") == made
    assert client.list(Lease) == [made]
    assert client.list(Lease, Query("Lease", labels="a=c")) == []
    changed = client.update(made.replace(spec=made.spec.model_copy(update={"token": 2})))
    assert changed.spec.token == 2
    assert changed.metadata.generation == 2
    with pytest.raises(Conflict):
        client.update(made.replace(spec=made.spec.model_copy(update={"token": 3})))
    client.delete(changed)
    with pytest.raises(NotFound):
        client.get(Lease, "", "leader")


def test_deletes_that_very_object_only(client: StoreClient) -> None:
    old = client.create(lease())
    client.delete(old)
    client.create(lease())
    with pytest.raises(NotFound):
        client.delete(old)


def test_every_write_carries_the_fence(client: StoreClient) -> None:
    made = client.create(lease())
    leader = StoreClient(client.store, Fence("", "leader", 1))
    other = leader.create(lease("other"))
    client.update(made.replace(spec=made.spec.model_copy(update={"token": 2})))
    for write in (
        lambda: leader.create(lease("third")),
        lambda: leader.update(other),
        lambda: leader.update_status(other),
        lambda: leader.delete(other),
    ):
        with pytest.raises(Fenced):
            write()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "r",
    "message": "m",
    "lastTransitionTime": "2030-01-31T12:00:00Z",
}
META = {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1", "labels": {"a": "b"}, "finalizers": ["f"]}
VALID: tuple[tuple[type[Resource], dict[str, Any]], ...] = (
    (
        GPUJob,
        {
            "kind": "GPUJob",
            "metadata": META,
            "spec": {
                "command": ["true"],
                "env": [{"name": "A", "value": "b"}],
                "mounts": [{"source": "/a", "target": "b"}],
                "gpu": {
                    "memory": "0.5",
                    "compute": "50%",
                    "count": 2,
                    "duration": "1h",
                    "selector": {"minMemory": "1Gi", "nodeLabels": {"a": "b"}},
                },
                "resources": {"cpus": "500m", "memory": "1Gi"},
                "retry": {"limit": 1, "backoff": "1s"},
                "checkpoint": {"path": "/c", "gracePeriod": "30s", "onExpiry": "Fail"},
                "activeDeadline": "2h",
                "ttlAfterFinished": "1h",
            },
            "status": {"phase": "Running", "conditions": [CONDITION], "attempts": [{"number": 1, "exitCode": 0}]},
        },
    ),
    (
        GPUPartition,
        {
            "kind": "GPUPartition",
            "metadata": META,
            "spec": {
                "memory": "20Gi",
                "duration": "90s",
                "gang": {"name": "g", "size": 1, "since": "t"},
                "renewal": {"policy": "WhileIdle", "maximum": "2h"},
            },
            "status": {"phase": "Active", "conditions": [CONDITION], "memoryBytes": 1, "enforcement": "hard"},
        },
    ),
    (
        GPUNode,
        {
            "kind": "GPUNode",
            "metadata": META,
            "spec": {"unschedulable": True},
            "status": {
                "runtimes": ["process"],
                "devices": [{"index": 0, "name": "d", "memoryBytes": 1, "enforcement": "none"}],
            },
        },
    ),
    (Lease, {"kind": "Lease", "metadata": META, "spec": {**SPEC, "token": 1}}),
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a document, the document itself first."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, part in inner for place in places(part, (*path, name)))]


def changed(document: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """The document with another value at the place."""
    if not place:
        return value
    copy = document.copy()
    copy[place[0]] = changed(document[place[0]], place[1:], value)
    return copy


@pytest.mark.parametrize(("model", "document"), VALID)
def test_the_documents_to_be_damaged_are_valid(model: type[Resource], document: dict[str, Any]) -> None:
    assert decode(model, document).metadata.name == "a"


ODD = JSON | st.sampled_from(("", "-1", "1e999", "nan", "9" * 400, "\n", "0.5\n", -1, 10**30, [], {}, "\x00", "\ud800"))


@settings(deadline=None, max_examples=300)
@given(data=st.data(), base=st.sampled_from(VALID))
def test_any_row_decodes_or_is_an_invalid_object(data: st.DataObject, base: tuple[type[Resource], Any]) -> None:
    model, document = base
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from([p for p in places(document) if p]))
        document = changed(document, place, data.draw(ODD))
    message = ""
    try:
        decode(model, document)
    except InvalidObject as error:
        message = str(error)
        assert model.KIND in message
    assert "\n" not in message


def test_an_odd_field_name_keeps_the_message_in_one_line() -> None:
    with pytest.raises(InvalidObject) as caught:
        decode(Lease, {"kind": "Lease", "metadata": {"name": "a"}, "spec": {**SPEC, "token": 1, "a\nb": 1}})
    assert "spec.'a\\nb'" in str(caught.value)


@pytest.mark.parametrize(
    "document", [{}, {"metadata": None}, {"metadata": {}}, {"kind": {}}, {"kind": "Lease", "metadata": []}]
)
def test_a_row_without_a_name_is_an_invalid_object(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidObject, match="an object as stored is not a valid Lease"):
        decode(Lease, document)
