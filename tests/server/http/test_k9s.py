"""What k9s asks, as its source has it (derailed/k9s at 24cf4628, client-go 0.35), from its start on. Its program is
not run here: so each answer is held to what its code does with it, where it would stop or show nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from cumulus.resources.key import Key
from tests.documents import event, job, node, running
from tests.server.http.conftest import Served, UnixConnection
from tests.server.http.test_discovery import resources

CORE, OURS = "/api/v1", "/apis/cumulus.dev/v1alpha1"
DISCOVERY = ", ".join(
    [*(f"application/json;g=apidiscovery.k8s.io;v={v};as=APIGroupDiscoveryList" for v in ("v2", "v2beta1")),
     "application/json"]
)  # fmt: skip
TABLE = ",".join(f"application/json;as=Table;v={version};g=meta.k8s.io" for version in ("v1", "v1beta1"))
"""`internal/dao/table.go`: it takes nothing else."""


@pytest.fixture(autouse=True)
def objects(served: Served) -> None:
    train = served.store.create(running("train"))
    for document in (job("waits"), node("gpu-1"), event("began", train, "Started", "it began")):
        served.store.create(document)


def may(served: Served, verb: str, resource: str, *, group: str = "", **more: str) -> bool:
    """`CanI` of `internal/client/client.go`: a typed client's review."""
    asked = {"verb": verb, "version": "v1", "resource": resource, **({"group": group} if group else {}), **more}
    review = {
        "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
        "spec": {"resourceAttributes": asked}, "status": {"allowed": False},
    }  # fmt: skip
    answer = served.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert answer.code == 201, answer.body
    allowed: bool = answer.json["status"]["allowed"]
    return allowed


def test_it_finds_the_server_and_its_resources(served: Served) -> None:
    # InitConnection looks for the group of a metrics server; there is none, which it puts up with.
    groups = [group["metadata"]["name"] for group in served.get("/apis", accept=DISCOVERY)["items"]]
    assert "cumulus.dev" in groups
    assert "metrics.k8s.io" not in groups
    # CheckConnectivity, and the version on its first page.
    assert served.get("/version")["gitVersion"].startswith("v1.")
    # ServerPreferredResources: what it may be told to show. It leaves out what has no kind.
    found = resources(served.get("/apis", accept=DISCOVERY)) | resources(served.get("/api", accept=DISCOVERY))
    for name in ("gpujobs.cumulus.dev", "gpupartitions.cumulus.dev", "gpunodes.cumulus.dev", "pods", "nodes"):
        assert found[name]["responseKind"]["kind"], name
        assert {"get", "list", "watch"} <= set(found[name]["verbs"]), name
    assert found["gpujobs.cumulus.dev"]["singularResource"] == "gpujob"


def test_it_asks_what_it_may_before_each_page(served: Served) -> None:
    for resource, verb in (("nodes", "list"), ("namespaces", "list"), ("pods", "list"), ("secrets", "list")):
        assert may(served, verb, resource), resource
    assert may(served, "get", "namespaces", namespace="default", name="default")
    assert may(served, "get", "pods", namespace="default", name="train-0", subresource="log")
    assert may(served, "delete", "gpujobs", group="cumulus.dev", namespace="default", name="train")
    assert not may(served, "delete", "pods", namespace="default", name="train-0")
    assert not may(served, "patch", "nodes", name="gpu-1")
    # It looks for these at its start, to know what can be scaled: an answer, and a list that is not there, are enough.
    may(served, "list", "customresourcedefinitions", group="apiextensions.k8s.io")
    assert served.ask("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions").code == 404


