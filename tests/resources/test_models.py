"""The models: their JSON is a Kubernetes object, unknown fields are errors, values keep the person's words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cumulus.resources import fields, quantity
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import Condition, condition, is_true, with_condition
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.registry import KINDS


def job(**spec: Any) -> dict[str, Any]:
    return {
        "kind": "GPUJob",
        "metadata": {"name": "train"},
        "spec": {"command": ["python"], "gpu": {"memory": 0.5, "duration": "1h"}} | spec,
    }


def errors(document: dict[str, Any], model: Any = GPUJob) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(document)
    return {".".join(map(str, error["loc"])): error["type"] for error in caught.value.errors()}


def test_json_is_a_kubernetes_object() -> None:
    document = GPUJob.model_validate(job()).to_json()
    assert list(document) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert document["metadata"] == {"name": "train"}
    assert document["spec"]["gpu"] == {
        "memory": "0.5", "count": 1, "duration": "1h", "selector": {"nodeLabels": {}},
    }  # fmt: skip
    assert GPUJob.model_validate(document).to_json() == document


def test_unknown_fields_are_errors_at_every_depth() -> None:
    wrong = job(env=[{"name": "A", "x": 1}], x=1)
    wrong["x"] = wrong["metadata"]["x"] = 1
    assert set(errors(wrong).values()) == {"extra_forbidden"}
    assert errors(wrong).keys() == {"x", "metadata.x", "spec.x", "spec.env.0.x"}


def test_values_never_change() -> None:
    made = GPUJob.model_validate(job())
    with pytest.raises(ValidationError):
        made.spec = made.spec  # type: ignore[misc]


@pytest.mark.parametrize(("written", "kept"), [(90, "90s"), (1.5, "1.5s"), (0.00001, "0.00001s"), (" 1h ", "1h")])
def test_durations_keep_the_words_and_numbers_become_seconds(written: Any, kept: str) -> None:
    document = job()
    document["spec"]["gpu"]["duration"] = written
    assert GPUJob.model_validate(document).spec.gpu.duration == kept
    assert quantity.parse_duration(kept) == quantity.parse_duration(written)


@given(st.floats(1e-9, 1e9) | st.integers(1, 10**9))
@settings(deadline=None)
def test_whatever_a_field_accepts_can_be_parsed_again(number: float) -> None:
    document = job()
    document["spec"]["gpu"]["duration"] = number
    kept = GPUJob.model_validate(document).spec.gpu.duration
    assert quantity.parse_duration(kept) == pytest.approx(float(number))


@pytest.mark.parametrize("field", ["gpu.duration", "activeDeadline"])
def test_no_time_at_all_is_no_duration(field: str) -> None:
    document = job(**({"activeDeadline": 0} if field == "activeDeadline" else {}))
    if field == "gpu.duration":
        document["spec"]["gpu"]["duration"] = "0s"
    assert errors(document) == {f"spec.{field}": "value_error"}


def test_a_delay_may_be_nothing() -> None:
    assert GPUJob.model_validate(job(ttlAfterFinished=0)).spec.ttl_after_finished == "0s"


@pytest.mark.parametrize("name", ["a", "a-b.c", "0", "a" * 253])
def test_names(name: str) -> None:
    assert fields.check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a" * 254, "a b", "ä", "a\n"])
def test_no_names(name: str) -> None:
    with pytest.raises(ValueError):
        fields.check_name(name)


@pytest.mark.parametrize("key", ["a", "A_b.c-d", "example.com/a", "x" * 63])
def test_label_keys(key: str) -> None:
    assert fields.check_label_key(key) == key


@pytest.mark.parametrize("key", ["", "a b", "/a", "a/", "Example.com/a", "a/b/c", "x" * 64, "-a", "a\n"])
def test_no_label_keys(key: str) -> None:
    with pytest.raises(ValueError):
        fields.check_label_key(key)


@pytest.mark.parametrize("value", ["", "a", "A_b.c", "x" * 63])
def test_label_values(value: str) -> None:
    assert fields.check_label_value(value) == value


@pytest.mark.parametrize("value", ["a b", "-a", "a-", "x" * 64, "a/b", "a\n"])
def test_no_label_values(value: str) -> None:
    with pytest.raises(ValueError):
        fields.check_label_value(value)


def test_enforcement_is_ordered() -> None:
    assert Enforcement.HARD.satisfies(Enforcement.GUARDED)
    assert Enforcement.GUARDED.satisfies(Enforcement.GUARDED)
    assert not Enforcement.NONE.satisfies(Enforcement.GUARDED)


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = with_condition((), Condition(type="Ready", status="False", reason="A"), "t1")
    second = with_condition(first, Condition(type="Ready", status="False", reason="B"), "t2")
    third = with_condition(second, Condition(type="Ready", status="True"), "t3")
    both = with_condition(third, Condition(type="Other", status="Unknown"), "t4")
    assert [c.last_transition_time for c in (*first, *second, *third, *both)] == ["t1", "t1", "t3", "t3", "t4"]
    assert second[0].reason == "B"
    assert is_true(both, "Ready")
    assert not is_true(both, "Other")
    assert condition(both, "None") is None


def test_an_object_that_was_never_stored_has_no_uid() -> None:
    made = GPUJob.model_validate(job())
    with pytest.raises(ValueError, match="never stored"):
        _ = made.uid
    assert str(made.key) == "gpujob/train"


def test_an_owner_reference_names_the_owner() -> None:
    document = job()
    document["metadata"] |= {"uid": "u", "namespace": "default"}
    owner = GPUJob.model_validate(document).owner_reference()
    assert (owner.kind, owner.name, owner.uid, owner.controller) == ("GPUJob", "train", "u", True)


def test_ends_are_ends() -> None:
    assert [phase for phase in PartitionPhase if phase.ended] == ["Expired", "Released", "Failed"]
    assert [phase for phase in JobPhase if phase.finished] == ["Succeeded", "Failed"]


def test_mutable_fields_are_fields_of_spec() -> None:
    for kind in KINDS:
        model = kind.model()
        spec = model.model_fields.get("spec")
        aliases = {field.alias for field in spec.annotation.model_fields.values()} if spec is not None else set()
        assert aliases >= {name.split(".")[0] for name in model.MUTABLE}, kind.name


@pytest.mark.parametrize("moment", ["soon", "-5%", "9999-99-99T99:99:99Z", "0001-01-01T00:00:00+05:00"])
def test_a_time_is_a_time(moment: str) -> None:
    damaged = job() | {"status": {"startTime": moment}}
    assert errors(damaged) == {"status.startTime": "value_error"}
    assert GPUJob.model_validate(job() | {"status": {"startTime": "2030-01-31T12:00:00Z"}})


def test_a_node_needs_no_spec() -> None:
    assert GPUNode.model_validate({"kind": "GPUNode", "metadata": {"name": "n"}}).spec.unschedulable is False


def test_a_partition_with_a_device_names_its_node() -> None:
    document = {"kind": "GPUPartition", "metadata": {"name": "p"}, "spec": {"memory": 1, "duration": 1, "device": 0}}
    assert errors(document, GPUPartition) == {"spec": "value_error"}


def test_a_call_takes_the_place_of_the_command() -> None:
    call = {"payload": "a" * 64, "python": "3.11"}
    document = job(call=call)
    del document["spec"]["command"]
    made = GPUJob.model_validate(document)
    assert made.spec.call is not None
    assert made.to_json()["spec"]["call"] == {**call, "session": False, "arguments": []}
    assert "call" not in GPUJob.MUTABLE
    assert "value_error" in errors(job(call=call)).values()
