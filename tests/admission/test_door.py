"""The store's door: no write that breaks a rule of a kind is possible, by any verb, in any store."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cumulus
from cumulus import stores
from cumulus.admission import door
from cumulus.admission.admit import admit_create, admit_update
from cumulus.admission.problems import Rejected
from cumulus.admission.validation import problems
from cumulus.clock import FakeClock
from cumulus.errors import InvalidObject, NotFound
from cumulus.resources.job import GPUJob
from cumulus.resources.key import API_VERSION, Document, Key, key_of
from cumulus.resources.registry import BY_NAME, KINDS
from cumulus.store.base import Store, Write
from cumulus.store.client import decode
from cumulus.store.memory import MemoryStore
from cumulus.store.sqlite import SqliteStore
from tests.admission.test_admit import JOB, job, put

MOMENT = "2030-01-01T00:00:00Z"


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store
    if request.param == "memory":
        opened = MemoryStore(FakeClock(), admission=door.check)
    else:
        opened = SqliteStore(tmp_path / "store", FakeClock(), admission=door.check)
    yield opened
    opened.close()


Verb = Callable[[Store, Document], object]
CREATES: dict[str, Verb] = {
    "create": lambda store, document: store.create(document),
    "transact": lambda store, document: store.transact([Write("create", document)]),
}
UPDATES: dict[str, Verb] = {
    "update": lambda store, document: store.update(document),
    "transact": lambda store, document: store.transact([Write("update", document)]),
}
STATUSES: dict[str, Verb] = {
    "update_status": lambda store, document: store.update_status(document),
    "transact": lambda store, document: store.transact([Write("status", document)]),
}
SCHEMA: list[tuple[str, Any]] = [
    ("spec.gpu.memory", "nonsense"),
    ("spec.retry.limit", -1),
    ("spec.priority", "high"),
    ("spec.nonsense", 1),
    ("spec.hostNetwork", True),
    ("metadata.labels", {"a": "b c"}),
    ("metadata.finalizers", "x"),
    ("metadata.nonsense", "x"),
    ("apiVersion", "v1"),
]

EXAMPLES: dict[str, Document] = {
    "GPUJob": job(),
    "GPUPartition": {
        "apiVersion": API_VERSION, "kind": "GPUPartition", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"memory": "10%", "duration": "1h"},
    },
    "GPUNode": {"apiVersion": API_VERSION, "kind": "GPUNode", "metadata": {"name": "n"}, "spec": {}},
}  # fmt: skip


def unchanged(store: Store, verb: Verb, document: Document) -> InvalidObject:
    """What the write raises; nothing of it is stored."""
    before = store.revision()
    with pytest.raises(InvalidObject) as caught:
        verb(store, document)
    assert store.revision() == before
    return caught.value


PARTS: list[tuple[str, Any]] = [
    (part, value) for part in ("metadata", "spec", "status") for value in ({}, [], "", 0, "x", [{}], None)
]
"""Parts that are no models, among them those that count as false."""


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(("part", "value"), PARTS)
def test_the_door_knows_what_the_whole_model_knows(name: str, part: str, value: Any) -> None:
    """Also after it has seen the same parts in a valid object."""
    document = {**EXAMPLES[name], part: value}
    door.check(None, EXAMPLES[name])
    assert _passes(document) == (problems(BY_NAME[name], document) == [])


def _passes(document: Document) -> bool:
    try:
        door.check(None, document)
    except InvalidObject:
        return False
    return True


@pytest.mark.parametrize("verb", CREATES.values(), ids=CREATES)
@pytest.mark.parametrize(("path", "value"), SCHEMA)
def test_nothing_wrong_is_created(store: Store, verb: Verb, path: str, value: Any) -> None:
    unchanged(store, verb, put(job(), path, value))


@pytest.mark.parametrize("verb", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize(("path", "value"), SCHEMA)
def test_nothing_becomes_wrong(store: Store, verb: Verb, path: str, value: Any) -> None:
    unchanged(store, verb, put(store.create(admit_create(JOB, job())), path, value))


@pytest.mark.parametrize("verb", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize(("path", "value"), [("spec.command", ["sh"]), ("spec.gpu.memory", "2Gi"), ("spec.image", "x")])
def test_nothing_immutable_changes(store: Store, verb: Verb, path: str, value: Any) -> None:
    error = unchanged(store, verb, put(store.create(admit_create(JOB, job())), path, value))
    assert f"gpujob/default/train: {path}: is immutable" in str(error)


@pytest.mark.parametrize("verb", STATUSES.values(), ids=STATUSES)
@pytest.mark.parametrize(
    ("path", "value"), [("status.phase", "Somewhere"), ("status.attempts", [{}]), ("status.nonsense", 1)]
)
def test_no_status_becomes_wrong(store: Store, verb: Verb, path: str, value: Any) -> None:
    unchanged(store, verb, put(store.create(admit_create(JOB, job())), path, value))


def test_one_bad_write_takes_its_transaction_with_it(store: Store) -> None:
    writes = [Write("create", job()), Write("create", put(put(job(), "metadata.name", "b"), "spec.replicas", 0))]
    with pytest.raises(Rejected) as caught:
        store.transact(writes)
    assert caught.value.index == 1  # type: ignore[attr-defined]
    assert store.revision() == 0


@pytest.mark.parametrize(
    ("kind", "metadata"), [("GPUJob", {"name": "x"}), ("GPUNode", {"name": "x", "namespace": "default"})]
)
def test_no_object_is_in_the_wrong_place(store: Store, kind: str, metadata: Document) -> None:
    error = unchanged(store, CREATES["create"], {**job(), "kind": kind, "metadata": metadata})
    assert error.field == "metadata.namespace"


def test_what_is_right_passes(store: Store) -> None:
    made = store.create(admit_create(JOB, job()))
    made = store.update(put(made, "spec.suspend", True))
    assert store.update_status(put(made, "status.phase", "Suspended"))["status"]["phase"] == "Suspended"


def test_a_kind_that_is_not_known_passes(store: Store) -> None:
    store.create({"apiVersion": "v9", "kind": "Thing", "metadata": {"name": "x"}, "spec": {"any": "thing"}})


def test_what_is_damaged_can_be_labelled_and_goes(tmp_path: Path) -> None:
    unguarded = SqliteStore(tmp_path / "store")
    damaged = put(admit_create(JOB, job()), "spec.gpu.memory", "nonsense")
    damaged["metadata"]["finalizers"] = ["cumulus.dev/x"]
    unguarded.create(damaged)
    unguarded.close()
    store = stores.open_store(tmp_path / "store")
    key = Key("GPUJob", "default", "train")
    store.update(put(store.get(key), "metadata.labels", {"a": "b"}))
    store.update(put(store.get(key), "spec.suspend", True))
    store.update_status(put(store.get(key), "status.phase", "Failed"))
    unchanged(store, UPDATES["update"], put(store.get(key), "spec.gpu.memory", "other nonsense"))
    store.delete(key)
    store.update(put(store.get(key), "metadata.finalizers", []))
    with pytest.raises(NotFound):
        store.get(key)
    store.close()


def test_product_code_opens_stores_in_one_place() -> None:
    """Else a store would be open whose door nobody watches."""
    root = Path(cumulus.__file__).parent
    found = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = node.func if isinstance(node, ast.Call) else None
            called = name.id if isinstance(name, ast.Name) else name.attr if isinstance(name, ast.Attribute) else ""
            if called in ("SqliteStore", "MemoryStore"):
                found.add(str(file.relative_to(root)))
    assert found == {"stores.py"}


NAMES = st.sampled_from(["a", "b-1", "A", "", "x" * 64])
SPECS = st.fixed_dictionaries(
    {"gpu": st.fixed_dictionaries({"memory": st.sampled_from(["1Gi", "0.5", "50%", "2", 1, None, "x"]),
                                   "duration": st.sampled_from(["1h", "0s", 60, "x"])},
                                  optional={"count": st.sampled_from([1, 0, "2"])})},
    optional={
        "command": st.sampled_from([["python"], [], "python", [""]]),
        "image": st.sampled_from(["pytorch", None, ""]),
        "replicas": st.sampled_from([1, 2, 0, "2"]),
        "suspend": st.sampled_from([True, "yes"]),
        "env": st.sampled_from([[], [{"name": "A", "value": "1"}], [{"name": "A"}, {"name": "A"}]]),
        "mounts": st.sampled_from([[], [{"source": "/a", "target": "/b"}], [{"source": "/a", "target": "/a"}]]),
        "shmSize": st.sampled_from(["1Gi", None]),
        "nonsense": st.just(1),
    },
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(name=NAMES, spec=SPECS, later=SPECS)
def test_what_admission_admits_can_be_read_and_stored(name: str, spec: Any, later: Any) -> None:
    given = {"apiVersion": API_VERSION, "kind": "GPUJob", "metadata": {"name": name}, "spec": spec}
    try:
        made = admit_create(JOB, given)
    except Rejected:
        return
    store = MemoryStore(FakeClock(), admission=door.check)
    stored = store.create(made)
    assert decode(GPUJob, stored).to_json() == stored
    assert admit_create(JOB, made) == made
    try:
        changed = admit_update(JOB, stored, {**deepcopy(stored), "spec": later})
    except Rejected:
        return
    store.update(changed)
    decode(GPUJob, store.get(key_of(stored)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_is_checked(kind: Any) -> None:
    with pytest.raises(Rejected):
        door.check(None, {"apiVersion": API_VERSION, "kind": kind.name, "metadata": {"name": "x", "labels": 1}})
