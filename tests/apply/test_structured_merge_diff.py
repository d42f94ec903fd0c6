"""The cases by which structured-merge-diff, Kubernetes' implementation, documents itself: the same operations must
leave the same object with the same owners. Cases are named as in its tests.

Two things differ by intent. A field with the value null is one that is not given. The items of a list come in the order
of who applied last, then the others'; there their order is mixed. Order means nothing in either, so it is not compared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from cumulus.apply import ownership
from cumulus.errors import ApplyConflict
from cumulus.resources.key import Document
from tests.apply.objects import NOW, apply, owned


class Op(NamedTuple):
    """`verb`: apply, force or update. `conflicts`: manager and field of each that is expected, and nothing happens."""

    verb: str
    manager: str
    spec: Document
    conflicts: frozenset[tuple[str, str]] = frozenset()


def applies(manager: str, *conflicts: tuple[str, str], **spec: Any) -> Op:
    return Op("apply", manager, spec, frozenset(conflicts))


def forces(manager: str, **spec: Any) -> Op:
    return Op("force", manager, spec)


def updates(manager: str, **spec: Any) -> Op:
    return Op("update", manager, spec)


def items(**values: Any) -> list[Document]:
    """A list whose items have names: `env` is one."""
    return [{"name": name} | ({} if value is None else {"value": value}) for name, value in values.items()]


def item(name: str, *fields: str) -> tuple[str, ...]:
    path = f'.env[name="{name}"]'
    return (path, f"{path}.name", *(f"{path}.{field}" for field in fields))


class Case(NamedTuple):
    ops: list[Op]
    spec: Document
    owners: dict[str, tuple[str, ...]]
    """Manager -> fields below spec."""


CASES = {
    # Scalars
    "apply_twice": Case(
        [applies("one", numeric=1, string="s"), applies("one", numeric=2, string="s", bool=False)],
        {"numeric": 2, "string": "s", "bool": False},
        {"one": (".bool", ".numeric", ".string")},
    ),
    "apply_update_apply_no_conflict": Case(
        [
            applies("one", numeric=1, string="s"),
            updates("controller", numeric=1, string="s", bool=True),
            applies("one", numeric=2, string="s"),
        ],
        {"numeric": 2, "string": "s", "bool": True},
        {"one": (".numeric", ".string"), "controller": (".bool",)},
    ),
    "apply_update_apply_with_conflict": Case(
        [
            applies("one", numeric=1, string="s"),
            updates("controller", numeric=1, string="controller s", bool=True),
            applies("one", ("controller", ".spec.string"), numeric=2, string="user s"),
            forces("one", numeric=2, string="user s"),
        ],
        {"numeric": 2, "string": "user s", "bool": True},
        {"one": (".numeric", ".string"), "controller": (".bool",)},
    ),
    "apply_twice_remove": Case(
        [applies("one", numeric=1, string="s", bool=False), applies("one", string="new s")],
        {"string": "new s"},
        {"one": (".string",)},
    ),
    "update_apply_omits": Case(
        [applies("one", numeric=2), updates("controller", numeric=1), applies("one")],
        {"numeric": 1},
        {"controller": (".numeric",)},
    ),
    "update_remove_empty_set": Case(
        [applies("one", string="s"), updates("controller", string="new s")],
        {"string": "new s"},
        {"controller": (".string",)},
    ),
    "apply_remove_empty_set": Case([applies("one", string="s"), applies("one")], {}, {}),
    # Several appliers, of structs
    "unset_scalar_sole_owner": Case(
        [applies("one", struct={"name": "a", "scalar": "a"}), applies("one", struct={"name": "a"})],
        {"struct": {"name": "a"}},
        {"one": (".struct.name",)},
    ),
    "unset_scalar_shared_with_applier": Case(
        [
            applies("one", struct={"name": "a", "scalar": "a"}),
            applies("two", struct={"scalar": "a"}),
            applies("one", struct={"name": "a"}),
        ],
        {"struct": {"name": "a", "scalar": "a"}},
        {"one": (".struct.name",), "two": (".struct.scalar",)},
    ),
    "unset_scalar_shared_with_updater": Case(
        [
            updates("updater", struct={"name": "a", "scalar": "a"}),
            applies("one", struct={"name": "a", "scalar": "a"}),
            applies("one", struct={"name": "a"}),
        ],
        {"struct": {"name": "a", "scalar": "a"}},
        {"updater": (".struct.name", ".struct.scalar"), "one": (".struct.name",)},
    ),
    "updater_claims_field": Case(
        [applies("one", struct={"name": "a", "scalar": "a"}), updates("updater", struct={"name": "a", "scalar": "b"})],
        {"struct": {"name": "a", "scalar": "b"}},
        {"one": (".struct.name",), "updater": (".struct.scalar",)},
    ),
    "unset_complex_sole_owner": Case(
        [applies("one", struct={"name": "a", "complex": {"name": "b"}}), applies("one", struct={"name": "a"})],
        {"struct": {"name": "a"}},
        {"one": (".struct.name",)},
    ),
    "unset_complex_shared_with_applier": Case(
        [
            applies("one", struct={"name": "a", "complex": {"name": "b"}}),
            applies("two", struct={"complex": {"name": "b"}}),
            applies("one", struct={"name": "a"}),
        ],
        {"struct": {"name": "a", "complex": {"name": "b"}}},
        {"one": (".struct.name",), "two": (".struct.complex.name",)},
    ),
    # What is left of a struct
    "struct_apply_remove_all": Case([applies("one", struct={"name": "a", "value": 1}), applies("one")], {}, {}),
    "struct_apply_update_remove_all": Case(
        [applies("one", struct={"name": "a"}), updates("controller", struct={"name": "a", "value": 1}), applies("one")],
        {"struct": {"value": 1}},
        {"controller": (".struct.value",)},
    ),
    "struct_apply_update_dict_dangling": Case(
        [
            applies("one", struct={"name": "a"}),
            updates("controller", struct={"name": "a", "value": 1}),
            applies("one", struct={}),
        ],
        {"struct": {"value": 1}},
        {"one": (".struct",), "controller": (".struct.value",)},
    ),
    "struct_apply_update_took_over": Case(
        [applies("one", struct={"name": "a"}), updates("controller", struct={"name": "b", "value": 1}), applies("one")],
        {"struct": {"name": "b", "value": 1}},
        {"controller": (".struct.name", ".struct.value")},
    ),
    "mapOfMaps_change_value": Case(
        [applies("one", map={"a": {"b": "x", "c": "y"}}), applies("one", map={"a": {"a": "x", "c": "z"}})],
        {"map": {"a": {"a": "x", "c": "z"}}},
        {"one": (".map.a.a", ".map.a.c")},
    ),
    "mapOfMaps_change_key_and_value": Case(
        [applies("one", map={"a": {"b": "x", "c": "y"}}), applies("one", map={"b": {"a": "x", "c": "z"}})],
        {"map": {"b": {"a": "x", "c": "z"}}},
        {"one": (".map.b.a", ".map.b.c")},
    ),
    # Lists whose items have names
    "removing_obsolete_applied_structs": Case(
        [applies("one", env=items(a=1)), applies("one", env=items(b=2))],
        {"env": items(b=2)},
        {"one": item("b", "value")},
    ),
    "remove_one": Case(
        [
            applies("one", env=items(a=None, b=None)),
            applies("two", env=items(c=None)),
            applies("one", env=items(a=None)),
        ],
        {"env": items(a=None, c=None)},
        {"one": item("a"), "two": item("c")},
    ),
    "same_value_no_conflict": Case(
        [applies("one", env=items(a=0)), applies("two", env=items(a=0))],
        {"env": items(a=0)},
        {"one": item("a", "value"), "two": item("a", "value")},
    ),
    "change_value_yes_conflict": Case(
        [applies("one", env=items(a=0)), applies("two", ("one", '.spec.env[name="a"].value'), env=items(a=1))],
        {"env": items(a=0)},
        {"one": item("a", "value")},
    ),
    "remove_one_keep_one": Case(
        [
            applies("one", env=items(a=None, b=None, c=None)),
            applies("two", env=items(c=None, d=None)),
            applies("one", env=items(a=None)),
        ],
        {"env": items(a=None, c=None, d=None)},
        {"one": item("a"), "two": (*item("c"), *item("d"))},
    ),
    "remove_one_keep_one_with_two_sub_items": Case(
        [
            applies("one", env=[{"name": "a"}, {"name": "b", "value": {"c": 1}}]),
            applies("two", env=[{"name": "b", "value": {"d": 1}}]),
            applies("one", env=items(a=None)),
        ],
        {"env": [{"name": "a"}, {"name": "b", "value": {"d": 1}}]},
        {"one": item("a"), "two": item("b", "value.d")},
    ),
    "remove_one_keep_one_with_dangling_subitem": Case(
        [
            applies("one", env=[{"name": "a"}, {"name": "b", "value": {"c": 1}}]),
            applies("two", env=[{"name": "b", "value": {"d": 1}}]),
            updates("controller", env=[{"name": "a"}, {"name": "b", "value": {"c": 1, "d": 1, "e": 1}}]),
            applies("one", env=items(a=None)),
        ],
        {"env": [{"name": "a"}, {"name": "b", "value": {"d": 1, "e": 1}}]},
        {"one": item("a"), "two": item("b", "value.d"), "controller": ('.env[name="b"].value.e',)},
    ),
    "remove_one_with_dangling_subitem_keep_one": Case(
        [
            applies("one", env=[{"name": "a"}, {"name": "b", "value": {"c": 1}}]),
            applies("two", env=[{"name": "a", "value": {"b": 1}}]),
            updates("controller", env=[{"name": "a", "value": {"b": 1}}, {"name": "b", "value": {"c": 1, "d": 1}}]),
            applies("one", env=items(a=None)),
        ],
        {"env": [{"name": "a", "value": {"b": 1}}]},
        {"one": item("a"), "two": item("a", "value.b")},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_scalars_structs_and_named_items(case: Case) -> None:
    live: Document = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}}
    for op in case.ops:
        live = _done(live, op, {**live, "spec": op.spec})
    assert _in_order(live.get("spec") or {}) == _in_order(case.spec)
    expected = {manager: sorted(f".spec{path}" for path in paths) for manager, paths in case.owners.items()}
    assert {manager: paths for (manager, _), paths in owned(live).items()} == expected


SETS = {
    "apply_twice": ([("apply", "one", "ac"), ("apply", "one", "abcd")], "abcd", {"one": "abcd"}),
    "apply_update_apply_no_overlap": (
        [("apply", "one", "ac"), ("update", "controller", "abcd"), ("apply", "one", "aecf")],
        "abcdef", {"one": "acef", "controller": "bd"},
    ),
    "apply_update_apply_with_overlap": (
        [("apply", "one", "ac"), ("update", "controller", "abcd"), ("apply", "one", "abc")],
        "abcd", {"one": "abc", "controller": "bd"},
    ),
    "apply_twice_reorder": ([("apply", "one", "abcd"), ("apply", "one", "adcb")], "abcd", {"one": "abcd"}),
    "apply_update_apply_reorder": (
        [("apply", "one", "abcd"), ("update", "controller", "adcb"), ("apply", "one", "abcd")], "abcd", {"one": "abcd"},
    ),
    "apply_twice_remove": ([("apply", "one", "abcd"), ("apply", "one", "ac")], "ac", {"one": "ac"}),
}  # fmt: skip


@pytest.mark.parametrize(("ops", "values", "owners"), SETS.values(), ids=SETS.keys())
def test_sets(ops: list[tuple[str, str, str]], values: str, owners: dict[str, str]) -> None:
    """Finalizers are one."""
    live: Document = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}}
    for verb, manager, wanted in ops:
        given = {**live, "metadata": {"name": "x", "finalizers": list(wanted)}}
        live = _done(live, Op(verb, manager, {}), given)
    assert sorted(live["metadata"]["finalizers"]) == sorted(values)
    assert {manager: paths for (manager, _), paths in owned(live).items()} == {
        manager: [f'.metadata.finalizers[="{value}"]' for value in mine] for manager, mine in owners.items()
    }


def _done(live: Document, op: Op, given: Document) -> Document:
    if op.verb == "update":
        return ownership.updated(live, given, op.manager, now=NOW)
    config = {name: value for name, value in given.items() if value}
    config["metadata"] = {name: value for name, value in given["metadata"].items() if name != "managedFields"}
    if not op.conflicts:
        return apply(live, op.manager, config, force=op.verb == "force")
    with pytest.raises(ApplyConflict) as caught:
        apply(live, op.manager, config)
    assert {(conflict.manager, conflict.field) for conflict in caught.value.conflicts} == op.conflicts
    return live


def _in_order(spec: Document) -> Document:
    return spec | ({"env": sorted(spec["env"], key=lambda item: item["name"])} if "env" in spec else {})
