"""Label and field selectors: what they match, and where their errors point."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.errors import UsageError
from cumulus.resources.field_path import FieldPlace
from cumulus.resources.registry import KINDS
from cumulus.resources.selectors import parse_fields, parse_labels

LABELS = {"app": "web", "tier": "front", "cumulus.dev/job": "train", "empty": ""}


def labelled(labels: dict[str, str] | None) -> dict[str, object]:
    return {"kind": "Thing", "metadata": {"name": "a", **({"labels": labels} if labels is not None else {})}}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("  ", True),
        ("app=web", True),
        ("app==web", True),
        (" app = web ", True),
        ("app=db", False),
        ("app!=db", True),
        ("app!=web", False),
        ("missing=x", False),
        ("missing!=x", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("! app", False),
        ("app in (db, web)", True),
        ("app in (db)", False),
        ("missing in (db)", False),
        ("app notin (db,web)", False),
        ("app notin (db)", True),
        ("missing notin (db)", True),
        ("empty=", True),
        ("app=", False),
        ("empty in (,x)", True),
        ("app=web,tier=front", True),
        ("app=web,tier=back", False),
        ("empty=,app=web", True),
        ("cumulus.dev/job=train,!gone,app in (web),tier!=back", True),
        ("in=x", False),
        ("notin notin (in)", True),
    ],
)
def test_labels(text: str, matches: bool) -> None:
    assert parse_labels(text).matches(labelled(LABELS)) is matches


@pytest.mark.parametrize(("text", "matches"), [("a", False), ("!a", True), ("a!=b", True), ("a notin (b)", True)])
@pytest.mark.parametrize("labels", [None, {}])
def test_an_object_without_labels(labels: dict[str, str] | None, text: str, matches: bool) -> None:
    assert parse_labels(text).matches(labelled(labels)) is matches


@pytest.mark.parametrize(
    ("text", "character", "says"),
    [
        ("=x", 1, "label key"),
        ("a=b,", 5, "label key"),
        ("a=b,,c", 5, "label key"),
        ("a b", 3, "operator"),
        ("a in b", 6, "opening parenthesis"),
        ("a in (b", 8, "closing parenthesis"),
        ("a in (b c)", 9, "closing parenthesis"),
        ("a=b c", 5, "comma"),
        ("a=b)", 4, "comma"),
        ("!", 2, "label key"),
        ("!!a", 2, "label key"),
        ("a=$x", 3, "cannot stand here"),
        ("a=-x", 3, "label value"),
        ("x/y/z", 1, "label key"),
        ("a>1", 2, "cannot stand here"),
        (f"a={'v' * 64}", 3, "label value"),
        (f"{'k' * 64}=v", 1, "label key"),
    ],
)
def test_label_errors_point_at_the_wrong_part(text: str, character: int, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_labels(text)
    assert f"character {character}:" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


OBJECT = {
    "kind": "Thing",
    "metadata": {"name": "a", "namespace": "n"},
    "spec": {"gpu": {"count": 2, "ratio": 0.5}, "suspend": False, "list": [1], "text": "x=y,z\\w", "nothing": None},
}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("metadata.name=a", True),
        ("metadata.name==a,metadata.namespace=n", True),
        ("metadata.name!=a", False),
        ("kind=Thing", True),
        ("spec.gpu.count=2", True),
        ("spec.gpu.ratio=0.5", True),
        ("spec.suspend=false", True),
        ("spec.suspend!=true", True),
        ("status.phase=", True),
        ("status.phase!=Running", True),
        ("status.phase=Running", False),
        ("spec.nothing=", True),
        ("spec.list=1", False),
        ("spec.gpu=", False),
        ("spec.gpu!=", True),
        (r"spec.text=x\=y\,z\\w", True),
        (" metadata.name = a , kind = Thing ", True),
    ],
)
def test_fields(text: str, matches: bool) -> None:
    assert parse_fields(text).matches(OBJECT) is matches


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("metadata.name", 1),
        ("=a", 1),
        ("a=b,", 5),
        ("a=b,,c=d", 5),
        ("a=b,.x=1", 5),
        ("a..b=c", 1),
        ("a=b=c", 4),
        ("a=x\\y", 4),
        ("a=x\\", 4),
        ("a=b, c d", 5),
    ],
)
def test_field_errors_point_at_the_wrong_part(text: str, character: int) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fields(text)
    assert f"character {character}:" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("GPUJob", "spec.gpu.memory=50%,status.phase!=Running"),
        ("GPUJob", "status.phase="),
        ("GPUJob", "spec.suspend=true,spec.priority=3,metadata.name=a"),
        ("GPUJob", "apiVersion=cumulus.dev/v1alpha1,kind=GPUJob"),
        ("GPUJob", "metadata.labels.team=vision,metadata.annotations.any=x"),
        ("GPUNode", "spec.ssh.host=h,status.bootId!=b"),
        ("Event", "involvedObject.uid=u,type=Warning,source.component=job"),
        ("Thing", "spec.anything=goes"),
    ],
)
def test_fields_that_the_kind_has(kind: str, text: str) -> None:
    parse_fields(text, kind)


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("GPUJob", "status.phse!=Running", "no field status.phse; did you mean status.phase?"),
        ("GPUJob", "metadata.nam!=a", "no field metadata.nam; did you mean metadata.name?"),
        ("GPUJob", "phase!=Running", "no field phase; did you mean status.phase?"),
        (
            "GPUJob",
            "spec.gpu!=x",
            "spec.gpu of a GPUJob is not a single value; name one of its fields, as spec.gpu.memory",
        ),
        ("GPUJob", "status.attempts.reason!=x", "status.attempts of a GPUJob is a list"),
        ("GPUJob", "status.attempts!=x", "status.attempts of a GPUJob is not a single value"),
        ("GPUJob", "metadata.labels!=x", "metadata.labels of a GPUJob is not a single value"),
        ("GPUJob", "status.phase.x!=x", "no field status.phase.x"),
        ("GPUJob", "status.phase!=running", "never 'running'; did you mean Running?"),
        ("GPUPartition", "status.phase=Running", "never 'Running'; it is Pending, Bound"),
        ("Event", "type!=warning", "never 'warning'; did you mean Warning?"),
    ],
)
def test_fields_and_values_that_the_kind_never_has(kind: str, text: str, says: str) -> None:
    for operator in ("=", "!="):
        with pytest.raises(UsageError) as caught:
            parse_fields(f"metadata.name=a, {text.replace('!=', '=').replace('=', operator)}", kind)
        assert "character 18:" in str(caught.value)
        assert says in f"{caught.value}; {caught.value.hint}"


def test_a_key_of_a_map_may_hold_dots() -> None:
    document = labelled({"cumulus.dev/job": "train"})
    assert parse_fields("metadata.labels.cumulus.dev/job=train", "GPUJob").matches(document)
    assert not parse_fields("metadata.labels.cumulus.dev/job!=train", "GPUJob").matches(document)


def test_fields_taken_without_the_model_are_there() -> None:
    for kind in KINDS:
        for path in kind.selected:
            parse_fields(f"{path}=", kind.name)
            place = FieldPlace.start(kind)
            for name in path.split("."):
                place = place.named(name)
            assert place.single


@given(st.text(alphabet="ab.=!,()\\ in/notin-$\n", max_size=20))
def test_any_text_parses_or_is_a_usage_error(text: str) -> None:
    for parse in (parse_labels, parse_fields):
        message = ""
        try:
            parse(text).matches(OBJECT)
        except UsageError as error:
            message = str(error)
        assert "\n" not in message


@given(st.text(min_size=1).filter(lambda text: text == text.strip()))
def test_an_escaped_value_matches_itself(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")
    document = {"kind": "T", "metadata": {"name": "a"}, "spec": {"text": value}}
    assert parse_fields(f"spec.text={escaped}").matches(document)
    assert not parse_fields(f"spec.text!={escaped}").matches(document)
