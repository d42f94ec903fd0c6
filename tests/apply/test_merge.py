"""What applying makes of a stored object, by the fields that were applied before: a table of cases, and the invariants
over many users and other writers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cumulus.apply import fieldset


def merge(last: Any, new: Any, live: Any) -> dict[str, Any]:
    """`live` once somebody applies `new` who applied `last` before, and nobody else is known to own anything."""
    before, now = fieldset.fields(last), fieldset.fields(new)
    return fieldset.prune(fieldset.merge(live, new), before, now)


def env(**variables: str) -> dict[str, Any]:
    return {"spec": {"env": [{"name": name, "value": value} for name, value in variables.items()]}}


CASES = {
    "first apply": ({}, {"a": 1}, {}, {"a": 1}),
    "a new field": ({"a": 1}, {"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2}),
    "a changed field": ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}),
    "the manifest wins over others": ({"a": 1}, {"a": 1}, {"a": 5}, {"a": 1}),
    "a removed field goes": ({"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2}, {"a": 1}),
    "a removed field goes, whoever changed it": ({"a": 1}, {}, {"a": 7}, {}),
    "others' fields stay": ({"a": 1}, {"a": 1}, {"a": 1, "x": 9}, {"a": 1, "x": 9}),
    "a removed field that others removed already": ({"a": 1, "b": 2}, {"b": 2}, {"b": 2}, {"b": 2}),
    "no note of what was applied: nothing goes": ({}, {"a": 1}, {"a": 0, "b": 2}, {"a": 1, "b": 2}),
    "maps within maps": (
        {"m": {"a": 1, "b": 2}}, {"m": {"a": 3}}, {"m": {"a": 1, "b": 2, "x": 9}}, {"m": {"a": 3, "x": 9}},
    ),
    "a removed map keeps what others put in": ({"m": {"a": 1}}, {}, {"m": {"a": 1, "x": 9}}, {"m": {"x": 9}}),
    "a removed map goes when nothing is left": ({"m": {"a": {"b": 1}}}, {}, {"m": {"a": {"b": 1}}}, {}),
    "an empty map stays when it is wanted": ({"m": {"a": 1}}, {"m": {}}, {"m": {"a": 1}}, {"m": {}}),
    "a map becomes a value": ({"m": {"a": 1}}, {"m": 2}, {"m": {"a": 1, "x": 9}}, {"m": 2}),
    "a value becomes a map": ({"m": 2}, {"m": {"a": 1}}, {"m": 2}, {"m": {"a": 1}}),
    "lists are replaced": ({"l": [1, 2]}, {"l": [3]}, {"l": [1, 2, 9]}, {"l": [3]}),
    "a removed list goes": ({"l": [1, 2]}, {}, {"l": [1, 2, 9]}, {}),
    "env by name": (env(A="1", B="2"), env(A="3"), env(A="1", B="2", X="9"), env(A="3", X="9")),
    "env in the manifest's order, then others'": (
        env(A="1"), env(B="2", A="1"), env(X="9", A="1"), env(B="2", A="1", X="9"),
    ),
    "removed env keeps others' variables": (env(A="1"), {"spec": {}}, env(A="1", X="9"), env(X="9")),
    "removed env goes when nothing is left": (env(A="1"), {"spec": {}}, env(A="1"), {"spec": {}}),
    "env from a value to a secret": (
        env(A="1"),
        {"spec": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}},
        env(A="1"),
        {"spec": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}},
    ),
    "mounts by target": (
        {"spec": {"mounts": [{"target": "/a", "source": "/1"}]}},
        {"spec": {"mounts": [{"target": "/a", "source": "/2"}]}},
        {"spec": {"mounts": [{"target": "/x", "source": "/9"}, {"target": "/a", "source": "/1"}]}},
        {"spec": {"mounts": [{"target": "/a", "source": "/2"}, {"target": "/x", "source": "/9"}]}},
    ),
    "a note of another shape": (
        {"spec": {"env": [3, {"nam": "A"}]}, "m": 7}, {"m": {"a": 1}}, env(A="1"), {"m": {"a": 1}} | env(A="1"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("last", "new", "live", "merged"), CASES.values(), ids=CASES.keys())
def test_merge(last: Any, new: Any, live: Any, merged: Any) -> None:
    given_before = copy.deepcopy((last, new, live))
    assert merge(last, new, live) == merged
    assert (last, new, live) == given_before
    assert merge(new, new, merged) == merged


# The field "m" of a manifest is a map at every depth; "v" and "l" are a value and a list.
leaves = st.integers(0, 3)
objects = st.recursive(
    st.fixed_dictionaries({}, optional={"v": leaves, "l": st.lists(leaves, max_size=2)}),
    lambda inner: st.fixed_dictionaries({}, optional={"v": leaves, "m1": inner, "m2": inner}),
    max_leaves=6,
)
manifests = st.fixed_dictionaries(
    {},
    optional={
        "m1": objects, "m2": objects, "v": leaves,
        "spec": st.dictionaries(st.sampled_from("ABC"), st.sampled_from("12")).map(lambda e: env(**e)["spec"]),
    },
)  # fmt: skip


@given(manifests, manifests, manifests)
@settings(max_examples=300, deadline=None)
def test_applying_twice_changes_nothing(last: Any, new: Any, live: Any) -> None:
    once = merge(last, new, live)
    assert merge(new, new, once) == once
    assert merge({}, new, {}) == new


class ApplyAndOthers(RuleBasedStateMachine):
    """One user applies manifests; somebody else sets labels and variables of their own, and edits the user's."""

    @initialize()
    def start(self) -> None:
        self.last: dict[str, Any] = {}
        self.live: dict[str, Any] = {}
        self.others: dict[str, str] = {}
        self.others_env: dict[str, str] = {}

    @rule(manifest=manifests)
    def apply(self, manifest: dict[str, Any]) -> None:
        self.live = merge(self.last, manifest, self.live)
        self.last = manifest

    @rule(key=st.sampled_from(["x1", "x2"]), value=st.sampled_from("abc"))
    def set_by_others(self, key: str, value: str) -> None:
        self.live = self.live | {"m1": _map(self.live.get("m1")) | {key: value}}
        self.others[key] = value

    @rule(key=st.sampled_from(["x1", "x2"]))
    def unset_by_others(self, key: str) -> None:
        if key in self.others:
            del self.others[key]
            self.live = self.live | {"m1": {k: v for k, v in self.live["m1"].items() if k != key}}

    @rule(name=st.sampled_from("XY"), value=st.sampled_from("12"))
    def variable_of_others(self, name: str, value: str) -> None:
        spec = _map(self.live.get("spec"))
        kept = [item for item in spec.get("env", []) if item["name"] != name]
        self.live = self.live | {"spec": spec | {"env": [{"name": name, "value": value}, *kept]}}
        self.others_env[name] = value

    @rule(value=st.integers(0, 9))
    def user_s_value_edited_by_others(self, value: int) -> None:
        if "v" in self.last:
            self.live = self.live | {"v": value}

    @invariant()
    def what_others_set_is_there(self) -> None:
        assert self.others.items() <= _map(self.live.get("m1")).items()
        variables = {item["name"]: item["value"] for item in _map(self.live.get("spec")).get("env", [])}
        assert self.others_env.items() <= variables.items()

    @invariant()
    def nothing_is_there_that_nobody_set(self) -> None:
        left = merge(self.last, {}, self.live)
        assert _map(left.get("m1")) == self.others
        assert {item["name"] for item in _map(left.get("spec")).get("env", [])} == set(self.others_env)
        assert "m2" not in left
        assert "v" not in left


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


TestApplyAndOthers = ApplyAndOthers.TestCase
TestApplyAndOthers.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)
