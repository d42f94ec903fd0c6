"""Objects over HTTP, to the byte where clients depend on it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

from cumulus.errors import BucketUnavailable
from cumulus.manifest.dump import dump
from cumulus.manifest.load import load_text
from cumulus.resources.key import Key
from cumulus.service.identity import Identity
from tests.documents import active, ahead, job, node, running
from tests.server.http.conftest import Served, UnixConnection
from tests.service.conftest import ME
from tests.service.test_access import binding

JOBS = "/apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs"
ALL = "/apis/cumulus.dev/v1alpha1/gpujobs"
NODES = "/apis/cumulus.dev/v1alpha1/gpunodes"
JSON_PATCH = "application/json-patch+json"
USER = {
    "metadata": {"name": "user"}, "roleRef": {"name": "user"}, "subjects": [{"kind": "User", "name": "ann"}],
}  # fmt: skip
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def owner_of(document: Any) -> Any:
    metadata = document["metadata"]
    return {name: document[name] for name in ("apiVersion", "kind")} | {
        "name": metadata["name"],
        "uid": metadata["uid"],
    }


def names(document: Any) -> list[str]:
    return [item["metadata"]["name"] for item in document["items"]]


class TestReading:
    def test_a_list_is_of_one_revision_and_goes_on(self, served: Served) -> None:
        for name in "abc":
            served.store.create(job(name))
        first = served.get(f"{JOBS}?limit=2")
        assert (first["kind"], names(first)) == ("GPUJobList", ["a", "b"])
        served.store.create(job("d"))
        second = served.get(f"{JOBS}?limit=2&continue={first['metadata']['continue']}")
        assert names(second) == ["c"]
        assert second["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
        served.store.compact(served.store.revision())
        late = served.ask("GET", f"{JOBS}?limit=2&continue={first['metadata']['continue']}")
        assert (late.code, late.json["reason"]) == (410, "Expired")

    def test_a_list_of_a_revision(self, served: Served) -> None:
        for name in "abc":
            served.store.create(job(name))
        exact = served.get(f"{JOBS}?resourceVersion=2&resourceVersionMatch=Exact")
        assert (names(exact), exact["metadata"]["resourceVersion"]) == (["a", "b"], "2")
        for query in ("resourceVersion=2", "resourceVersion=2&resourceVersionMatch=NotOlderThan", "resourceVersion=0"):
            assert names(served.get(f"{JOBS}?{query}")) == ["a", "b", "c"]
        for query in ("resourceVersion=9", "resourceVersion=9&resourceVersionMatch=Exact"):
            assert served.ask("GET", f"{JOBS}?{query}").code == 410

    def test_selectors_and_namespaces(self, served: Served) -> None:
        served.store.create(job("a", labels={"team": "x"}))
        served.store.create(running("b", labels={"team": "x"}))
        served.store.create(node("n"))
        assert names(served.get(f"{ALL}?labelSelector=team%3Dx&fieldSelector=status.phase%3DRunning")) == ["b"]
        assert names(served.get("/apis/cumulus.dev/v1alpha1/namespaces/other/gpujobs")) == []
        assert names(served.get(NODES)) == ["n"]

    def test_a_table_has_the_registrys_columns(self, served: Served) -> None:
        served.store.create(job("a"))
        table = served.ask("GET", JOBS, accept=TABLE)
        assert table.headers["content-type"] == "application/json;as=Table;v=v1;g=meta.k8s.io"
        columns = [column["name"] for column in table.json["columnDefinitions"]]
        assert columns[:2] == ["Name", "Phase"]
        (row,) = table.json["rows"]
        assert row["cells"][:2] == ["a", "Pending"]
        assert row["object"]["kind"] == "PartialObjectMetadata"
        assert len(row["cells"]) == len(columns)

    @pytest.mark.parametrize(
        "url",
        [
            f"{JOBS}?limit=-1", f"{JOBS}?labelSelector=%3D%3D", f"{JOBS}?fieldSelector=status.phse%3DRunning",
            f"{JOBS}?continue=%FF", f"{JOBS}?continue=NQ%3D%3D", f"{JOBS}?continue=Wy0xLCJhIiwiYiJd",
            f"{JOBS}?continue={base64.urlsafe_b64encode(b'[99999999999999999999,1,2]').decode()}",
            f"{JOBS}?watch=perhaps", f"{JOBS}?resourceVersion=new", f"{JOBS}?resourceVersionMatch=Exact",
        ],
    )  # fmt: skip
    def test_a_bad_question_is_a_400(self, served: Served, url: str) -> None:
        answer = served.ask("GET", url)
        assert (answer.code, answer.json["reason"]) == (400, "BadRequest"), answer.body

    def test_what_is_not_there(self, served: Served) -> None:
        for url in (f"{JOBS}/nosuch", "/apis/cumulus.dev/v1alpha1/nosuch", f"{ALL}/a"):
            answer = served.ask("GET", url)
            assert (answer.code, answer.json["reason"]) == (404, "NotFound")


class TestWriting:
    def test_an_object_from_its_creation_to_its_end(self, served: Served) -> None:
        made = served.ask("POST", JOBS, job("a"))
        assert made.code == 201
        assert served.ask("POST", JOBS, job("a")).json["reason"] == "AlreadyExists"
        labelled = served.ask(
            "PATCH", f"{JOBS}/a", {"metadata": {"labels": {"x": "1"}}}, content_type="application/merge-patch+json"
        )
        assert labelled.json["metadata"]["labels"] == {"x": "1"}
        stale = served.ask("PUT", f"{JOBS}/a", made.json)
        assert (stale.code, stale.json["reason"]) == (409, "Conflict")
        gone = served.ask("DELETE", f"{JOBS}/a", {"preconditions": {"uid": made.json["metadata"]["uid"]}})
        assert gone.code == 200
        assert gone.json["details"]["uid"] == made.json["metadata"]["uid"]
        assert served.ask("GET", f"{JOBS}/a").code == 404

    def test_a_generated_name_and_a_dry_run(self, served: Served) -> None:
        document = job("a")
        del document["metadata"]["name"]
        document["metadata"]["generateName"] = "train-"
        tried = served.ask("POST", f"{JOBS}?dryRun=All", document)
        assert tried.code == 201
        assert tried.json["metadata"]["name"].startswith("train-")
        assert names(served.get(JOBS)) == []

    def test_what_is_wrong_is_told_by_field(self, served: Served) -> None:
        document = job("a")
        document["spec"]["gpu"]["memory"] = "nonsense"
        answer = served.ask("POST", JOBS, document)
        assert (answer.code, answer.json["reason"]) == (422, "Invalid")
        assert [cause["field"] for cause in answer.json["details"]["causes"]] == ["spec.gpu.memory"]

    def test_a_collection_is_deleted_by_selector(self, served: Served) -> None:
        served.store.create(job("a", labels={"x": "1"}))
        served.store.create(job("b"))
        assert served.ask("DELETE", f"{JOBS}?labelSelector=x%3D1").code == 200
        assert names(served.get(JOBS)) == ["b"]
        assert served.ask("DELETE", ALL).code == 400

    def test_a_collection_goes_whole_or_not_at_all(self, served: Served) -> None:
        served.ask("POST", JOBS, job("a"))
        served.ask("POST", "/apis/cumulus.dev/v1alpha1/namespaces/default/rolebindings", USER)
        served.asks = Identity("ann", None)
        assert served.ask("POST", JOBS, job("b", image="x", runAsUser=5)).code == 403
        assert served.ask("DELETE", JOBS).json["reason"] == "Forbidden"
        served.asks = ME
        assert names(served.get(JOBS)) == ["a"]
        assert names(served.ask("DELETE", f"{JOBS}?dryRun=All").json) == ["a"]
        assert names(served.get(JOBS)) == ["a"]

    @pytest.mark.parametrize(
        ("options", "query", "code"),
        [
            ({"preconditions": {"uid": "other"}}, "", 409), ({"preconditions": {"resourceVersion": "999"}}, "", 409),
            ({"preconditions": []}, "", 200), ({"preconditions": [1]}, "", 400),
            ({"preconditions": {"uid": 1}}, "", 400), ([], "", 400), ({"kind": "GPUJob"}, "", 400),
            ({"propagationPolicy": "Later"}, "", 422),
            ({"propagationPolicy": "Orphan", "orphanDependents": True}, "", 422),
            ({"orphanDependents": "no"}, "", 422), ({"gracePeriodSeconds": -1}, "", 422),
            ({"gracePeriodSeconds": 1.5}, "", 422), ({"gracePeriodSeconds": True}, "", 422),
            ({"dryRun": ["Some"]}, "", 422), ({"dryRun": "All"}, "", 422), (None, "gracePeriodSeconds=x", 400),
            (None, "propagationPolicy=Later", 422), (None, "propagationPolicy=Foreground&gracePeriodSeconds=0", 200),
            ({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}, "", 200),
        ],
    )  # fmt: skip
    def test_options_of_a_delete(self, served: Served, options: Any, query: str, code: int) -> None:
        served.store.create(job("a"))
        answer = served.ask("DELETE", f"{JOBS}/a?{query}", options)
        assert answer.code == code, answer.body

    @pytest.mark.parametrize(("options", "query", "seconds"), [
        ({"gracePeriodSeconds": 0}, "gracePeriodSeconds=9", 1), ({"gracePeriodSeconds": 7}, "", 7),
        (None, "gracePeriodSeconds=9", 9), (None, "", 0),
    ])  # fmt: skip
    def test_a_grace_period(self, served: Served, options: Any, query: str, seconds: int) -> None:
        held = job("a")
        held["metadata"]["finalizers"] = ["cumulus.dev/job"]
        served.store.create(held)
        marked = served.ask("DELETE", f"{JOBS}/a?{query}", options).json
        assert marked["metadata"]["deletionGracePeriodSeconds"] == seconds
        assert marked["metadata"]["deletionTimestamp"]

    def test_orphans_stay(self, served: Served) -> None:
        owner = served.store.create(job("a"))
        reference = {
            "apiVersion": "cumulus.dev/v1alpha1",
            "kind": "GPUJob",
            "name": "a",
            "uid": owner["metadata"]["uid"],
        }
        owned = job("b")
        owned["metadata"]["ownerReferences"] = [reference]
        served.store.create(owned)
        assert served.ask("DELETE", f"{JOBS}/a", {"propagationPolicy": "Orphan"}).code == 200
        assert "ownerReferences" not in served.get(f"{JOBS}/b")["metadata"]

    def test_a_status_is_of_kinds_that_have_one(self, served: Served) -> None:
        served.ask("POST", "/apis/cumulus.dev/v1alpha1/namespaces/default/rolebindings", USER)
        url = "/apis/cumulus.dev/v1alpha1/namespaces/default/rolebindings/user/status"
        for method in ("GET", "PUT", "PATCH"):
            assert served.ask(method, url, USER).code == 404

    @pytest.mark.parametrize(
        ("body", "media_type", "code"),
        [
            (b"{", "application/json", 400), (b"[]", "application/json", 400), (b"", "application/json", 400),
            (b'{"metadata": 1}', "application/json", 400),
            (b'{"metadata": {"namespace": "b"}}', "application/json", 400),
            (b"\xff", "application/json", 400), (b"a: b", "text/plain", 415),
            (b"\xff", "application/yaml", 400), (b"a: [", "application/yaml", 400),
            (b"metadata: {name: a}\nmetadata: {name: b}", "application/yaml", 400),
            (b"a: &a\n  b: *a", "application/yaml", 400),
            (b'{"metadata": {"name": "a"}, "spec": ' + b"[" * 70 + b"]" * 70 + b"}", "application/json", 400),
            (b"[" * 5000, "application/json", 400),
            (b'{"metadata": {"name": "a", "generateName": 1}}', "application/json", 422),
            (b'{"kind": "Pod"}', "application/json", 400), (b" " * (3 * 2**20 + 1), "application/json", 413),
        ],
        ids=lambda value: repr(value)[:30],
    )  # fmt: skip
    def test_a_bad_body_is_refused(self, served: Served, body: bytes, media_type: str, code: int) -> None:
        answer = served.ask("POST", JOBS, body, content_type=media_type)
        assert answer.code == code, answer.body
        assert served.store.revision() == 0

    def test_json_patches(self, served: Served) -> None:
        made = served.store.create(job("a"))
        version = made["metadata"]["resourceVersion"]
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/metadata/labels", "value": {"x": "1"}},
        ]
        answer = served.ask("PATCH", f"{JOBS}/a", patch, content_type=JSON_PATCH)
        assert answer.json["metadata"]["labels"] == {"x": "1"}
        assert served.ask("PATCH", f"{JOBS}/a", patch, content_type=JSON_PATCH).code == 422
        stale = [{"op": "replace", "path": "/metadata/resourceVersion", "value": version}]
        assert served.ask("PATCH", f"{JOBS}/a", stale, content_type=JSON_PATCH).json["reason"] == "Conflict"
        for field in ("name", "namespace"):
            renamed = [{"op": "replace", "path": f"/metadata/{field}", "value": "b"}]
            assert served.ask("PATCH", f"{JOBS}/a", renamed, content_type=JSON_PATCH).code == 422
        other = [{"op": "replace", "path": "/kind", "value": "GPUPartition"}]
        assert served.ask("PATCH", f"{JOBS}/a", other, content_type=JSON_PATCH).code == 422
        assert served.ask("PATCH", f"{JOBS}/none", patch, content_type=JSON_PATCH).code == 404

    def test_a_status_is_patched_at_the_version_that_is_named(self, served: Served) -> None:
        version = served.store.create(job("a"))["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "status": {"phase": "Succeeded"}}
        merge = "application/merge-patch+json"
        assert served.ask("PATCH", f"{JOBS}/a/status", patch, content_type=merge).json["status"]["phase"] == "Succeeded"
        assert served.ask("PATCH", f"{JOBS}/a/status", patch, content_type=merge).json["reason"] == "Conflict"

    def test_patches_that_are_not_taken(self, served: Served) -> None:
        served.store.create(job("a"))
        for media_type in ("application/strategic-merge-patch+json", "application/json", "text/plain"):
            answer = served.ask("PATCH", f"{JOBS}/a", {}, content_type=media_type)
            assert (answer.code, answer.json["reason"]) == (415, "UnsupportedMediaType")
        assert served.ask("PATCH", f"{JOBS}/a", b"", content_type=JSON_PATCH).code == 400

    def test_an_object_in_yaml(self, served: Served) -> None:
        answer = served.ask(
            "POST", JOBS, dump(job("a")).encode(), content_type="application/yaml", accept="application/yaml"
        )
        assert (answer.code, answer.headers["content-type"]) == (201, "application/yaml")
        (read,) = load_text(served.ask("GET", f"{JOBS}/a", accept="application/yaml").body)
        assert read.key.name == "a"

    def test_forms_that_there_are_not(self, served: Served) -> None:
        answer = served.ask("POST", JOBS, job("a"), accept="text/html")
        assert (answer.code, answer.json["reason"]) == (406, "NotAcceptable")
        assert names(served.get(JOBS)) == [], "nothing was made"
        assert served.ask("GET", f"{JOBS}?watch=1", accept="application/yaml").code == 406


class TestStatus:
    def test_an_admin_writes_status_and_nothing_else_with_it(self, served: Served) -> None:
        made = served.store.create(job("a"))
        changed = {**made, "status": {"phase": "Running"}, "spec": {**made["spec"], "suspend": True}}
        answer = served.ask("PUT", f"{JOBS}/a/status", changed)
        assert answer.code == 200
        assert answer.json["status"] == {"phase": "Running"}
        assert answer.json["spec"] == made["spec"]
        patch = {"status": {"failures": 2}, "metadata": {"labels": {"a": "b"}}}
        answer = served.ask("PATCH", f"{JOBS}/a/status", patch, content_type="application/merge-patch+json")
        assert answer.json["status"] == {"phase": "Running", "failures": 2}
        assert "labels" not in answer.json["metadata"] or not answer.json["metadata"]["labels"]
        operation = [{"op": "replace", "path": "/status/failures", "value": 3}]
        answer = served.ask("PATCH", f"{JOBS}/a/status", operation, content_type="application/json-patch+json")
        assert answer.json["status"]["failures"] == 3

    def test_a_stale_one_loses_and_a_bad_one_is_refused(self, served: Served) -> None:
        made = served.store.create(job("a"))
        served.store.update_status({**made, "status": {"phase": "Running"}})
        assert served.ask("PUT", f"{JOBS}/a/status", made).code == 409
        assert served.ask("PUT", f"{JOBS}/b/status", made).code == 400
        missing = {**made, "metadata": {"name": "b"}}
        assert served.ask("PUT", f"{JOBS}/b/status", missing).code == 404

    def test_nobody_else_does(self, served: Served) -> None:
        served.store.create(job("a"))
        served.store.create(binding("user", "User", "ann"))
        served.asks = Identity("ann", 1001)
        for method, type in (("PUT", "application/json"), ("PATCH", "application/merge-patch+json")):
            assert served.ask(method, f"{JOBS}/a/status", job("a"), content_type=type).code == 403


class TestFieldValidation:
    """Unknown fields, and those that are given twice, as fieldValidation says."""

    BAD = (
        b'{"metadata": {"name": "a", "name": "b", "managedFields": []}, "spec": {"gpus": 1, "command": ["true"],'
        b' "env": [{"name": "A", "vale": "1", "value": "2"}], "gpu": {"memory": "50%", "duration": "1h"}}}'
    )

    def test_strict_refuses_with_all_of_them(self, served: Served) -> None:
        answer = served.ask("POST", f"{JOBS}?fieldValidation=Strict", self.BAD, content_type="application/json")
        assert (answer.code, answer.json["message"]) == (
            400, 'strict decoding error: duplicate field "metadata.name"',
        )  # fmt: skip
        once = self.BAD.replace(b', "name": "b"', b"")
        answer = served.ask("POST", f"{JOBS}?fieldValidation=Strict", once, content_type="application/json")
        assert answer.json["message"] == (
            'strict decoding error: unknown field "spec.gpus"; did you mean gpu?, '
            'unknown field "spec.env[0].vale"; did you mean value?'
        )
        assert [cause["field"] for cause in answer.json["details"]["causes"]] == ["spec.gpus", "spec.env[0].vale"]

    def test_by_default_each_is_left_out_with_a_warning(self, served: Served) -> None:
        answer = served.ask("POST", JOBS, self.BAD, content_type="application/json")
        assert answer.code == 201, answer.body
        assert answer.json["metadata"]["name"] == "b"
        assert answer.json["spec"]["env"] == [{"name": "A", "value": "2"}]
        assert answer.all_headers("warning") == [
            '299 - "duplicate field \\"metadata.name\\""', '299 - "unknown field \\"spec.gpus\\"; did you mean gpu?"',
            '299 - "unknown field \\"spec.env[0].vale\\"; did you mean value?"',
        ]  # fmt: skip

    def test_thousands_of_them_take_no_longer(self, served: Served) -> None:
        document = job("a")
        document["spec"] |= {f"odd{number}": 1 for number in range(60_000)}
        strict = served.ask("POST", f"{JOBS}?fieldValidation=Strict", document)
        assert (strict.code, len(strict.json["details"]["causes"])) == (400, 50)
        made = served.ask("POST", JOBS, document)
        assert (made.code, len(made.all_headers("warning"))) == (201, 20)
        twice = b'{"metadata": {"name": "b"},' + b",".join(b'"x%d": 1, "x%d": 1' % (n, n) for n in range(30_000)) + b"}"
        repeated = served.ask("POST", f"{JOBS}?fieldValidation=Strict", twice, content_type="application/json")
        assert (repeated.code, len(repeated.json["details"]["causes"])) == (400, 50)

    def test_ignored_there_is_no_warning(self, served: Served) -> None:
        answer = served.ask("POST", f"{JOBS}?fieldValidation=Ignore", self.BAD, content_type="application/json")
        assert (answer.code, answer.all_headers("warning")) == (201, [])
        assert served.ask("POST", f"{JOBS}?fieldValidation=Loose", self.BAD).code == 422

    @pytest.mark.parametrize(
        ("patch", "media_type"),
        [
            ({"spec": {"suspnd": True, "suspend": True}}, "application/merge-patch+json"),
            ([{"op": "add", "path": "/spec/suspnd", "value": True},
              {"op": "add", "path": "/spec/suspend", "value": True}], "application/json-patch+json"),
        ],
    )  # fmt: skip
    def test_in_patches(self, served: Served, patch: Any, media_type: str) -> None:
        served.store.create(job("a"))
        url = f"{JOBS}/a?fieldValidation="
        assert served.ask("PATCH", f"{url}Strict", patch, content_type=media_type).code == 400
        answer = served.ask("PATCH", f"{url}Warn", patch, content_type=media_type)
        assert answer.all_headers("warning") == ['299 - "unknown field \\"spec.suspnd\\"; did you mean suspend?"']
        assert answer.json["spec"]["suspend"] is True


@contextmanager
def watching(served: Served, query: str, accept: str = "") -> Iterator[Callable[[], Any]]:
    connection = UnixConnection(served.path)
    connection.request("GET", f"{JOBS}?watch=1&{query}", headers={"accept": accept} if accept else {})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    yield lambda: json.loads(response.readline() or b"null")
    response.close()
    connection.close()


class TestWatching:
    def test_from_a_revision_on_in_order(self, served: Served) -> None:
        since = served.get(JOBS)["metadata"]["resourceVersion"]
        served.store.create(job("a"))
        with watching(served, f"resourceVersion={since}") as following:
            assert following()["object"]["metadata"]["name"] == "a"
            served.store.create(node("n"))
            made = served.store.create(job("b"))
            assert following() == {"type": "ADDED", "object": made}

    def test_without_one_what_there_is_comes_first(self, served: Served) -> None:
        served.store.create(job("a"))
        with watching(served, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan") as following:
            assert following()["object"]["metadata"]["name"] == "a"
            bookmark = following()
            assert bookmark["type"] == "BOOKMARK"
            assert bookmark["object"]["metadata"] == {
                "resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"},
            }  # fmt: skip

    def test_what_begins_and_ceases_to_match(self, served: Served) -> None:
        made = served.store.create(job("a"))
        with watching(served, "resourceVersion=1&labelSelector=x%3D1") as following:
            matching = {**made, "metadata": {**made["metadata"], "labels": {"x": "1"}}}
            changed = served.store.update(matching)
            assert following()["type"] == "ADDED"
            after = served.store.update({**changed, "metadata": {**changed["metadata"], "labels": {}}})
            event = following()
            assert (event["type"], event["object"]["metadata"]["labels"]) == ("DELETED", {"x": "1"})
            assert event["object"]["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]

    def test_rows_of_a_table_with_one_heading(self, served: Served) -> None:
        with watching(served, "", TABLE) as following:
            Thread(target=lambda: (time.sleep(0.05), [served.store.create(job(name)) for name in "ab"])).start()
            first, second = following()["object"], following()["object"]
            assert first["columnDefinitions"]
            assert second["columnDefinitions"] is None
            assert second["rows"][0]["cells"][0] == "b"

    def test_a_row_shows_what_belongs_to_the_object_now(self, served: Served) -> None:
        made = served.store.create(running("a"))
        since = made["metadata"]["resourceVersion"]
        with watching(served, f"resourceVersion={since}", TABLE) as following:
            for ends in ("1h", "2h"):
                key = Key("GPUPartition", "default", f"p-{ends}")
                share = active(key.name)
                share["metadata"] |= {"ownerReferences": [owner_of(made)], "namespace": "default"}
                share["status"]["expiresAt"] = ahead(hours=int(ends[0]))
                served.store.create(share)
                made = served.store.update({**made, "metadata": {**made["metadata"], "labels": {"ends": ends}}})
                table = following()["object"]
                assert f"in {ends}" in table["rows"][0]["cells"], table
                served.store.delete(key)

    def test_a_revision_that_is_forgotten_or_of_another_store(self, served: Served) -> None:
        for name in "abc":
            served.store.create(job(name))
        served.store.compact(3)
        with watching(served, "resourceVersion=1") as following:
            error = following()
            assert (error["type"], error["object"]["code"]) == ("ERROR", 410)
        assert served.ask("GET", f"{JOBS}?watch=1&resourceVersion=99").code == 410

    def test_it_ends_in_time(self, served: Served) -> None:
        with watching(served, "resourceVersion=0&timeoutSeconds=1") as following:
            assert following() is None


def test_where_blobs_are_not_to_be_had_it_is_the_servers_fault(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(owner: str, sha256: str) -> None:
        raise BucketUnavailable("the bucket does not answer")

    monkeypatch.setattr(served.outside.blobs, "find", find)
    made = job("a")
    del made["spec"]["command"]
    made["spec"]["call"] = {"payload": "0" * 64, "python": "3.11"}
    answer = served.ask("POST", JOBS, made)
    assert (answer.code, answer.json["reason"]) == (503, "ServiceUnavailable")
