"""The tree of nodes: scalars as JSON has them, positions, aliases and merge keys, limits, and no crash on any bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.manifest import InvalidManifest, dump, load_text
from cumulus.manifest.yaml_nodes import MAX_ALIASED, MAX_DEPTH, MAX_NODES, parse

GOOD = """\
apiVersion: cumulus.dev/v1alpha1
kind: GPUJob
metadata: &meta {name: train, labels: {app: x}}
spec:
  command: [python, train.py]
  env:
  - {name: A, value: "1"}
  gpu: {memory: 0.5, duration: 1h}
"""


def value_of(text: str) -> Any:
    documents, problems = parse(text, "f")
    assert problems == []
    assert len(documents) == 1
    return documents[0].plain_value()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("TRUE", True), ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"),
        ("y", "y"), ("12", 12), ("-3", -3), ("+7", 7), ("0", 0), ("0x1F", 31), ("0o17", 15), ("0755", "0755"),
        ("1_000", "1_000"), ("1:30", "1:30"), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("1.10", 1.1),
        (".inf", ".inf"), (".nan", ".nan"), ("2024-01-31", "2024-01-31"), ("=", "="), ('"true"', "true"),
        ("'12'", "12"), ("!!str 12", "12"), ("!!int '12'", 12), ("!!float 1", 1), ("! 12", "12"), ("1.2.3", "1.2.3"),
        ("20Gi", "20Gi"), ("|\n    a\n    b\n", "a\nb\n"), ('"\\ud83d\\ude00"', "😀"), ('"\\\\ud83d"', "\\ud83d"),
    ],
)  # fmt: skip
def test_scalars_mean_what_they_mean_in_json(text: str, value: object) -> None:
    found = value_of(f"a: {text}\n")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["~", "null", "Null", "", "!!null ''"])
def test_nothing_is_null(text: str) -> None:
    assert value_of(f"a: {text}\n") == {"a": None}


def test_keys_are_text() -> None:
    assert value_of("1: a\ntrue: b\n1.0: c\nno: d\n~: e\n") == {"1": "a", "true": "b", "1.0": "c", "no": "d", "~": "e"}


def test_positions_of_keys_and_values() -> None:
    (document,), _ = parse("a: 1\nb:\n  - x\n  - {c:  y}\n", "f")
    assert isinstance(document.value, dict)
    assert document.keys == {"a": (1, 1), "b": (2, 1)}
    items = document.value["b"].value
    assert isinstance(items, list)
    assert (items[1].line, items[1].column) == (4, 5)
    assert isinstance(items[1].value, dict)
    assert items[1].keys["c"] == (4, 6)
    assert (items[1].value["c"].line, items[1].value["c"].column) == (4, 10)


def test_positions_count_characters_after_wide_text() -> None:
    (document,), _ = parse("{ä: ü, b: c}", "f")
    assert document.keys["b"] == (1, 8)


def test_merge_keys() -> None:
    text = (
        "base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\none: {<<: *b, y: 9}\nmany: {<<: [*o, *b]}\nquoted: {'<<': 1}\n"
    )
    value = value_of(text)
    assert value["one"] == {"x": 1, "y": 9}
    assert value["many"] == {"x": 1, "y": 3, "z": 4}
    assert value["quoted"] == {"<<": 1}


def test_an_anchor_ends_with_its_document() -> None:
    _, problems = parse("a: &x 1\n---\nb: *x\n", "f")
    assert [str(problem) for problem in problems] == ["f:3:4: b: the alias *x has no anchor &x before it"]


def test_byte_order_mark_and_line_ends_of_windows() -> None:
    assert load_text(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())[0].key.name == "train"


def test_billion_laughs_are_refused() -> None:
    """Who followed the aliases would never end."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 50)]
    _, problems = parse("\n".join(lines), "f")
    assert "aliases stand for more than" in problems[0].message


def test_merge_keys_count_as_aliases() -> None:
    text = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(100)) + "}\n"
    text += "".join(f"b{n}: {{<<: *a}}\n" for n in range(MAX_ALIASED // 100 + 1))
    _, problems = parse(text, "f")
    assert "aliases stand for more than" in problems[0].message


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_depth_is_limited(opening: str) -> None:
    assert parse(opening * MAX_DEPTH + "x" + {"[": "]", "{a: ": "}", "- ": ""}[opening] * MAX_DEPTH, "f")[1] == []
    for depth in (MAX_DEPTH + 1, 100_000):
        _, problems = parse(opening * depth, "f")
        assert "more than 64 levels deep" in problems[0].message


def test_aliases_cannot_hide_depth() -> None:
    text = "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40 + "\n"
    _, problems = parse(text, "f")
    assert "more than 64 levels deep" in problems[0].message


def test_the_number_of_values_is_limited() -> None:
    _, problems = parse("- 1\n" * (MAX_NODES + 1), "f")
    assert "more than 250,000 values" in problems[0].message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], include_characters="\n\t")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef<-:# ", max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text("abc", min_size=1), json_values, min_size=1))
@settings(max_examples=150, deadline=None)
def test_what_dump_writes_is_read_back_the_same(value: dict[str, Any]) -> None:
    assert value_of(dump(value)) == value


@given(st.dictionaries(st.text("abc", min_size=1), json_values, min_size=1))
@settings(max_examples=150, deadline=None)
def test_json_is_read_as_json_reads_it(value: dict[str, Any]) -> None:
    assert value_of(json.dumps(value)) == value


TOKENS = st.sampled_from(
    ["*meta", "&a ", "<<: ", "? ", ": ", "- ", "{", "}", "[", "]", "'", '"', "|\n", ">\n", "\n---\n", "\n...\n", "!x ",
     "!!int ", "\t", "\0", "\u2028", "\x85", "\r", "~", "true", "1e5", "\\u", "%YAML 1.1\n", "kind: List\nitems:\n- ",
     "spec", "annotations:", "env", "\ud83d"]
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 20), TOKENS | st.text(max_size=3)), max_size=8))
@settings(max_examples=400, deadline=20_000)
def test_a_broken_manifest_is_refused_or_accepted_but_never_crashes(edits: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for at, removed, inserted in edits:
        text = text[:at] + inserted + text[at + removed :]
    accepted_or_refused(text)


@given(st.binary(max_size=300) | st.text(max_size=300))
@settings(max_examples=300, deadline=20_000)
def test_random_bytes_never_crash_the_loader(data: bytes | str) -> None:
    accepted_or_refused(data)


@given(json_values, st.sampled_from(["metadata", "spec", "status", "kind", "apiVersion"]))
@settings(max_examples=200, deadline=20_000)
def test_any_value_in_any_place_is_refused_or_accepted(value: Any, place: str) -> None:
    document = load_text(GOOD)[0].document | {place: value}
    accepted_or_refused(json.dumps(document))


def accepted_or_refused(data: bytes | str) -> None:
    try:
        assert load_text(data)
    except InvalidManifest as error:
        problems = error.problems
    else:
        return
    assert problems
    assert all(problem.message and "\n" not in str(problem) for problem in problems)
