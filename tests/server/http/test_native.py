"""The calls of our own client, as somebody else would ask them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cumulus.server.http.native.calls import CALLS
from cumulus.service.identity import Identity
from tests.documents import job, node
from tests.server.http.conftest import Served

KEY = {"kind": "GPUJob", "namespace": "default", "name": "train"}
FREE = (
    "revision", "job_files", "server_state", "delete_losses", "api_address", "who_am_i", "may", "create_token",
    "tokens", "revoke_token", "remove_node", "ticket", "line", "usage", "timeline", "report", "held_over_time",
    "lease_rows", "page_link",
)  # fmt: skip
"""Calls that tell of others nothing but what all may know, or are about who asks, and one that is refused for another
reason first."""


def test_a_call_and_its_answer(served: Served) -> None:
    served.store.create(job("train"))
    answer = served.ask("POST", "/cumulus/v1/why", {"key": KEY})
    assert answer.code == 200
    assert answer.json["value"]["@type"] == "Why"
    assert answer.json["value"]["over"] is False


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"key": 3}, "key must be an object"), ({"key": {"kind": "GPUJob"}}, "key needs name, namespace"),
        ({"key": {**KEY, "name": 3}}, "key.name must be text"), ({"nothing": 1}, "there is no argument nothing"),
        ([], "a JSON object"), (b"{", "not JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(served: Served, body: Any, said: str) -> None:
    answer = served.ask("POST", "/cumulus/v1/why", body, content_type="application/json")
    assert answer.code == 400
    assert said in answer.json["message"]


def test_what_is_needed_and_left_out_is_no_defect_of_the_server(served: Served) -> None:
    for name in CALLS:
        answer = served.ask("POST", f"/cumulus/v1/{name}", {})
        assert answer.code < 500, (name, answer.body)


def test_each_call_asks_who_may(served: Served) -> None:
    served.store.create(job("train"))
    served.store.create(node("n"))
    served.asks = Identity("nobody", 4711)
    examples: dict[str, Any] = {
        "key": KEY, "changes": {}, "name": "n", "address": {"ssh": "a@b"}, "uids": [], "suspended": True,
        "unschedulable": True, "nodes": [], "every": 1.0, "mark": None, "values": {}, "overwrite": True,
        "namespace": "default", "verb": "get", "resource": "gpujobs", "keep": 1, "directory": "/x", "word": "",
        "seconds": 1.0, "document": job("x"), "parked": False, "at": "2099-01-01T00:00:00Z", "serial": "4a", "most": 1,
    }  # fmt: skip
    for name, call in CALLS.items():
        given = {argument: examples[argument] for argument in call.arguments if argument in examples}
        if name == "add_worker":
            given["key"] = {"host": "h", "type": "t", "base64": "b", "fingerprint": "f"}
        elif name == "delete_secret":
            given["key"] = "k"
        answer = served.ask("POST", f"/cumulus/v1/{name}", given)
        refused = answer.code == 403 or b'"reason":"Forbidden"' in answer.body
        assert refused or name in FREE, (name, answer.body)


def test_a_call_that_there_is_not(served: Served) -> None:
    answer = served.ask("POST", "/cumulus/v1/nonsense", {})
    assert (answer.code, answer.json["reason"]) == (404, "NotFound")


def test_a_stream_says_its_end(served: Served) -> None:
    answer = served.ask("POST", "/cumulus/v1/drain_node", {"name": "none"})
    (line,) = [json.loads(each) for each in answer.body.splitlines()]
    assert line["error"]["code"] == 404


def test_a_manifest_is_told_by_its_number_and_path(served: Served) -> None:
    good, bad = job("good"), job("bad", gpu={"memory": "nonsense"})
    for each in (good, bad):
        each.pop("status", None)
    answer = served.ask("POST", "/cumulus/v1/apply", {"manifests": [good, bad]})
    (problem,) = answer.json["details"]["error"]["problems"]
    assert (problem["position"]["file"], problem["path"]) == ("1", ["spec", "gpu", "memory"])
    assert served.store.revision() == 0


def test_a_manifest_that_is_nested_deeply_is_refused(served: Served) -> None:
    nested: Any = {}
    for _ in range(900):
        nested = {"a": nested}
    answer = served.ask("POST", "/cumulus/v1/apply", {"manifests": [nested]})
    assert 400 <= answer.code < 500
