"""OpenAPI v3: what kubectl looks up there, and that it says of every kind what the models check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from cumulus.resources import schema
from cumulus.resources.kind import Kind
from cumulus.resources.openapi import GVK, definition_name, definitions, meta_definitions
from cumulus.resources.registry import BY_NAME, KINDS
from tests.documents import job, node, running
from tests.server.http.conftest import Served

PATH = "apis/cumulus.dev/v1alpha1"
JOB = {"group": "cumulus.dev", "version": "v1alpha1", "kind": "GPUJob"}


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for below in value.values():
            yield from refs(below)
    elif isinstance(value, list):
        for below in value:
            yield from refs(below)


def test_documents_are_kept_by_their_hash(served: Served) -> None:
    index = served.ask("GET", "/openapi/v3")
    address = index.json["paths"][PATH]["serverRelativeURL"]
    assert served.ask("GET", "/openapi/v3", if_none_match=index.headers["etag"]).code == 304
    found = served.ask("GET", address)
    assert found.code == 200
    assert "immutable" in found.headers["cache-control"]
    assert found.headers["etag"].strip('"') == address.partition("?hash=")[2]
    assert served.ask("GET", address, if_none_match=found.headers["etag"]).code == 304
    old = served.ask("GET", f"/openapi/v3/{PATH}?hash=OLD")
    assert (old.code, old.headers["location"]) == (301, address)
    assert "immutable" not in served.ask("GET", f"/openapi/v3/{PATH}").headers["cache-control"]
    for path in ("/openapi/v3/apis/apps/v1", "/openapi/v2"):
        assert served.ask("GET", path).code == 404


def test_every_reference_leads_somewhere(served: Served) -> None:
    document = served.get(f"/openapi/v3/{PATH}")
    for found in set(refs(document)):
        assert found.removeprefix("#/components/schemas/") in document["components"]["schemas"], found


def test_what_kubectl_looks_for(served: Served) -> None:
    document = served.get(f"/openapi/v3/{PATH}")
    jobs = document["paths"][f"/{PATH}/namespaces/{{namespace}}/gpujobs"]
    job = document["paths"][f"/{PATH}/namespaces/{{namespace}}/gpujobs/{{name}}"]
    assert jobs["post"][GVK] == job["patch"][GVK] == JOB
    assert "fieldValidation" in {parameter["name"] for parameter in job["patch"]["parameters"]}
    assert "application/json-patch+json" in job["patch"]["requestBody"]["content"]
    assert jobs["get"]["x-kubernetes-action"] == "list"
    assert f"/{PATH}/gpunodes/{{name}}" in document["paths"]
    assert document["paths"][f"/{PATH}/namespaces/{{namespace}}/events"].keys() == {"get", "parameters"}
    schemas = document["components"]["schemas"]
    assert schemas["dev.cumulus.v1alpha1.GPUJob"][GVK] == [JOB]
    assert schemas["dev.cumulus.v1alpha1.GPUJobList"]["properties"]["items"]["items"]["allOf"] == [
        {"$ref": "#/components/schemas/dev.cumulus.v1alpha1.GPUJob"}
    ]
    env = schemas["dev.cumulus.v1alpha1.GPUJobSpec"]["properties"]["env"]
    assert (env["x-kubernetes-list-type"], env["x-kubernetes-list-map-keys"]) == ("map", ["name"])
    ids = [operation["operationId"] for path in document["paths"].values() for verb, operation in path.items()
           if verb != "parameters"]  # fmt: skip
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_has_the_fields_and_words_of_the_models(kind: Kind) -> None:
    schemas = definitions(kind)

    def below(name: str) -> dict[str, Any]:
        found: dict[str, Any] = schemas[name]["properties"]
        return found

    def same(field: schema.SchemaField, name: str) -> None:
        assert below(name).keys() - {"generateName"} == field.fields.keys()
        for child in field.fields.values():
            written = below(name)[child.name]
            assert written.get("description", "") == child.description
            inner = written.get("items") or written.get("additionalProperties") or written
            if child.fields:
                (target,) = refs(inner)
                same(child, target.rpartition("/")[2])
            else:
                assert tuple(inner.get("enum", ())) == child.choices

    same(schema.root(kind), definition_name(kind.name))


@pytest.mark.parametrize("given", [job("a"), running("b"), node("n")], ids=lambda given: given["kind"])
def test_objects_are_valid_by_it(served: Served, given: Any) -> None:
    stored = served.store.create(given)
    name = definition_name(given["kind"])
    whole = {"components": {"schemas": meta_definitions() | definitions(BY_NAME[given["kind"]])}}
    validator = jsonschema_rs.validator_for({**whole, "$ref": f"#/components/schemas/{name}"})
    assert not list(validator.iter_errors(stored))
    spec = {**stored["spec"], "replicas": "many", "unschedulable": "perhaps"}
    assert list(validator.iter_errors({**stored, "spec": spec}))


def test_numbers_stand_for_quantities() -> None:
    schemas = definitions(BY_NAME["GPUJob"])
    memory = schemas["dev.cumulus.v1alpha1.GPU"]["properties"]["memory"]
    assert memory["allOf"] == [{"$ref": "#/components/schemas/dev.cumulus.v1alpha1.Share"}]
    assert schemas["dev.cumulus.v1alpha1.Share"]["oneOf"] == [{"type": "string"}, {"type": "number"}]
