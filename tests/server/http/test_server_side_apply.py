"""Server-side apply over HTTP: what kubectl and client libraries send, and what they get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cumulus.errors import Forbidden
from cumulus.manifest import InvalidManifest, load_text
from cumulus.resources.key import Document, Key
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from tests.server.http.conftest import Answer, Served

JOBS = "/apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs"
APPLY = "application/apply-patch+yaml"


def config(name: str = "train", labels: dict[str, str] | None = None, **spec: Any) -> Document:
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"name": name, **({"labels": labels} if labels else {})},
        **({"spec": spec} if spec else {}),
    }


def whole(**spec: Any) -> Document:
    return config(command=["python"], gpu={"memory": "0.5", "duration": "1h"}, **spec)


def applied(served: Served, given: Any, query: str = "fieldManager=one", name: str = "train") -> Answer:
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    return served.ask("PATCH", f"{JOBS}/{name}?{query}", body, content_type=APPLY)


def managers(document: Document) -> list[tuple[str, str]]:
    return [(entry["manager"], entry["operation"]) for entry in document["metadata"]["managedFields"]]


def test_an_object_is_created_then_changed_then_left_alone(served: Served) -> None:
    made = applied(served, whole(priority=1))
    assert made.code == 201
    assert made.json["metadata"]["managedFields"] == [
        {
            "manager": "one", "operation": "Apply", "apiVersion": "cumulus.dev/v1alpha1",
            "time": "2030-01-01T12:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:spec": {"f:command": {}, "f:gpu": {"f:duration": {}, "f:memory": {}}, "f:priority": {}},
            },
        }
    ]  # fmt: skip
    served.clock.advance(60)
    again = applied(served, whole(priority=1))
    assert (again.code, again.json) == (200, made.json)
    assert served.store.revision() == 1
    changed = applied(served, whole())
    assert (changed.code, changed.json["spec"]["priority"]) == (200, 0)
    assert changed.json["metadata"]["managedFields"][0]["time"] == "2030-01-01T12:01:00Z"


def test_a_part_of_an_object_is_enough_where_it_is_there(served: Served) -> None:
    assert applied(served, config(priority=3)).code == 422
    applied(served, whole())
    changed = applied(served, config(labels={"team": "x"}, priority=3), "fieldManager=two").json
    assert (changed["spec"]["priority"], changed["spec"]["command"]) == (3, ["python"])
    assert managers(changed) == [("one", "Apply"), ("two", "Apply")]
    left = applied(served, config(), "fieldManager=two").json
    assert (left["spec"]["priority"], "labels" in left["metadata"]) == (0, False)
    assert managers(left) == [("one", "Apply")]


def test_yaml_is_taken_too(served: Served) -> None:
    text = (
        b"apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\nmetadata: {name: train}\n"
        b"spec:\n  command: [python]\n  gpu: {memory: 0.5, duration: 1h}\n"
    )
    assert applied(served, text).code == 201
    assert applied(served, b"a: b: c").code == 400


def test_a_conflict_names_who_owns_what(served: Served) -> None:
    applied(served, whole(env=[{"name": "A", "value": "1"}], priority=1))
    served.ask(
        "PATCH", f"{JOBS}/train?fieldManager=kubectl-edit", {"spec": {"suspend": True}},
        content_type="application/merge-patch+json",
    )  # fmt: skip
    refused = applied(served, whole(priority=2, suspend=False), "fieldManager=two")
    assert refused.code == 409
    updater = '"kubectl-edit" using cumulus.dev/v1alpha1 at 2030-01-01T12:00:00Z'
    status = refused.json
    assert (status["reason"], status["details"]["causes"]) == (
        "Conflict",
        [
            {"reason": "FieldManagerConflict", "message": f"conflict with {updater}", "field": ".spec.suspend"},
            {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".spec.priority"},
        ],
    )
    assert status["message"] == (
        f"Apply failed with 2 conflicts: conflicts with {updater}:\n- .spec.suspend\n"
        'conflicts with "one":\n- .spec.priority'
    )
    one = applied(served, whole(priority=2), "fieldManager=two").json
    assert one["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.priority'
    forced = applied(served, whole(priority=2, suspend=False), "fieldManager=two&force=true").json
    assert (forced["spec"]["priority"], forced["spec"]["suspend"]) == (2, False)
    assert managers(forced) == [("one", "Apply"), ("two", "Apply")]


def test_a_dry_run_writes_nothing(served: Served) -> None:
    assert applied(served, whole(), "fieldManager=one&dryRun=All").code == 201
    assert served.store.revision() == 0
    applied(served, whole())
    tried = applied(served, whole(priority=4), "fieldManager=one&dryRun=All").json
    assert (tried["spec"]["priority"], served.store.revision()) == (4, 1)


def test_every_change_has_an_owner(served: Served) -> None:
    body = {**whole(), "metadata": {"name": "train", "labels": {"a": "1"}}}
    made = served.ask("POST", JOBS, body, user_agent="kubectl/v1.32.0 (linux/amd64)").json
    assert managers(made) == [("kubectl", "Update")]
    merge = "application/merge-patch+json"
    patch = {"metadata": {"labels": {"a": "2"}}}
    patched = served.ask("PATCH", f"{JOBS}/train?fieldManager=label", patch, content_type=merge).json
    assert managers(patched) == [("kubectl", "Update"), ("label", "Update")]
    assert patched["metadata"]["managedFields"][1]["fieldsV1"] == {"f:metadata": {"f:labels": {"f:a": {}}}}
    put = {**patched, "spec": {**patched["spec"], "priority": 7}}
    replaced = served.ask("PUT", f"{JOBS}/train", put, user_agent="").json
    assert managers(replaced)[-1] == ("unknown", "Update")
    revision = served.store.revision()
    same = served.ask("PUT", f"{JOBS}/train?fieldManager=other", replaced)
    assert (same.json, served.store.revision()) == (replaced, revision), "who changes nothing owns nothing"


@pytest.mark.parametrize(
    ("query", "change", "code", "said"),
    [
        ("", {}, 422, "fieldManager: Required value: is required for apply patch"),
        ("fieldManager=a%0Ab", {}, 422, "fieldManager must have 1 to 128 printable characters"),
        ("fieldManager=one&force=perhaps", {}, 400, "force must be true or false"),
        ("fieldManager=one", {"kind": "Pod"}, 400, "the kind of the configuration must be GPUJob"),
        ("fieldManager=one", {"kind": None}, 400, "the kind of the configuration must be GPUJob"),
        ("fieldManager=one", {"apiVersion": "v1"}, 400, "apiVersion of the configuration must be cumulus.dev/v1alpha1"),
        ("fieldManager=one", {"metadata": 1}, 400, "a configuration is an object"),
        ("fieldManager=one", {"metadata": {"name": "other"}}, 400, "the name of the object does not match"),
        ("fieldManager=one", {"metadata": {"namespace": "other"}}, 400, "the namespace of the object does not match"),
        ("fieldManager=one", {"metadata": {"managedFields": [{}]}}, 400, "metadata.managedFields must be nil"),
        ("fieldManager=one", {"metadata": {"uid": "1"}}, 409, "the uid in the configuration is 1"),
        ("fieldManager=one", {"metadata": {"resourceVersion": "9"}}, 409, "the resourceVersion in the configuration"),
        ("fieldManager=one", {"spec": 5}, 422, "spec"),
        ("fieldManager=one", {"spec": {"gpu": {"memory": "much"}}}, 422, "spec.gpu.memory"),
        ("fieldManager=one", {"spec": {"command": ["other"]}}, 422, "spec.command: is immutable"),
        ("fieldManager=one", {"spec": {"env": [{"name": "A"}, {"name": "A"}]}}, 422, "a second time"),
        ("fieldManager=one&fieldValidation=Strict", {"spec": {"gpus": 1}}, 400, 'unknown field "spec.gpus"'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("there", [True, False])
def test_a_bad_apply_is_refused(
    served: Served, query: str, change: Document, code: int, said: str, there: bool
) -> None:
    if there:
        applied(served, whole())
    elif "immutable" in said:
        return
    revision = served.store.revision()
    if isinstance(change.get("spec"), dict):
        change = {"spec": {**whole()["spec"], **change["spec"]}}
    answer = applied(served, {**whole(), **change}, query)
    assert answer.code == code, answer.body
    assert said in answer.json["message"]
    assert served.store.revision() == revision


def test_an_unknown_field_is_left_out_with_a_warning(served: Served) -> None:
    answer = applied(served, whole(gpus=1))
    assert answer.code == 201
    assert 'unknown field \\"spec.gpus\\"' in answer.headers["warning"]
    assert "f:gpus" not in json.dumps(answer.json["metadata"]["managedFields"])


def test_managed_fields_can_be_patched(served: Served) -> None:
    """As kubectl does when it takes what it applied client-side over to server-side."""
    made = served.ask("POST", f"{JOBS}?fieldManager=kubectl-client-side-apply", whole(priority=1)).json
    (entry,) = made["metadata"]["managedFields"]
    operations = [
        {"op": "replace", "path": "/metadata/managedFields",
         "value": [{**entry, "manager": "kubectl", "operation": "Apply"}]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]},
    ]  # fmt: skip
    json_patch = {"content_type": "application/json-patch+json"}
    moved = served.ask("PATCH", f"{JOBS}/train", operations, **json_patch)
    assert (moved.code, managers(moved.json)) == (200, [("kubectl", "Apply")])
    assert applied(served, whole(), "fieldManager=kubectl").json["spec"]["priority"] == 0
    bad = [{"op": "replace", "path": "/metadata/managedFields", "value": [{"operation": "Guess"}]}]
    assert served.ask("PATCH", f"{JOBS}/train", bad, **json_patch).code == 422
    forgotten = [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]
    assert "managedFields" not in served.ask("PATCH", f"{JOBS}/train", forgotten, **json_patch).json["metadata"]


def test_who_may_not_change_an_object_learns_nothing_by_applying(served: Served) -> None:
    applied(served, whole(priority=1))
    served.asks = Identity("stranger", 4711)
    for given in (whole(priority=1), whole(priority=2), config(command=["other"]), config(gpu=5)):
        answer = applied(served, given)
        assert (answer.code, answer.json["reason"]) == (403, "Forbidden")
        assert "python" not in answer.body.decode()
    assert applied(served, config("other"), name="other").code == 403
    manifests = load_text(json.dumps(whole(priority=1)))
    objects = Service(lambda: served.store, served.path.parent / "home").objects
    for dry_run in (True, False):
        with pytest.raises(Forbidden):
            objects.apply(served.asks, manifests, dry_run=dry_run)


def test_what_a_client_printed_can_be_applied(served: Served) -> None:
    """With uid, resourceVersion and status, as `get -o yaml` prints an object."""
    made = applied(served, whole(priority=1)).json
    printed = {**made, "metadata": {name: v for name, v in made["metadata"].items() if name != "managedFields"}}
    again = applied(served, {**printed, "spec": {**printed["spec"], "priority": 2}}, "fieldManager=one&force=true")
    assert (again.code, again.json["spec"]["priority"]) == (200, 2)
    assert applied(served, printed).code == 409, "the object has moved on"


def test_the_command_line_and_kubectl_see_each_other(served: Served) -> None:
    objects = Service(lambda: served.store, served.path.parent / "home", served.clock).objects

    def cumulus(given: Document) -> str:
        return objects.apply(served.asks, load_text(json.dumps(given)))[0].action

    assert cumulus(whole(priority=1)) == "created"
    refused = applied(served, whole(priority=2), "fieldManager=kubectl")
    assert refused.json["details"]["causes"][0]["message"] == 'conflict with "cumulus"'
    assert applied(served, config(labels={"team": "x"}), "fieldManager=kubectl").code == 200
    assert cumulus(whole(priority=1)) == "unchanged"
    theirs = {**whole(priority=1), "metadata": {"name": "train", "labels": {"team": "y"}}}
    with pytest.raises(InvalidManifest, match='another value, which "kubectl" set at'):
        cumulus(theirs)
    assert served.store.get(Key("GPUJob", "default", "train"))["metadata"]["labels"] == {"team": "x"}


def test_a_field_left_empty_is_none(served: Served) -> None:
    """`env:` in YAML is null in what kubectl sends."""
    empty = {**whole(env=None, checkpoint=None, retry={"limit": None}), "status": None}
    empty["metadata"] |= {"annotations": None, "creationTimestamp": None}
    made = applied(served, empty)
    assert made.code == 201, made.body
    assert list(made.json["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]) == ["f:command", "f:gpu", "f:retry"]
    other = {**empty, "metadata": {**empty["metadata"], "name": "other"}}
    assert served.ask("POST", JOBS, other).code == 201
    labels = {**whole(), "metadata": {"name": "third", "labels": {"a": None}}}
    assert served.ask("POST", JOBS, labels).code == 422