@contextmanager
def informer(served: Served, path: str) -> Iterator[Iterator[Any]]:
    """The request of a reflector of client-go 0.35, which watches from the start and waits for a bookmark."""
    query = {
        "allowWatchBookmarks": "true", "resourceVersionMatch": "NotOlderThan", "sendInitialEvents": "true",
        "timeoutSeconds": "371", "watch": "true",
    }  # fmt: skip
    connection = UnixConnection(served.path)
    connection.request("GET", f"{path}?{urlencode(query)}", headers={"accept": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    try:
        yield (json.loads(line) for line in iter(response.readline, b""))
    finally:
        response.close()
        connection.close()


def test_its_caches_are_filled(served: Served) -> None:
    """Without that bookmark it would wait for ever, and show nothing."""
    for path, names in (
        (f"{CORE}/pods", ["train-0", "waits-0"]), (f"{CORE}/namespaces/default/pods", ["train-0", "waits-0"]),
        (f"{CORE}/nodes", ["gpu-1"]), (f"{CORE}/namespaces", ["default"]), (f"{OURS}/gpujobs", ["train", "waits"]),
        ("/apis/events.k8s.io/v1/events", ["began"]),
    ):  # fmt: skip
        with informer(served, path) as events:
            found = []
            for told in events:
                if told["type"] == "BOOKMARK":
                    break
                found.append(told["object"])
            assert told["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}, path
            assert sorted(each["metadata"]["name"] for each in found) == names
            for each in found:
                assert each["apiVersion"], path
                assert each["kind"] == told["object"]["kind"], path
                # Its code reads these without a look whether they are there.
                if each["kind"] in ("Pod", "Node"):
                    assert isinstance(each["spec"], dict)
                    assert isinstance(each["status"], dict)
            # And goes on.
            if path == f"{OURS}/gpujobs":
                served.store.create(job("later"))
                assert next(events)["object"]["metadata"]["name"] == "later"


def test_what_it_can_not_watch_it_lists(served: Served) -> None:
    """After a watch that is refused a reflector lists."""
    assert served.ask("GET", f"{CORE}/secrets?watch=true&sendInitialEvents=true").code == 405
    assert served.get(f"{CORE}/secrets")["kind"] == "SecretList"


def test_a_page_of_a_kind_is_a_table(served: Served) -> None:
    for path in (f"{OURS}/gpujobs", f"{OURS}/namespaces/default/gpujobs", f"{OURS}/gpunodes"):
        table = served.get(f"{path}?includeObject=Metadata", accept=TABLE)
        assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
        assert table["rows"]
        for row in table["rows"]:
            assert len(row["cells"]) == len(table["columnDefinitions"])
            # decodeTable makes an object of it, which needs its kind, and takes the namespace from there.
            about = row["object"]
            assert (about["kind"], about["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
            assert about["metadata"].get("namespace", "") == ("" if path.endswith("gpunodes") else "default")
    one = served.ask("GET", f"{OURS}/namespaces/default/gpujobs/train?includeObject=Object", accept=TABLE.split(",")[0])
    assert [row["object"]["kind"] for row in one.json["rows"]] == ["GPUJob"]


def test_a_pod_is_drawn_and_its_log_followed(served: Served) -> None:
    """`internal/render/pod.go` and `internal/dao/log_options.go`."""
    pod = served.get(f"{CORE}/namespaces/default/pods/train-0")
    (container,), (status,) = pod["spec"]["containers"], pod["status"]["containerStatuses"]
    assert (container["name"], status["name"], status["ready"], status["restartCount"]) == ("job", "job", True, 0)
    assert {each["type"]: each["status"] for each in pod["status"]["conditions"]}["Ready"] == "True"
    served.outside.logs.chunks = {(1, 0): [b"one\n", b"two\n"]}

    def end(attempt: int) -> None:
        train = served.store.get(Key("GPUJob", "default", "train"))
        train["status"]["attempts"][0]["endTime"] = train["status"]["startTime"]
        served.store.update_status(train)

    log = f"{CORE}/namespaces/default/pods/train-0/log?container=job"
    assert served.ask("GET", f"{log}&limitBytes=5000").body == b"one\ntwo\n"
    served.outside.logs.ended = end
    assert served.ask("GET", f"{log}&follow=true&tailLines=100&timestamps=true").code == 200
    assert served.outside.logs.asked[-1] == ("gpu-1", 1, 0, True, 100)
    assert served.outside.logs.times_asked[-1] == (None, True)


def test_describe_and_delete(served: Served) -> None:
    uid = served.get(f"{OURS}/namespaces/default/gpujobs/train")["metadata"]["uid"]
    about = {"kind": "GPUJob", "name": "train", "namespace": "default", "uid": uid}
    fields = ",".join(f"involvedObject.{field}={value}" for field, value in about.items())
    found = served.get(f"{CORE}/namespaces/default/events?{urlencode({'fieldSelector': fields, 'limit': '500'})}")
    assert [each["reason"] for each in found["items"]] == ["Started"]
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
    answer = served.ask("DELETE", f"{OURS}/namespaces/default/gpujobs/train", options)
    assert answer.code == 200, answer.body
