"""What `auth can-i` says is what the verb then does: each cell of the matrix that has a path, for each role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cumulus import paths
from cumulus.resources.roles import Role
from cumulus.resources.submitter import SUBMITTER, SUBMITTER_UID
from cumulus.secrets import JobSecrets
from cumulus.server.http.kubernetes.groups import api_groups
from cumulus.service.access.access import ADMIN_GROUP
from cumulus.service.access.matrix import RESOURCES, GuardedResource
from cumulus.service.identity import Identity
from tests.documents import event, job, lease, node, partition
from tests.server.http.conftest import Served
from tests.service.conftest import ME
from tests.service.test_access import binding

ANN = Identity("ann", 1001, ("lab",))
ACCESS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
MERGE = "application/merge-patch+json"


def documents() -> dict[str, dict[str, Any]]:
    """An object x of each kind, as Ann would have made it."""
    made = {
        "gpujobs": job("x", namespace="team", image="busybox", runAsUser=1001),
        "gpupartitions": partition("x"), "gpunodes": node("x", ssh={"host": "h", "user": "root"}),
        "events": event("x", job("x", namespace="team"), "Started", ""), "leases": lease("2030-01-01T00:00:00Z"),
        "rolebindings": binding("viewer", "User", "bob", "team", "x"),
        "clusterrolebindings": binding("viewer", "User", "bob", called="x"),
        "sources": {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "Source", "metadata": {"name": "x", "namespace": "team"},
            "spec": {"git": {"url": "https://git.example.org/r.git"}},
        },
        "gpucronjobs": {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUCronJob", "metadata": {"name": "x", "namespace": "team"},
            "spec": {
                "schedule": "0 3 * * *",
                "jobTemplate": {
                    "spec": {"image": "busybox", "runAsUser": 1001, "gpu": {"memory": "10%", "duration": "1h"}},
                },
            },
        },
        "queues": {"apiVersion": "cumulus.dev/v1alpha1", "kind": "Queue", "metadata": {"name": "x"}, "spec": {}},
        "reservations": {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "Reservation", "metadata": {"name": "x"},
            "spec": {"nodes": ["n"], "start": "2030-01-01T00:00:00Z", "duration": "1h"},
        },
        "gpujobarrays": {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJobArray", "metadata": {"name": "x", "namespace": "team"},
            "spec": {"indexes": "0-1", "jobTemplate": {"spec": {
                "image": "i", "gpu": {"memory": "10%", "duration": "1h"},
            }}},
        },
        "queueusages": {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "QueueUsage", "metadata": {"name": "x"},
            "spec": {"queue": "x", "user": "ann"},
        },
    }  # fmt: skip
    for plural, document in made.items():
        metadata = document["metadata"]
        metadata["name"] = "x"
        metadata["annotations"] = {SUBMITTER: "ann", SUBMITTER_UID: "1001"}
        if plural == "gpupartitions":
            metadata["namespace"] = "team"
    return made


def with_paths() -> dict[tuple[str, str], GuardedResource]:
    """Those cells that have a path, by group and name."""
    there = {
        (group, f"{resource.plural}{below}")
        for (group, _), found in api_groups().items()
        for resource in found
        for below in ("", *(f"/{sub.name}" for sub in resource.subresources))
    }
    return {(r.group, r.name): r for r in RESOURCES if (r.group, r.name) in there}


def requests(resource: GuardedResource, verb: str, document: dict[str, Any] | None) -> tuple[str, str, Any, str]:
    """Method, path, body and its type."""
    version = "v1alpha1" if resource.group == "cumulus.dev" else "v1"
    root = f"/apis/{resource.group}/{version}" if resource.group else "/api/v1"
    plural, _, below = resource.name.partition("/")
    collection = f"{root}/namespaces/team/{plural}" if resource.namespaced else f"{root}/{plural}"
    # A pod's name is its job's with a number.
    one = f"{collection}/{'x-0' if plural == 'pods' else 'x'}{'/' + below if below else ''}"
    if verb == "create" and below:
        collection = one
    body = document if document is not None else {"metadata": {"name": "x"}}
    if resource.name == "selfsubjectaccessreviews":
        body = {"spec": {"nonResourceAttributes": {"path": "/x", "verb": "get"}}}
    elif resource.name == "selfsubjectrulesreviews":
        body = {"spec": {"namespace": "team"}}
    elif resource.name == "secrets":
        body = {"metadata": {"name": "x"}, "stringData": {"key": "value"}}
    elif resource.name == "selfsubjectreviews":
        body = {}
    json = "application/json"
    return {
        "get": ("GET", one, None, json), "list": ("GET", collection, None, json),
        # From a revision that is yet to come, so that it does not go on.
        "watch": ("GET", f"{collection}?watch=1&resourceVersion=999999", None, json),
        "update": ("PUT", one, body, json), "patch": ("PATCH", one, {"metadata": {"labels": {"a": "b"}}}, MERGE),
        "delete": ("DELETE", one, None, json), "create": ("POST", collection, body, json),
        "deletecollection": ("DELETE", collection, None, json),
    }[verb]  # fmt: skip


ORDER = ("get", "list", "watch", "update", "patch", "delete", "create", "deletecollection")


def cells() -> Iterator[tuple[GuardedResource, str]]:
    for resource in with_paths().values():
        for verb in sorted(resource.verbs, key=ORDER.index):
            yield resource, verb


@pytest.mark.parametrize("role", [None, *Role], ids=str)
def test_each_cell(served: Served, role: Role | None) -> None:
    made = documents()
    for document in made.values():
        served.store.create(document)
    JobSecrets(paths.job_secrets_dir(served.path.parent / "home")).of("team").set("x", "key", "value")
    # An admin by their group keeps the role when they delete every binding.
    served.asks = ANN._replace(groups=(ADMIN_GROUP,)) if role is Role.ADMIN else ANN
    if role is not None:
        for where in ("", "team"):
            served.store.create(binding(role, "User", "ann", where, "mine"))
    wrong = []
    for resource, verb in cells():
        name, _, below = resource.name.partition("/")
        asked = {
            "verb": verb, "group": resource.group, "resource": name, "subresource": below,
            "namespace": "team" if resource.namespaced else "",
        }  # fmt: skip
        review = served.ask("POST", ACCESS, {"spec": {"resourceAttributes": asked}})
        assert review.code == 201, review.body
        method, path, body, content_type = requests(resource, verb, made.get(name) if resource.group else None)
        answer = served.ask(method, path, body, content_type=content_type)
        status = review.json["status"]
        if status["allowed"] == (answer.code == 403) or answer.code == 405 or answer.code >= 500:
            wrong.append((resource.name, verb, status, answer.code, answer.body[:300]))
    assert not wrong


def test_of_what_is_anothers_it_says_whose_it_is(served: Served) -> None:
    served.store.create(documents()["gpujobs"])
    for name in ("ann", "bob"):
        served.store.create(binding("user", "User", name, "team", name))

    def may(name: str, verb: str) -> dict[str, Any]:
        asked = {"verb": verb, "group": "cumulus.dev", "resource": "gpujobs", "namespace": "team", "name": name}
        status: dict[str, Any] = served.ask("POST", ACCESS, {"spec": {"resourceAttributes": asked}}).json["status"]
        return status

    served.asks = Identity("bob", 1002)
    assert may("x", "delete") == {"allowed": False, "reason": "it is ann's: only they and an admin may change it"}
    assert served.ask("DELETE", "/apis/cumulus.dev/v1alpha1/namespaces/team/gpujobs/x").code == 403
    assert may("x", "get")["allowed"]
    assert may("missing", "delete")["allowed"]
    served.asks = ANN
    assert may("x", "delete")["allowed"]


def test_paths_that_are_no_resources(served: Served) -> None:
    served.asks = ANN

    def may(path: str, verb: str = "get") -> bool:
        asked = {"spec": {"nonResourceAttributes": {"path": path, "verb": verb}}}
        return bool(served.ask("POST", ACCESS, asked).json["status"]["allowed"])

    assert [path for path in ("/livez", "/api/v1", "/version/", "/metrics", "/other") if may(path)] == [
        "/livez", "/api/v1", "/version/",
    ]  # fmt: skip
    assert not may("/livez", "post")
    served.asks = ME
    made = served.ask("POST", "/apis/cumulus.dev/v1alpha1/clusterrolebindings", binding("viewer", "User", "ann"))
    assert made.code == 201
    served.asks = ANN
    assert may("/metrics")


@pytest.mark.parametrize(
    "spec",
    [None, {}, {"resourceAttributes": 7}, {"resourceAttributes": {"verb": []}}, "x",
     {"resourceAttributes": {"verb": "get"}, "nonResourceAttributes": {"path": "/"}}],
)  # fmt: skip
def test_a_question_that_is_none(served: Served, spec: Any) -> None:
    answer = served.ask("POST", ACCESS, {"spec": spec})
    assert (answer.code, answer.json["reason"]) == (422, "Invalid")


def test_who_asks_and_what_they_may(served: Served) -> None:
    served.asks = ANN
    served.store.create(binding("viewer", "Group", "lab", "team"))
    review = served.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}).json
    assert review["status"]["userInfo"] == {
        "username": "ann", "uid": "1001", "groups": ["lab", "system:authenticated"],
    }  # fmt: skip
    rules = served.ask(
        "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": "team"}}
    ).json["status"]
    allowed = {(rule["apiGroups"][0], rule["resources"][0]): rule["verbs"] for rule in rules["resourceRules"]}
    assert allowed["cumulus.dev", "gpujobs"] == ["get", "list", "watch"]
    assert allowed["", "pods/log"] == ["get"]
    assert ("cumulus.dev", "backups") not in allowed
