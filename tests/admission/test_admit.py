"""Admission, rule by rule: what is refused, with every problem by its field's path, and what becomes of the rest."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from cumulus.admission.admit import admit_create, admit_status, admit_update
from cumulus.admission.problems import Rejected
from cumulus.resources.key import API_VERSION, Document
from cumulus.resources.registry import BY_NAME

JOB = BY_NAME["GPUJob"]
NODE = BY_NAME["GPUNode"]


def job(**spec: Any) -> Document:
    return {
        "apiVersion": API_VERSION,
        "kind": "GPUJob",
        "metadata": {"name": "train", "namespace": "default"},
        "spec": {"command": ["python", "train.py"], "gpu": {"memory": "1Gi", "duration": "1h"}, **spec},
    }


def stored(**spec: Any) -> Document:
    document = admit_create(JOB, job(**spec))
    document["metadata"] |= {"uid": "u-1", "resourceVersion": "1", "generation": 1}
    return document


def put(document: Document, path: str, value: object) -> Document:
    changed = deepcopy(document)
    at: Any = changed
    *names, last = path.split(".")
    for name in names:
        at = at.setdefault(name, {})
    at[last] = value
    return changed


def refused(call: Any, *args: Any, **options: Any) -> dict[str, str]:
    with pytest.raises(Rejected) as caught:
        call(*args, **options)
    return {str(problem).partition(": ")[0]: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    [
        ("spec.gpu.memory", "nonsense", "spec.gpu.memory", "'nonsense' is not a quantity"),
        ("spec.gpu.duration", "0s", "spec.gpu.duration", "is no time; write"),
        ("spec.replicas", 0, "spec.replicas", "must be at least 1, got 0"),
        ("spec.replicas", "3", "spec.replicas", "must be a whole number, got '3'; remove the quotes"),
        ("spec.suspend", "yes", "spec.suspend", "must be true or false, got 'yes'; write true"),
        ("spec.command", "python", "spec.command", "must be a list, got 'python'; write ['python']"),
        ("spec.comand", ["x"], "spec.comand", "unknown field; did you mean command?"),
        ("spec.placement", "pack", "spec.placement", "must be Pack or Spread, got 'pack'; did you mean Pack?"),
        ("spec.shmSize", "1Gi", "spec.shmSize", "needs an image"),
        ("spec.env", [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}], "spec.env[1].name", "a second time"),
        ("metadata.name", "Train_1", "metadata.name", "lower-case"),
        ("metadata.labels", {"a": "b c"}, "metadata.labels[a]", ""),
        ("apiVersion", "v1", "apiVersion", "must be cumulus.dev/v1alpha1, got 'v1'"),
    ],
)
def test_each_rule_of_writing(path: str, value: object, field: str, message: str) -> None:
    found = refused(admit_create, JOB, put(job(), path, value))
    assert message in found[field]


def test_every_problem_is_told_at_once() -> None:
    wrong = put(put(job(replicas=0), "spec.gpu.memory", "nonsense"), "spec.shmSize", "1Gi")
    assert refused(admit_create, JOB, wrong).keys() == {"spec.gpu.memory", "spec.replicas", "spec.shmSize"}


def test_a_rejection_is_one_line_that_names_the_object_and_counts_the_rest() -> None:
    with pytest.raises(Rejected) as caught:
        admit_create(JOB, put(job(replicas=0), "spec.gpu.duration", "0s"))
    assert str(caught.value).startswith("gpujob/default/train: spec.")
    assert str(caught.value).endswith("; and 1 more problem")
    assert caught.value.field in ("spec.replicas", "spec.gpu.duration")


def test_what_is_left_out_gets_its_default() -> None:
    given = job()
    del given["metadata"]["namespace"]
    made = admit_create(JOB, given)
    assert made["metadata"]["namespace"] == "default"
    assert (made["spec"]["replicas"], made["spec"]["preemptible"]) == (1, "Checkpoint")
    assert made["status"]["phase"] == "Pending"


def test_a_node_has_no_namespace() -> None:
    node = {"apiVersion": API_VERSION, "kind": "GPUNode", "metadata": {"name": "n1", "namespace": "default"}}
    assert refused(admit_create, NODE, node) == {"metadata.namespace": "a GPUNode belongs to no namespace; remove it"}


def test_a_persons_status_is_not_taken() -> None:
    given = job() | {"status": {"phase": "Succeeded"}}
    assert admit_create(JOB, given, user=True)["status"]["phase"] == "Pending"
    assert admit_create(JOB, given)["status"]["phase"] == "Succeeded"


def test_nodes_are_made_by_discovery_and_by_people_with_an_address() -> None:
    node = {"apiVersion": API_VERSION, "kind": "GPUNode", "metadata": {"name": "n1"}}
    assert "made by discovery" in refused(admit_create, NODE, node, user=True)["metadata.name"]
    assert admit_create(NODE, node)["kind"] == "GPUNode"
    assert admit_create(NODE, node | {"spec": {"ssh": {"host": "h", "user": "u"}}}, user=True)["spec"]["ssh"]


def test_people_do_not_make_the_systems_objects() -> None:
    event = {
        "apiVersion": API_VERSION, "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "GPUJob", "namespace": "default", "name": "train"}, "reason": "Started",
        "source": {"component": "job"}, "firstTimestamp": "2030-01-01T00:00:00Z",
        "lastTimestamp": "2030-01-01T00:00:00Z",
    }  # fmt: skip
    assert "made by the system" in refused(admit_create, BY_NAME["Event"], event, user=True)["kind"]
    assert admit_create(BY_NAME["Event"], event)["reason"] == "Started"


@pytest.mark.parametrize(
    ("path", "value"),
    [("spec.command", ["sh"]), ("spec.gpu.memory", "2Gi"), ("spec.replicas", 2), ("spec.image", "pytorch")],
)
def test_immutable_fields(path: str, value: object) -> None:
    assert (
        "is immutable and cannot change from" in refused(admit_update, JOB, stored(), put(stored(), path, value))[path]
    )


@pytest.mark.parametrize(
    ("path", "value"), [("spec.suspend", True), ("spec.priority", 5), ("metadata.labels", {"a": "b"})]
)
def test_mutable_fields(path: str, value: object) -> None:
    admit_update(JOB, stored(), put(stored(), path, value))


def test_other_words_for_the_same_value_are_no_change() -> None:
    old = stored(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])
    new = job(gpu={"memory": "1024Mi", "duration": "60m"}, env=[*reversed(old["spec"]["env"])])
    assert admit_update(JOB, old, new)["spec"] == old["spec"]


def test_an_update_leaves_the_status_alone() -> None:
    old = stored()
    old["status"]["phase"] = "Running"
    assert admit_update(JOB, old, put(old, "status.phase", "Failed"))["status"]["phase"] == "Running"


@pytest.mark.parametrize(
    ("status", "field"),
    [
        ({"phase": "Somewhere"}, "status.phase"),
        ({"phase": "Running", "conditions": [{"type": "Running", "status": "yes"}]}, "status.conditions[0].status"),
        ({"phase": "Running", "attempts": [{"number": "one"}]}, "status.attempts[0].number"),
        ("Running", "status"),
    ],
)
def test_a_status_that_is_none(status: object, field: str) -> None:
    assert refused(admit_status, JOB, stored(), stored() | {"status": status}).keys() == {field}


def test_a_status_changes_nothing_else() -> None:
    written = put(stored(), "spec.priority", 7) | {"status": {"phase": "Running"}}
    after = admit_status(JOB, stored(), written)
    assert (after["status"]["phase"], after["spec"]["priority"]) == ("Running", 0)


class TestObjectsFromBeforeARule:
    """A problem that is stored already is not held against a change of something else."""

    old = put(put(stored(), "spec.env", [{"name": "A", "value": "1"}] * 2), "spec.gpu.memory", "nonsense")

    @pytest.mark.parametrize(
        ("path", "value"),
        [("spec.suspend", True), ("metadata.labels", {"a": "b"}), ("metadata.finalizers", ["cumulus.dev/x"])],
    )
    def test_what_is_not_wrong_can_change(self, path: str, value: object) -> None:
        admit_update(JOB, self.old, put(self.old, path, value))

    def test_its_status_can_be_written(self) -> None:
        admit_status(JOB, self.old, self.old | {"status": {"phase": "Failed"}})

    def test_a_new_problem_is_refused_alone(self) -> None:
        found = refused(admit_update, JOB, self.old, put(self.old, "metadata.labels", {"a": "b c"}))
        assert found.keys() == {"metadata.labels[a]"}

    def test_what_is_wrong_cannot_become_wrong_otherwise(self) -> None:
        assert "spec.gpu.memory" in refused(admit_update, JOB, self.old, put(self.old, "spec.gpu.memory", "rubbish"))

    def test_a_damaged_status_can_be_replaced_and_what_was_there_kept(self) -> None:
        old = stored() | {"status": {"phase": "Somewhere"}}
        admit_status(JOB, old, old | {"status": {"phase": "Running"}})
        admit_update(JOB, old, put(old, "spec.suspend", True))
