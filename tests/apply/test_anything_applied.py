"""Whatever is applied, or given as owners, is taken whole or refused with an error of ours."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.clock import FakeClock
from cumulus.errors import CumulusError
from cumulus.resources.key import Document, Key
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.documents import job

ME = Identity("tester", 0)
TRAIN = Key("GPUJob", "default", "train")
NAMES = st.sampled_from(
    [
        "env",
        "name",
        "value",
        "labels",
        "finalizers",
        "ownerReferences",
        "uid",
        "ports",
        "hostPort",
        "gpu",
        "spec",
        "x",
        "",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), below, max_size=4),
    max_leaves=8,
)
steps = st.sampled_from(
    ["f:spec", "f:env", 'k:{"name":"A"}', "v:1", "i:0", ".", "f:", "k:", "x", 'k:{"a":[]}', 'v:"\\ud800"']
)
fields = st.recursive(st.just({}) | json_values, lambda below: st.dictionaries(steps, below, max_size=3), max_leaves=6)
entries = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "manager": st.text(max_size=3) | json_values, "operation": st.sampled_from(["Apply", "Update", "x", 1]),
            "apiVersion": st.sampled_from(["cumulus.dev/v1alpha1", "v9", None, 1]), "fieldsV1": fields,
            "time": st.sampled_from(["2030-01-01T00:00:00Z", "soon", None, 7]), "subresource": json_values,
        },
    )
    | json_values,
    max_size=3,
)  # fmt: skip


def _objects(store: MemoryStore) -> Any:
    return Service(lambda: store, Path(), FakeClock()).objects


def parts(*names: str) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, json_values)) | json_values


@given(
    st.booleans(), parts("labels", "annotations", "finalizers", "ownerReferences", "uid"),
    parts("env", "ports", "gpu", "priority"), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_configuration(there: bool, metadata: Any, spec: Any, force: bool) -> None:
    store = MemoryStore(FakeClock())
    objects = _objects(store)
    if there:
        objects.create(ME, job("train", env=[{"name": "A", "value": "1"}]))
    config: Document = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": metadata, "spec": spec}
    revision = store.revision()
    try:
        after, _ = objects.apply_patch(ME, TRAIN, config, field_manager="m", force=force)
    except CumulusError:
        assert store.revision() == revision
        return
    assert objects.get(ME, TRAIN) == after
    assert objects.apply_patch(ME, TRAIN, config, field_manager="m") == (after, False)


@given(entries | json_values)
@settings(max_examples=60, deadline=None)
def test_owners(given_owners: Any) -> None:
    store = MemoryStore(FakeClock())
    objects = _objects(store)
    objects.create(ME, job("train"))
    with suppress(CumulusError):
        objects.patch(ME, TRAIN, {"metadata": {"managedFields": given_owners}}, field_manager="m")
    objects.set_labels(ME, TRAIN, {"a": "1"})
    objects.apply_patch(ME, TRAIN, job("train", priority=3), field_manager="one", force=True)
    assert objects.get(ME, TRAIN)["spec"]["priority"] == 3
