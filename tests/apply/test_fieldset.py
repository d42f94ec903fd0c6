"""Sets of fields as Kubernetes writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.apply import fieldset
from cumulus.apply.fieldset import FieldSet
from cumulus.resources.annotations import LAST_APPLIED

JOB = {
    "apiVersion": "cumulus.dev/v1alpha1",
    "kind": "GPUJob",
    "metadata": {"name": "train", "labels": {"app": "x"}, "finalizers": ["a/b"], "uid": "1"},
    "spec": {
        "command": ["python"],
        "env": [{"name": "A", "value": "1"}],
        "ports": [{"containerPort": 80, "hostPort": 8080}],
        "gpu": {"memory": "0.5", "selector": {}},
        "args": [],
    },
    "status": {"phase": "Running"},
}
JOBS_FIELDS = {
    "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {'v:"a/b"': {}}},
    "f:spec": {
        "f:command": {},
        "f:args": {},
        "f:env": {'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}},
        "f:ports": {'k:{"hostPort":8080}': {".": {}, "f:containerPort": {}, "f:hostPort": {}}},
        "f:gpu": {"f:memory": {}, "f:selector": {}},
    },
}


def test_what_somebody_sets_by_a_document() -> None:
    assert fieldset.encode(fieldset.fields(JOB)) == JOBS_FIELDS
    assert fieldset.decode(JOBS_FIELDS) == fieldset.fields(JOB)


def test_the_note_of_an_earlier_version_is_no_field() -> None:
    annotations = {LAST_APPLIED: "{}", "note": "x"}
    assert fieldset.fields({"metadata": {"annotations": annotations}}) == {
        ("f:metadata", "f:annotations", "f:note")
    }  # fmt: skip
    assert fieldset.fields({"metadata": {"annotations": {LAST_APPLIED: "{}"}}}) == frozenset()


_STEPS = st.one_of(
    st.text(max_size=4).map("f:{}".format),
    st.sampled_from(['k:{"name":"A"}', 'k:{"hostPort":1}', 'k:{"a":"x","b":1}', 'v:"x"', "v:1", "i:0"]),
)


@given(st.frozensets(st.lists(_STEPS, min_size=1, max_size=4).map(tuple), max_size=8))
def test_fields_v1_there_and_back(fields: FieldSet) -> None:
    assert fieldset.decode(fieldset.encode(fields)) == fields


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ([], "fieldsV1 must be a map"), ({"f:spec": 1}, ".spec must be a map"), ({"spec": {}}, "no step"),
        ({"k:": {}}, "no step"), ({"k:[]": {}}, "no step"), ({"k:{}": {}}, "no step"), ({"i:x": {}}, "no step"),
        ({"v:{": {}}, "no step"), ({"x:1": {}}, "no step"),
    ],
)  # fmt: skip
def test_what_is_no_set_of_fields(fields: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fieldset.decode(fields)


def test_a_path_that_never_ends_is_refused() -> None:
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"f:a": deep}
    with pytest.raises(ValueError, match="more than 32 steps"):
        fieldset.decode(deep)


def test_paths_as_people_read_them() -> None:
    path = ("f:spec", "f:env", 'k:{"name":"A"}', "f:value")
    assert fieldset.text(path) == '.spec.env[name="A"].value'
    assert fieldset.plain(path) == ("spec", "env")
    assert fieldset.text(("f:metadata", "f:finalizers", 'v:"a/b"')) == '.metadata.finalizers[="a/b"]'
    assert fieldset.text(("f:a", 'k:{"port":1,"protocol":"TCP"}', "i:3")) == '.a[port=1,protocol="TCP"][3]'


def test_what_is_not_valid_is_left_for_admission_to_say() -> None:
    live = {"spec": {"env": [{"name": "A"}]}}
    for env in ([3], [{"name": "A"}, {"name": "A"}], "x", {"A": 1}, [{"name": None}]):
        assert fieldset.merge(live, {"spec": {"env": env}})["spec"]["env"] == env
    assert fieldset.merge({"spec": {"a": 1}}, {"spec": 5}) == {"spec": 5}
