"""Random applies, edits by others and prunes on a real store, against an oracle of flat fields."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cumulus.apply.apply import PruneScope, apply
from cumulus.clock import FakeClock
from cumulus.manifest import load_text
from cumulus.resources.key import Document, Key
from cumulus.store.base import Query
from cumulus.store.memory import MemoryStore

DEFAULTS = {"priority": 0, "suspend": False, "ttlAfterFinished": None, "limit": 0, "backoff": "10s"}
fields = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(0, 2),
        "suspend": st.booleans(),
        "ttlAfterFinished": st.sampled_from(["1h", "2h"]),
        "limit": st.integers(0, 2),
        "backoff": st.sampled_from(["10s", "20s"]),
    },
)
labels = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["1", "2"]))
objects = st.dictionaries(st.sampled_from(["one", "two"]), st.tuples(fields, labels), min_size=1)


class Applies(RuleBasedStateMachine):
    """`last` is what the user applied last to each object, `expected` what each must hold."""

    @initialize()
    def start(self) -> None:
        self.store = MemoryStore(FakeClock())
        self.last: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
        self.expected: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}

    @rule(wanted=objects, prune=st.booleans())
    def apply(self, wanted: dict[str, tuple[dict[str, Any], dict[str, str]]], prune: bool) -> None:
        manifests = load_text(
            json.dumps({"apiVersion": "v1", "kind": "List", "items": [_job(*i) for i in wanted.items()]})
        )
        lines = [str(result) for result in apply(self.store, manifests, prune=PruneScope("app=x") if prune else None)]
        for name in set(self.last) - set(wanted) if prune else ():
            assert f"gpujob.cumulus.dev/{name} pruned" in lines
            del self.last[name], self.expected[name]
        for name, (new, new_labels) in wanted.items():
            created = name not in self.expected
            assert (f"gpujob.cumulus.dev/{name} created" in lines) == created
            last, last_labels = self.last.get(name, ({}, {}))
            values, all_labels = self.expected.get(name, (dict(DEFAULTS), {}))
            self.expected[name] = (
                {field: new.get(field, DEFAULTS[field] if field in last else values[field]) for field in DEFAULTS},
                {key: value for key, value in all_labels.items() if key not in last_labels} | new_labels,
            )
            self.last[name] = (new, new_labels)
        revision = self.store.revision()
        assert {result.action for result in apply(self.store, manifests)} == {"unchanged"}
        assert self.store.revision() == revision

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), changed=fields, added=labels)
    def others_edit(self, data: st.DataObject, changed: dict[str, Any], added: dict[str, str]) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        document = self.store.get(Key("GPUJob", "default", name))
        for field, value in changed.items():
            _holder(document["spec"], field)[field] = value
        document["metadata"]["labels"] |= added
        self.store.update(document)
        values, all_labels = self.expected[name]
        self.expected[name] = (values | changed, all_labels | added)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def a_controller_reports(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        document = self.store.get(Key("GPUJob", "default", name))
        document["status"]["failures"] += 1
        self.store.update_status(document)

    @invariant()
    def the_store_holds_what_is_expected(self) -> None:
        stored = {item["metadata"]["name"]: item for item in self.store.list(Query("GPUJob")).items}
        assert stored.keys() == self.expected.keys()
        for name, document in stored.items():
            values = {field: _holder(document["spec"], field).get(field) for field in DEFAULTS}
            held = {key: value for key, value in document["metadata"]["labels"].items() if key != "app"}
            assert (values, held) == self.expected[name]


def _job(name: str, content: tuple[dict[str, Any], dict[str, str]]) -> Document:
    spec: Document = {"command": ["python"], "gpu": {"memory": 0.5, "duration": "1h"}}
    for field, value in content[0].items():
        if field in ("limit", "backoff"):
            spec.setdefault("retry", {})[field] = value
        else:
            spec[field] = value
    metadata = {"name": name, "labels": content[1] | {"app": "x"}}
    return {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": metadata, "spec": spec}


def _holder(spec: Document, field: str) -> Document:
    holder: Document = spec["retry"] if field in ("limit", "backoff") else spec
    return holder


TestApplies = Applies.TestCase
TestApplies.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
