"""core/v1 as a view of what is stored: events, nodes, namespaces, pods and their logs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cumulus import paths
from cumulus.errors import BackendError, TooLarge
from cumulus.resources.key import Document, Key
from cumulus.resources.query import Query
from cumulus.secrets import JobSecrets
from cumulus.server.http.kubernetes.core.pods import VIEW, pods_of, restarts_cell, status_cell
from cumulus.server.http.kubernetes.core.view import Viewed
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.documents import NOW, ago, condition, event, failed, job, node, running
from tests.server.http.conftest import Served
from tests.server.http.test_objects import TABLE, names
from tests.service.conftest import ME

PODS = "/api/v1/namespaces/default/pods"


def rows(table: Any) -> list[list[str]]:
    return [row["cells"] for row in table["rows"]]


def columns(table: Any) -> list[str]:
    return [column["name"] for column in table["columnDefinitions"]]


class TestEvents:
    def test_those_of_an_object_are_found_by_field(self, served: Served) -> None:
        one, two = served.store.create(job("one")), served.store.create(job("two"))
        served.store.create(event("a", one, "Started", "it began"))
        served.store.create(event("b", two, "Started", "it began"))
        uid = one["metadata"]["uid"]
        fields = f"involvedObject.name=one,involvedObject.namespace=default,involvedObject.uid={uid}"
        found = served.get(f"/api/v1/namespaces/default/events?fieldSelector={fields}")
        assert (found["kind"], found["apiVersion"], names(found)) == ("EventList", "v1", ["a"])
        told = found["items"][0]
        assert (told["apiVersion"], told["involvedObject"]["apiVersion"]) == ("v1", "cumulus.dev/v1alpha1")
        assert (told["reportingComponent"], told["count"]) == ("job", 2)

    def test_those_of_a_job_are_its_pods_too_and_those_of_a_node(self, served: Served) -> None:
        train, other, gpu = (served.store.create(each) for each in (job("train"), job("other"), node("gpu-1")))
        for name, about in (("a", train), ("b", other), ("c", gpu)):
            served.store.create(event(name, about, "Happened", "so"))
        mine = served.get(f"{PODS}/train-0")["metadata"]["uid"]
        # kubectl describe names no kind, kubectl events no uid.
        for more in (f"involvedObject.uid={mine}", "involvedObject.kind=Pod"):
            asked = f"involvedObject.name=train-0,{more}"
            (found,) = served.get(f"/api/v1/namespaces/default/events?fieldSelector={asked}")["items"]
            assert found["metadata"]["name"] == "a"
            assert found["involvedObject"] == {
                "apiVersion": "v1", "kind": "Pod", "name": "train-0", "namespace": "default", "uid": mine,
            }  # fmt: skip
        asked = "involvedObject.name=train-0,involvedObject.uid=another"
        assert not served.get(f"/api/v1/events?fieldSelector={asked}")["items"]
        uid = gpu["metadata"]["uid"]
        for kind in ("Node", "GPUNode"):
            asked = f"involvedObject.kind={kind},involvedObject.name=gpu-1,involvedObject.uid={uid}"
            assert names(served.get(f"/api/v1/events?fieldSelector={asked}")) == ["c"]
        assert not served.get(
            "/api/v1/events?fieldSelector=involvedObject.kind=Node,involvedObject.name=gpu-1,involvedObject.uid=gpu-1"
        )["items"]

    def test_the_newer_group_has_the_same_with_its_own_names(self, served: Served) -> None:
        """`events.k8s.io/v1`, which is all that k9s asks for."""
        one, two = served.store.create(job("one")), served.store.create(job("two"))
        served.store.create(event("a", one, "Started", "it began"))
        served.store.create(event("b", two, "Started", "it began"))
        root = "/apis/events.k8s.io/v1"
        asked = "regarding.kind=GPUJob,regarding.name=one,reason!=Ended"
        found = served.get(f"{root}/namespaces/default/events?fieldSelector={asked}")
        assert (found["kind"], found["apiVersion"], names(found)) == ("EventList", "events.k8s.io/v1", ["a"])
        (told,) = found["items"]
        core = served.get("/api/v1/namespaces/default/events/a")
        assert told == {
            "kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": core["metadata"], "type": "Normal",
            "reason": "Started", "note": "it began", "regarding": core["involvedObject"], "eventTime": None,
            "reportingController": "job", "reportingInstance": core["reportingInstance"],
            "deprecatedSource": core["source"], "deprecatedCount": 2,
            "deprecatedFirstTimestamp": core["firstTimestamp"], "deprecatedLastTimestamp": core["lastTimestamp"],
        }  # fmt: skip
        assert served.get(f"{root}/namespaces/default/events/a") == told
        assert served.get(f"{root}/events", accept=TABLE)["rows"] == served.get("/api/v1/events", accept=TABLE)["rows"]
        (row, _) = served.get(f"{root}/events?includeObject=Object", accept=TABLE)["rows"]
        assert row["object"] == told
        assert names(served.get(f"{root}/events?fieldSelector=regarding.name!=one")) == ["b"]
        assert served.ask("DELETE", f"{root}/namespaces/default/events/a").code == 405
        assert "no/such" in served.ask("GET", f"{root}/events?fieldSelector=no/such=1").json["message"]

    def test_their_table_begins_with_when(self, served: Served) -> None:
        served.store.create(event("a", served.store.create(job("one")), "Started", "it began"))
        table = served.get("/api/v1/events", accept=TABLE)
        assert columns(table)[:4] == ["Last Seen", "Type", "Reason", "Object"]
        assert rows(table)[0][:4] == ["1m", "Normal", "Started", "gpujob/one"]
        assert table["columnDefinitions"][-1] == {
            "name": "Name", "type": "string", "format": "name", "description": "", "priority": 1,
        }  # fmt: skip


class TestNodes:
    def test_who_may_not_see_how_it_is_reached_does_not_see_it_here(self, served: Served) -> None:
        made = node("gpu-1", ssh={"host": "hidden", "user": "hidden"})
        made["metadata"]["annotations"] = {"cumulus.dev/last-applied-configuration": json.dumps(made["spec"])}
        served.store.create(made)
        served.asks = Identity("ann", 1001)
        for path in ("/api/v1/nodes", "/api/v1/nodes/gpu-1", "/api/v1/nodes?watch=1&timeoutSeconds=1"):
            answer = served.ask("GET", path)
            assert (answer.code, b"gpu-1" in answer.body, b"hidden" in answer.body) == (200, True, False)

    def test_a_gpunode_is_a_node(self, served: Served) -> None:
        served.store.create(node("gpu-1"))
        found = served.get("/api/v1/nodes/gpu-1")
        assert found["status"]["capacity"] == {"cumulus.dev/devices": "1", "cumulus.dev/device-memory": str(80 * 2**30)}
        ready = found["status"]["conditions"][0]
        assert (ready["type"], ready["status"], ready["lastHeartbeatTime"]) == ("Ready", "True", ago(seconds=3))
        assert found["status"]["addresses"] == [{"type": "Hostname", "address": "gpu-1"}]
        # How it is reached is not everybody's.
        assert "spec" not in json.dumps(found["status"])

    def test_one_that_is_cordoned_or_silent(self, served: Served) -> None:
        served.store.create(node("gpu-1", unschedulable=True))
        lost = node("gpu-2")
        lost["status"]["heartbeatTime"] = ago(hours=3)
        served.store.create(lost)
        table = served.get("/api/v1/nodes", accept=TABLE)
        assert [row[:2] for row in rows(table)] == [["gpu-1", "Ready,SchedulingDisabled"], ["gpu-2", "Unknown"]]
        assert served.get("/api/v1/nodes/gpu-1")["spec"]["unschedulable"] is True
        assert served.get("/api/v1/nodes/gpu-2")["status"]["conditions"][0]["reason"] == "NodeStatusUnknown"


class TestNamespaces:
    def test_those_with_something_in_them_are_listed(self, served: Served) -> None:
        served.store.create(job("a", namespace="team"))
        found = served.get("/api/v1/namespaces")
        assert names(found) == ["default", "team"]
        assert found["items"][1]["status"] == {"phase": "Active"}
        assert names(served.get("/api/v1/namespaces?fieldSelector=metadata.name%3Dteam")) == ["team"]
        assert served.get("/api/v1/namespaces/nobodys")["metadata"]["name"] == "nobodys"

    def test_creating_one_is_accepted_and_changes_nothing(self, served: Served) -> None:
        revision = served.store.revision()
        made = served.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "new", "labels": {"a": "b"}}})
        assert (made.code, made.json["metadata"]["name"]) == (201, "new")
        assert "are not kept" in made.headers["warning"]
        assert served.ask("PATCH", "/api/v1/namespaces/new", {}).code == 200
        assert served.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "No"}}).code == 422
        refused = served.ask("DELETE", "/api/v1/namespaces/new")
        assert (refused.code, refused.json["reason"]) == (405, "MethodNotAllowed")
        assert served.store.revision() == revision


class TestPods:
    def test_a_pod_for_each_replica(self, served: Served) -> None:
        served.store.create(job("gang", replicas=2))
        served.store.create(running("train"))
        found = served.get(PODS)
        assert (found["kind"], names(found)) == ("PodList", ["gang-0", "gang-1", "train-0"])
        uids = {pod["metadata"]["uid"] for pod in found["items"]}
        assert len(uids) == 3
        assert served.get(f"{PODS}/gang-1")["metadata"]["uid"] in uids
        assert names(served.get(f"{PODS}?fieldSelector=spec.nodeName%3Dgpu-1,status.phase%3DRunning")) == ["train-0"]
        assert names(served.get(f"{PODS}?fieldSelector=metadata.name%3Dgang-1")) == ["gang-1"]
        assert names(served.get("/api/v1/pods?labelSelector=cumulus.dev/job%3Dtrain")) == ["train-0"]
        for missing in ("gang-2", "gang", "gang-00", "nothing-0"):
            answer = served.ask("GET", f"{PODS}/{missing}")
            assert (answer.code, answer.json["message"]) == (404, f'pods "{missing}" not found')

    def test_pages_hold_what_was_asked_for_and_end_with_a_job(self, served: Served) -> None:
        for number in range(30):
            served.store.create(job(f"j{number:02}", replicas=3))
        seen: list[str] = []
        more, pages = "", 0
        while pages == 0 or more:
            page = served.get(f"{PODS}?limit=40&continue={more}")
            more, pages = page["metadata"].get("continue", ""), pages + 1
            assert len(names(page)) >= 40 or not more
            seen += names(page)
        assert (len(seen), len(set(seen)), pages) == (90, 90, 2)

    def test_a_list_that_is_too_long_comes_in_pages(self, tmp_path: Path) -> None:
        store = MemoryStore()
        for number in range(25):
            store.create(job(f"j{number:02}", replicas=3))
        whole = Query("Pod", "default")
        source = Viewed(VIEW, whole, Service(lambda: store, tmp_path, owner=0), ME, most=70)
        with pytest.raises(TooLarge, match="more than 70 pods"):
            source.page(whole)
        assert len(source.page(replace(whole, limit=70)).items) == 75
        assert len(source.page(replace(whole, fields="metadata.name=j07-2")).items) == 1

    def test_a_watch_tells_of_each_replica(self, served: Served) -> None:
        made = served.store.create(job("gang", replicas=2))
        served.store.update({**made, "metadata": {**made["metadata"], "labels": {"a": "b"}}})
        served.store.create(job("elsewhere", namespace="team"))
        since = made["metadata"]["resourceVersion"]
        for query, expected in (
            ("", ["ADDED gang-0", "ADDED gang-1"]),
            (f"&resourceVersion={since}", ["MODIFIED gang-0", "MODIFIED gang-1"]),
            (f"&resourceVersion={since}&fieldSelector=metadata.name%3Dgang-1", ["MODIFIED gang-1"]),
        ):
            answer = served.ask("GET", f"{PODS}?watch=1&timeoutSeconds=1{query}")
            lines = [json.loads(line) for line in answer.body.splitlines()]
            assert [f"{line['type']} {line['object']['metadata']['name']}" for line in lines] == expected

    def test_no_value_of_its_environment_is_in_it(self, served: Served) -> None:
        reference = {"secretKeyRef": {"name": "wandb", "key": "token"}}
        env = [{"name": "PLAIN", "value": "hidden"}, {"name": "TOKEN", "valueFrom": reference}]
        made = running("train", env=env)
        made["metadata"]["annotations"] = {"cumulus.dev/last-applied-configuration": json.dumps(made["spec"])}
        served.store.create(made)
        body = served.ask("GET", f"{PODS}/train-0")
        assert b"hidden" not in body.body
        (container,) = body.json["spec"]["containers"]
        assert container["env"] == [{"name": "TOKEN", "valueFrom": reference}]

    def test_it_is_seen_by_those_who_see_its_job(self, served: Served) -> None:
        served.store.create(running("train"))
        served.asks = Identity("ann", 1001)
        for path in (PODS, f"{PODS}/train-0", f"{PODS}/train-0/log", f"{PODS}?watch=1", "/api/v1/pods"):
            assert served.ask("GET", path).code == 403, path

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_nobody_writes_one(self, served: Served, method: str) -> None:
        served.store.create(running("train"))
        for path in (PODS, f"{PODS}/train-0"):
            answer = served.ask(method, path, {})
            assert (answer.code, answer.json["reason"]) == (405, "MethodNotAllowed")
            assert "view of jobs" in answer.json["message"]
        assert served.store.revision() == 1

    def test_a_damaged_job_hides_no_other(self, served: Served) -> None:
        served.store.create(running("train"))
        damaged = job("damaged")
        damaged["spec"] = {"replicas": "many", "env": 7}
        served.store.create(damaged)
        assert names(served.get(PODS)) == ["train-0"]


ENDED = {"startTime": ago(minutes=9), "endTime": ago(minutes=5)}
STATES: list[tuple[str, Document, tuple[str, str, str, str]]] = [
    ("waiting", job("x"), ("0/1", "Pending", "0", "Pending")),
    ("running", running("x"), ("1/1", "Running", "0", "Running")),
    ("failed", failed("x"), ("0/1", "Error", "0", "Failed")),
    (
        "to be tried again",
        job("x", status={
            "phase": "Pending", "attemptCount": 2, "conditions": [condition("Scheduled", False, "BackingOff")],
            "attempts": [{"number": 1, "node": "a", **ENDED, "exitCode": 3, "reason": "Error"}, {"number": 2}],
        }),
        ("0/1", "BackingOff", "0", "Pending"),
    ),
    (
        "running again",
        job("x", status={
            "phase": "Running", "attemptCount": 2,
            "attempts": [
                {"number": 1, **ENDED, "exitCode": 3, "reason": "Error"}, {"number": 2, "startTime": ago(minutes=1)},
            ],
        }),
        ("1/1", "Running", "1 (5m ago)", "Running"),
    ),
    (
        "completed",
        job("x", status={
            "phase": "Succeeded", "attemptCount": 1,
            "attempts": [{"number": 1, **ENDED, "exitCode": 0, "reason": "Completed"}],
        }),
        ("0/1", "Completed", "0", "Succeeded"),
    ),
    (
        "suspended",
        job("x", status={"phase": "Suspended", "conditions": [condition("Suspended", True, "Suspended")]}),
        ("0/1", "Suspended", "0", "Pending"),
    ),
    (
        "with its node",
        job("x", status={
            "phase": "Failed", "attemptCount": 1, "attempts": [{"number": 1, **ENDED, "reason": "NodeLost"}],
        }),
        ("0/1", "NodeLost", "0", "Failed"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("document", "told"), [state[1:] for state in STATES], ids=[state[0] for state in STATES])
def test_how_a_pod_is(document: Document, told: tuple[str, str, str, str]) -> None:
    document["metadata"]["uid"] = "u"
    (pod,) = pods_of(document, NOW)
    ready = next(c["status"] for c in pod["status"]["conditions"] if c["type"] == "Ready") == "True"
    said = (f"{int(ready)}/1", status_cell(pod), restarts_cell(pod, NOW), pod["status"]["phase"])
    assert said == told


class TestLogs:
    @pytest.fixture(autouse=True)
    def files(self, served: Served) -> None:
        again = running("train")
        again["status"]["attempts"].insert(0, {"number": 1, **ENDED})
        again["status"]["attempts"][1]["number"] = 2
        served.store.create(again)
        served.outside.logs.chunks = {(1, 0): [b"before\n"], (2, 0): [b"one\n", b"two\n"]}

    def test_of_the_last_attempt_or_the_one_before(self, served: Served) -> None:
        answer = served.ask("GET", f"{PODS}/train-0/log")
        assert (answer.headers["content-type"], answer.body) == ("text/plain; charset=utf-8", b"one\ntwo\n")
        assert served.ask("GET", f"{PODS}/train-0/log?previous=true&container=job").body == b"before\n"
        assert served.ask("GET", f"{PODS}/train-0/log?limitBytes=5").body == b"one\nt"
        served.ask("GET", f"{PODS}/train-0/log?tailLines=7")
        assert served.outside.logs.asked[-1] == ("gpu-1", 2, 0, False, 7)

    def test_since_and_timestamps(self, served: Served) -> None:
        path, asked = f"{PODS}/train-0/log", served.outside.logs.times_asked
        served.ask("GET", f"{path}?sinceSeconds=60&timestamps=true")
        assert asked[-1] == (NOW.timestamp() - 60, True)
        served.ask("GET", f"{path}?sinceTime=2030-01-01T11:00:00Z")
        assert asked[-1] == (NOW.timestamp() - 3600, False)
        for wrong in ("sinceTime=noon", "sinceTime=2030-01-01T11:00:00Z&sinceSeconds=1", "sinceSeconds=x"):
            assert served.ask("GET", f"{path}?{wrong}").code == 400

    def test_following_ends_with_the_attempt(self, served: Served) -> None:
        def end(attempt: int) -> None:
            train = served.store.get(Key("GPUJob", "default", "train"))
            train["status"]["attempts"][1]["endTime"] = ago(minutes=0)
            served.store.update_status(train)

        served.outside.logs.ended = end
        assert served.ask("GET", f"{PODS}/train-0/log?follow=true").body == b"one\ntwo\n"

    def test_what_can_not_be_shown(self, served: Served) -> None:
        served.store.create(job("later"))
        for path, words in (
            (f"{PODS}/later-0/log", 'container "job" in pod "later-0" is waiting to start: Pending'),
            (f"{PODS}/later-0/log?previous=1", 'previous terminated container "job" in pod "later-0" not found'),
            (f"{PODS}/train-0/log?container=x", "container x is not valid for pod train-0"),
            (f"{PODS}/train-0/log?tailLines=-1", "tailLines must be a whole number"),
        ):
            answer = served.ask("GET", path)
            assert answer.code == 400
            assert words in answer.json["message"]
        assert served.ask("GET", f"{PODS}/other-0/log").code == 404
        served.outside.logs.chunks = {}
        assert served.ask("GET", f"{PODS}/train-0/log").code == 404

    def test_an_error_on_the_way_is_told_in_the_log(self, served: Served) -> None:
        def fail(attempt: int) -> None:
            raise BackendError("the engine went away")

        served.outside.logs.ended = fail
        assert served.ask("GET", f"{PODS}/train-0/log").body.endswith(
            b"two\n\n[cumulus: the log could not be read any further: the engine went away]\n"
        )


SECRETS = "/api/v1/namespaces/default/secrets"
STRATEGIC = "application/strategic-merge-patch+json"


class TestSecrets:
    def value(self, served: Served, key: str, namespace: str = "default") -> str:
        return JobSecrets(paths.job_secrets_dir(served.path.parent / "home")).of(namespace).get("wandb", key)

    def make(self, served: Served, namespace: str = "default", **data: str) -> Document:
        body = {"metadata": {"name": "wandb"}, "stringData": data or {"token": "hidden"}}
        made = served.ask("POST", f"/api/v1/namespaces/{namespace}/secrets", body)
        assert made.code == 201, made.body
        return made.json

    def test_they_are_made_and_named_and_no_value_is_returned(self, served: Served) -> None:
        made = self.make(served, token="hidden", user="hidden too")
        assert made["metadata"]["annotations"] == {"cumulus.dev/secret-keys": "token,user"}
        assert served.ask("POST", SECRETS, {"metadata": {"name": "wandb"}, "data": {"a": "Yg=="}}).code == 409
        self.make(served, "team")
        assert [item["metadata"]["namespace"] for item in served.get("/api/v1/secrets")["items"]] == ["default", "team"]
        for path in (SECRETS, f"{SECRETS}/wandb", "/api/v1/secrets"):
            for accept in ("application/json", TABLE + ";includeObject=Object", "application/yaml"):
                answer = served.ask("GET", f"{path}?includeObject=Object", accept=accept)
                assert answer.code == 200
                assert b"hidden" not in answer.body
                assert b"aGlkZGVu" not in answer.body
        assert rows(served.get(SECRETS, accept=TABLE)) == [["wandb", "Opaque", "2", "token,user"]]
        assert self.value(served, "token") == "hidden"

    def test_what_was_read_can_be_written_back(self, served: Served) -> None:
        self.make(served)
        read = served.get(f"{SECRETS}/wandb")
        assert served.ask("PUT", f"{SECRETS}/wandb", read).code == 200
        assert self.value(served, "token") == "hidden"

    def test_changes(self, served: Served) -> None:
        self.make(served, token="a", user="b")
        patch = {"data": {"token": "Yw==", "user": None}, "metadata": {"labels": {"a": "b"}}}
        changed = served.ask("PATCH", f"{SECRETS}/wandb", patch, content_type=STRATEGIC)
        assert (changed.code, _keys(changed.json)) == (200, "token")
        assert "not kept" in changed.headers["warning"]
        assert self.value(served, "token") == "c"
        replaced = served.ask("PUT", f"{SECRETS}/wandb", {"metadata": {"name": "wandb"}, "stringData": {"key": "d"}})
        assert _keys(replaced.json) == "key"
        applied = served.ask(
            "PATCH", "/api/v1/namespaces/team/secrets/wandb?fieldManager=me",
            b"apiVersion: v1\nkind: Secret\nmetadata: {name: wandb}\nstringData: {token: e}\n",
            content_type="application/apply-patch+yaml",
        )  # fmt: skip
        assert applied.code == 201
        assert self.value(served, "token", "team") == "e"
        dry = served.ask("DELETE", f"{SECRETS}/wandb?dryRun=All")
        assert (dry.code, served.ask("GET", f"{SECRETS}/wandb").code) == (200, 200)
        assert served.ask("DELETE", f"{SECRETS}/wandb").json["status"] == "Success"
        assert served.ask("GET", f"{SECRETS}/wandb").code == 404

    @pytest.mark.parametrize(
        ("body", "code", "words"),
        [
            ({"metadata": {"name": "x"}}, 422, "at least one key"),
            ({"data": {"a": "Yg=="}}, 422, "metadata.name: is required"),
            ({"metadata": {"name": "x"}, "data": {"a": "not base64 hidden"}}, 422, "data.a: must be the base64"),
            ({"metadata": {"name": "x"}, "data": {"a": "/w=="}}, 422, "data.a: must be the base64"),
            ({"metadata": {"name": "x"}, "data": {"a": {"hidden": 1}}}, 422, "data.a: must be text"),
            ({"metadata": {"name": "x"}, "data": ["hidden"]}, 422, "data: must be an object"),
            ({"metadata": {"name": "x"}, "stringdata": {"a": "hidden"}}, 422, "stringdata: a secret has no such"),
            ({"metadata": {"name": "../x"}, "stringData": {"a": "hidden"}}, 400, "cannot be the name"),
            ({"metadata": {"name": "x", "namespace": "other"}, "stringData": {"a": "hidden"}}, 400, "namespace"),
            ({"kind": "Pod"}, 400, "is not Secret"),
        ],
    )
    def test_what_is_none_is_refused_without_its_values(
        self, served: Served, body: Document, code: int, words: str
    ) -> None:
        answer = served.ask("POST", SECRETS, body)
        assert answer.code == code, answer.body
        assert words in answer.json["message"]
        assert b"hidden" not in answer.body
        assert served.get(SECRETS)["items"] == []

    def test_there_is_no_watch(self, served: Served) -> None:
        assert served.ask("GET", f"{SECRETS}?watch=1").code == 405


def _keys(secret: Document) -> str:
    return str(secret["metadata"]["annotations"]["cumulus.dev/secret-keys"])
