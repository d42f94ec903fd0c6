"""What the API says that it has."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.http.conftest import Served

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


def resources(document: Any) -> dict[str, Any]:
    return {
        f"{found['resource']}.{group['metadata'].get('name', '')}".rstrip("."): found
        for group in document["items"]
        for version in group["versions"]
        for found in version["resources"]
    }


@pytest.mark.parametrize("slash", ["", "/"])
def test_plain_discovery_answers_with_and_without_a_slash(served: Served, slash: str) -> None:
    assert served.get(f"/version{slash}")["major"] == "1"
    assert served.get(f"/api{slash}")["versions"] == ["v1"]
    names = [group["name"] for group in served.get(f"/apis{slash}")["groups"]]
    assert names == ["cumulus.dev", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io"]
    assert served.get(f"/apis/cumulus.dev{slash}")["preferredVersion"]["groupVersion"] == "cumulus.dev/v1alpha1"


def test_the_plain_list_has_subresources_short_names_and_categories(served: Served) -> None:
    found = {entry["name"]: entry for entry in served.get("/apis/cumulus.dev/v1alpha1")["resources"]}
    assert found["gpujobs"]["categories"] == ["all"]
    assert "gj" in found["gpujobs"]["shortNames"]
    assert found["gpujobs/status"]["verbs"] == ["get", "patch", "update"]
    assert found["gpunodes"]["namespaced"] is False


def test_one_document_holds_all_for_who_can_read_it(served: Served) -> None:
    answer = served.ask("GET", "/apis", accept=AGGREGATED)
    assert answer.headers["content-type"] == AGGREGATED.partition(",")[0]
    found = resources(answer.json)
    assert found["gpujobs.cumulus.dev"]["responseKind"] == {
        "group": "cumulus.dev", "version": "v1alpha1", "kind": "GPUJob",
    }  # fmt: skip
    assert [sub["subresource"] for sub in found["gpujobs.cumulus.dev"]["subresources"]] == ["status"]
    assert found["gpujobs.cumulus.dev"]["scope"] == "Namespaced"
    core = resources(served.ask("GET", "/api", accept=AGGREGATED).json)
    assert set(core) == {"events", "namespaces", "nodes", "pods", "secrets"}
    assert core["nodes"]["scope"] == "Cluster"
    assert [sub["subresource"] for sub in core["pods"]["subresources"]] == ["log", "exec", "attach", "portforward"]


def test_a_client_that_prefers_the_plain_document_gets_it(served: Served) -> None:
    assert served.get("/apis", accept="application/json, " + AGGREGATED)["kind"] == "APIGroupList"


def test_no_word_names_two_resources(served: Served) -> None:
    # kubectl takes core's where no group is given.
    events = ("events.cumulus.dev", "events.events.k8s.io")
    words: list[str] = []
    for path in ("/api", "/apis"):
        for name, found in resources(served.ask("GET", path, accept=AGGREGATED).json).items():
            words += [*found.get("shortNames", ()), found["resource"]] if name not in events else []
    assert len(words) == len(set(words))


def test_what_a_client_has_already_is_not_sent_again(served: Served) -> None:
    first = served.ask("GET", "/apis", accept=AGGREGATED)
    again = served.ask("GET", "/apis", accept=AGGREGATED, if_none_match=first.headers["etag"])
    assert (again.code, again.body) == (304, b"")
    other = served.ask("GET", "/apis", if_none_match=first.headers["etag"])
    assert other.code == 200
