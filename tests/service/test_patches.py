"""Patches of documents: what the RFCs say, and what is bounded."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.errors import InvalidObject, UsageError
from cumulus.resources.key import Document
from cumulus.service.patches import patched

OBJECT: Document = {"metadata": {"name": "a"}, "spec": {"env": [{"name": "A"}, {"name": "B"}], "a/b": 1}}


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        # The examples of RFC 7386, appendix A, whose target is an object.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch(target: Document, patch: dict[str, Any], result: Document) -> None:
    before = repr(target)
    assert patched(target, patch, "merge") == result
    assert repr(target) == before, "what is given is not changed"


_JSON = st.recursive(
    st.integers() | st.text(max_size=3), lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3)
)
_OBJECTS = st.dictionaries(st.sampled_from("abc"), _JSON, max_size=3)


@given(_OBJECTS, _OBJECTS)
def test_a_patch_that_changes_nothing_gives_the_object_itself(target: Document, patch: Document) -> None:
    once = patched(target, patch, "merge")
    assert patched(once, patch, "merge") is once


@pytest.mark.parametrize(
    ("operations", "spec"),
    [
        ([{"op": "add", "path": "/spec/env/1", "value": 1}], {"env": [{"name": "A"}, 1, {"name": "B"}], "a/b": 1}),
        ([{"op": "add", "path": "/spec/env/-", "value": 1}], {"env": [{"name": "A"}, {"name": "B"}, 1], "a/b": 1}),
        ([{"op": "remove", "path": "/spec/env/0"}], {"env": [{"name": "B"}], "a/b": 1}),
        ([{"op": "replace", "path": "/spec/a~1b", "value": 2}], {"env": [{"name": "A"}, {"name": "B"}], "a/b": 2}),
        ([{"op": "move", "from": "/spec/env", "path": "/spec/c"}], {"c": [{"name": "A"}, {"name": "B"}], "a/b": 1}),
        ([{"op": "copy", "from": "/spec/a~1b", "path": "/spec/env"}], {"env": 1, "a/b": 1}),
        ([{"op": "test", "path": "/spec/a~1b", "value": 1}], OBJECT["spec"]),
    ],
)
def test_a_json_patch(operations: list[Any], spec: Document) -> None:
    before = repr(OBJECT)
    assert patched(OBJECT, operations, "json")["spec"] == spec
    assert repr(OBJECT) == before, "what is given is not changed"


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "test", "path": "/spec/a~1b", "value": 2}], [{"op": "remove", "path": "/spec/none"}],
        [{"op": "replace", "path": "/spec/env/9", "value": 1}], [{"op": "add", "path": "/spec/env/x", "value": 1}],
        [{"op": "remove", "path": "/metadata"}], [{"op": "replace", "path": "", "value": 1}], {}, "text", None,
        [{"op": "add", "path": "spec", "value": 1}],
    ],
)  # fmt: skip
def test_a_json_patch_that_does_not_fit(operations: Any) -> None:
    with pytest.raises(InvalidObject):
        patched(OBJECT, operations, "json")


@pytest.mark.parametrize(
    "operations",
    [
        [1], [{"op": "add", "path": 1, "value": 1}], [{"op": "add", "path": "/spec/c"}], [{"op": "no", "path": "/a"}],
        [{"path": "/a"}], [{"op": "add"}], [{"op": "copy", "path": "/a"}], [{"op": ["add"], "path": "/a", "value": 1}],
        [{"op": "copy", "from": 1, "path": "/a"}], [{"op": "move", "from": None, "path": "/a"}],
        [{"op": "test", "path": "/a", "value": 1}] * 10_001,
        [{"op": "copy", "from": "/spec", "path": f"/spec/{n}"} for n in range(64)],
    ],
)  # fmt: skip
def test_a_malformed_or_boundless_json_patch(operations: Any) -> None:
    with pytest.raises(UsageError):
        patched(OBJECT, operations, "json")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below, max_size=3),
)
_PATHS = st.sampled_from(["", "/", "/spec", "/spec/env", "/spec/env/0", "/spec/env/-", "/spec/env/-1", "/a~2", "a"])
_OPERATIONS = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]) | _VALUES,
        "path": _PATHS | _VALUES,
        "from": _PATHS | _VALUES,
        "value": _VALUES,
    },
)


@given(st.lists(_OPERATIONS | _VALUES, max_size=4) | _VALUES)
def test_no_json_patch_fails_otherwise(operations: Any) -> None:
    with contextlib.suppress(InvalidObject, UsageError):
        patched(OBJECT, operations, "json")
