from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cumulus.errors import UsageError
from cumulus.resources.jsonpath import JsonPath, Template

DOCUMENT = {
    "kind": "List",
    "items": [
        {
            "metadata": {"name": "a", "labels": {"x.y/z": "1"}},
            "status": {
                "n": 3,
                "up": True,
                "c": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "False"}],
            },
        },
        {"metadata": {"name": "b"}, "status": {"n": 7, "up": False, "c": []}},
        {"metadata": {"name": "c"}},
    ],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.kind}", "List"),
        ("{$.kind}", "List"),
        ("{@.kind}", "List"),
        ("{ .kind }", "List"),
        ("kind: {.kind}!", "kind: List!"),
        ("{.items[*].metadata.name}", "a b c"),
        ("{.items[0].metadata.name}", "a"),
        ("{.items[-1].metadata.name}", "c"),
        ("{.items[9].metadata.name}", ""),
        ("{.items[0,2].metadata.name}", "a c"),
        ("{.items[1:].metadata.name}", "b c"),
        ("{.items[:-1].metadata.name}", "a b"),
        ("{.items[::2].metadata.name}", "a c"),
        ("{.items[0].metadata.labels['x.y/z']}", "1"),
        (r"{.items[0].metadata.labels.x\.y/z}", "1"),
        ('{.items[0].metadata["name"]}', "a"),
        ("{.items[*].metadata['name','labels']}", 'a {"x.y/z":"1"} b c'),
        ('{.items[0].status.c[?(@.type=="Ready")].status}', "True"),
        ("{.items[0].status.c[?(@.type!='Ready')].type}", "Old"),
        ("{.items[?(@.status.n>3)].metadata.name}", "b"),
        ("{.items[?(@.status.n <= 3)].metadata.name}", "a"),
        ("{.items[?(@.status)].metadata.name}", "a b"),
        ("{.items[?(@.status.up==true)].metadata.name}", "a"),
        ("{.items[?(@.status.up==1)].metadata.name}", ""),
        ("{..name}", "a b c"),
        (
            "{.items[*].status.*}",
            '3 true [{"type":"Ready","status":"True"},{"type":"Old","status":"False"}] 7 false []',
        ),
        ("{.items[0].status.n}", "3"),
        ("{.items[0].status.up}", "true"),
        ('{range .items[*]}{.metadata.name}{"\\t"}{.status.n}{"\\n"}{end}', "a\t3\nb\t7\nc\t\n"),
        ("{range .items}{.metadata.name};{end}", "a;b;c;"),
        ("{range .items[*]}{$.kind} {end}", "List List List "),
        ('{"literal"}', "literal"),
        ("{.nothing.there}", ""),
        ("", ""),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert Template(template).render(DOCUMENT) == text


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{", "expected '}'"),
        ("{.a", "expected '}'"),
        ("{foo}", "a path starts with '.'"),
        ("{range .items}", "{range} without {end}"),
        ("{end}", "{end} without {range}"),
        ("{.items[}", "expected an index"),
        ("{.items[0}", "expected ']'"),
        ("{.items['a]}", "no closing '"),
        ("{.items[?(@.a==)]}", "expected @.field"),
        ("{.items[?(@.a==1 && @.b==2)]}", "one comparison"),
        ("{.items[::0]}", "a slice is"),
        ("{..}", "expected a field name"),
        ("{.a}" + "x" * 9000, "longer than"),
        ("{" + ".a[?(@" * 50, "too deep"),
        ("{range .a}" * 50, "too deep"),
    ],
)
def test_errors_name_the_problem(template: str, problem: str) -> None:
    with pytest.raises(UsageError, match="jsonpath") as caught:
        Template(template)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{.metadata.name}", ".metadata.name", "metadata.name", " {.metadata.name} "])
def test_a_path_may_be_written_as_kubectl_takes_it(text: str) -> None:
    assert JsonPath(text).find(DOCUMENT["items"][0]) == ["a"]


def test_a_path_takes_no_text_after_it() -> None:
    with pytest.raises(UsageError, match="unexpected"):
        JsonPath("{.a} b {.c}")


def test_nested_ranges_end_in_bounded_time() -> None:
    wide: Any = {"x": {str(n): {} for n in range(200)}}
    bomb = "{range $.x.*}" * 8 + "x" + "{end}" * 8
    with pytest.raises(UsageError, match="visits too many values"):
        Template(bomb).render(wide)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{.items[?($.items[*].n==$.items[*].n)]}", "visits too many values"),
        ("{.items[?(@.text==$..*)]}", "visits too many values"),
        ("{range .items[*]}{$}{end}", "writes more than 32 MiB"),
        ("{range $.items[*]}{range $.items[*]}" + "x" * 4000 + "{end}{end}", "writes more than 32 MiB"),
    ],
)
def test_cross_products_end_in_bounded_time(template: str, problem: str) -> None:
    document = {"items": [{"n": n, "text": "x" * 500} for n in range(1000)]}
    with pytest.raises(UsageError, match=problem):
        Template(template).render(document)


def test_what_a_column_shows_is_bounded_too() -> None:
    document = {"a": [["x" * 1000]] * 40_000}
    assert len(JsonPath(".a[0:100]").texts(document)) == 100
    with pytest.raises(UsageError, match="writes more than"):
        JsonPath(".a[*]").texts(document)


def test_an_object_that_is_as_large_as_they_come_is_shown() -> None:
    assert len(Template("{@}").render({"a": "x" * 4_000_000})) > 4_000_000


_json: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcn"), inner, max_size=4),
    max_leaves=20,
)
_parts = st.sampled_from(
    ["{", "}", ".", "..", "*", "[", "]", "a", "b", "'", '"', "\\", "0", "-1", ":", ",", "?(", "@", "$", ")", "==", ">",
     "true", "range ", "end", " ", "{range .a}", "{end}", "{.a}", "[*]", "[?(@.a==1)]", "é", "\n"]
)  # fmt: skip


@settings(max_examples=500, deadline=20_000)
@given(st.lists(_parts, max_size=30).map("".join) | st.text(max_size=40), _json)
@example("{..a..b..a}", {"a": {"a": {"b": {}}}})
def test_whatever_is_written_gives_text_or_a_usage_error(text: str, document: Any) -> None:
    for compile_and_use in (lambda: Template(text).render(document), lambda: JsonPath(text).find(document)):
        with contextlib.suppress(UsageError):
            compile_and_use()
