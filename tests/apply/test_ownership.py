"""Who owns which field after which write: managedFields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cumulus.apply import ownership
from cumulus.apply.ownership import MAX_UPDATERS, FieldOwner, Owned
from cumulus.errors import ApplyConflict, InvalidObject
from cumulus.resources.annotations import KUBECTL_LAST_APPLIED, LAST_APPLIED
from cumulus.resources.field_managers import ANCIENT, CUMULUS, KUBECTL
from tests.apply.objects import LATER, NOW, apply, owned, thing


class TestUpdates:
    def test_who_creates_owns_what_they_gave_and_no_default(self) -> None:
        made = ownership.created(thing(a=1, priority=0), thing(a=1), "web", now=NOW)
        assert made["metadata"]["managedFields"] == [
            {
                "manager": "web", "operation": "Update", "apiVersion": "cumulus.dev/v1alpha1", "time": NOW,
                "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:a": {}}},
            }
        ]  # fmt: skip

    def test_who_changes_a_value_takes_it(self) -> None:
        made = ownership.created(thing(a=1, b=2), thing(a=1, b=2), "one", now=NOW)
        changed = ownership.updated(made, thing(a=1, b=3, c=4), "two", now=LATER)
        assert owned(changed) == {("one", "Update"): [".spec.a"], ("two", "Update"): [".spec.b", ".spec.c"]}
        gone = ownership.updated(changed, thing(b=3, c=4), "three", now=LATER)
        assert owned(gone) == {("two", "Update"): [".spec.b", ".spec.c"]}

    def test_a_write_that_changes_nothing_changes_no_owner(self) -> None:
        made = ownership.created(thing(a=1), thing(a=1), "one", now=NOW)
        assert ownership.updated(made, thing(a=1), "two", now=LATER) == made

    def test_owners_can_be_set_and_forgotten(self) -> None:
        made = ownership.created(thing(a=1), thing(a=1), "one", now=NOW)
        entries = [{**made["metadata"]["managedFields"][0], "manager": KUBECTL, "operation": "Apply"}]
        given = {**made, "metadata": {**made["metadata"], "managedFields": entries}}
        assert owned(ownership.updated(made, thing(a=1), "x", now=NOW, given=given)).keys() == {(KUBECTL, "Apply")}
        for forgotten in ([], [{}]):
            given = {**made, "metadata": {"name": "x", "managedFields": forgotten}}
            assert "managedFields" not in ownership.updated(made, thing(a=1), "x", now=NOW, given=given)["metadata"]

    @pytest.mark.parametrize(
        "entries",
        [
            3, "x", [3], [{"operation": "Guess"}], [{"operation": "Apply", "manager": "x" * 200}],
            [{"operation": "Apply", "manager": "a\nb"}], [{"operation": "Apply", "fieldsV1": {"spec": {}}}],
            [{"operation": "Apply", "fieldsV1": 1}],
        ],
    )  # fmt: skip
    def test_what_cannot_be_read_is_refused_when_it_is_given_and_ignored_when_it_is_there(self, entries: Any) -> None:
        live = {**thing(a=1), "metadata": {"name": "x", "managedFields": entries}}
        assert ownership.of(live) == {}
        with pytest.raises(InvalidObject, match="managedFields"):
            ownership.updated(thing(a=1), thing(a=1), "x", now=NOW, given=live)

    def test_the_oldest_of_many_become_one(self) -> None:
        live = thing(start=1)
        for number in range(30):
            after = {**live, "spec": {**live["spec"], f"f{number:02}": 1}}
            live = ownership.updated(live, after, f"m{number:02}", now=f"2030-01-01T12:{number:02}:00Z")
            updaters = [owner for owner in ownership.of(live) if owner.operation == "Update"]
            assert len(updaters) == min(number + 1, MAX_UPDATERS)
        kept = owned(live)
        assert len(kept[ANCIENT, "Update"]) == 21
        assert {manager for manager, _ in kept} == {ANCIENT, *(f"m{number:02}" for number in range(21, 30))}
        assert sum(map(len, kept.values())) == 30, "nothing is lost"

    def test_a_manager_has_a_name(self) -> None:
        for name in ("", "x" * 129, "a\nb", "a\x1b[31m"):
            with pytest.raises(InvalidObject, match="fieldManager must have 1 to 128 printable characters"):
                ownership.created(thing(), thing(), name, now=NOW)


class TestApplies:
    def test_a_field_that_one_applies_no_more_goes(self) -> None:
        live = apply(apply(thing(), "one", thing(a=1, b=2)), "one", thing(a=1))
        assert live["spec"] == {"a": 1}
        assert owned(live) == {("one", "Apply"): [".spec.a"]}

    def test_a_shared_field_stays_until_its_last_owner_leaves_it(self) -> None:
        live = apply(apply(thing(), "one", thing(a=1, b=2)), "two", thing(b=2))
        live = apply(live, "one", thing(a=1))
        assert live["spec"] == {"a": 1, "b": 2}
        assert apply(live, "two", thing())["spec"] == {"a": 1}

    def test_another_value_is_a_conflict_that_names_its_owner(self) -> None:
        live = apply(thing(), "one", thing(a=1))
        live = ownership.updated(live, {**live, "spec": {"a": 1, "b": 2, "c": 3}}, "kubectl-edit", now=NOW)
        with pytest.raises(ApplyConflict) as caught:
            apply(live, "two", thing(a=5))
        assert str(caught.value) == 'Apply failed with 1 conflict: conflict with "one": .spec.a'
        with pytest.raises(ApplyConflict) as caught:
            apply(live, "two", thing(a=5, b=6, c=7))
        assert str(caught.value).splitlines() == [
            'Apply failed with 3 conflicts: conflicts with "kubectl-edit" using cumulus.dev/v1alpha1 at '
            "2030-01-01T12:00:00Z:",
            "- .spec.b",
            "- .spec.c",
            'conflicts with "one":',
            "- .spec.a",
        ]

    def test_with_force_it_is_taken_over(self) -> None:
        live = apply(apply(thing(), "one", thing(a=1)), "two", thing(a=5), force=True)
        assert live["spec"] == {"a": 5}
        assert owned(live) == {("two", "Apply"): [".spec.a"]}

    def test_times_stay_where_nothing_changed(self) -> None:
        live = apply(thing(), "one", thing(a=1))
        assert apply(live, "one", thing(a=1), now=LATER) == live
        changed = apply(live, "one", thing(a=2), now=LATER)
        assert [entry["time"] for entry in changed["metadata"]["managedFields"]] == [LATER]

    def test_appliers_come_first_then_the_older_ones(self) -> None:
        owners = {
            FieldOwner("u", "Update"): Owned(frozenset({("f:a",)}), NOW),
            FieldOwner("b", "Apply"): Owned(frozenset({("f:a",)}), LATER),
            FieldOwner("c", "Apply"): Owned(frozenset({("f:a",)}), NOW),
        }
        entries = ownership.written(thing(), owners)["metadata"]["managedFields"]
        assert [entry["manager"] for entry in entries] == ["c", "b", "u"]

    def test_there_is_an_end_to_how_many_own_an_object(self) -> None:
        owners = {FieldOwner(f"m{number}", "Apply"): Owned(frozenset({("f:a",)})) for number in range(65)}
        with pytest.raises(InvalidObject, match="more than 64 field managers"):
            ownership.written(thing(), owners)


class TestNotes:
    def test_what_an_earlier_version_noted_is_owned_and_its_note_goes(self) -> None:
        note = json.dumps(thing(a=1, b=2))
        live = {**thing({LAST_APPLIED: note, "mine": "x"}, a=1, b=2)}
        assert owned(live) == {(CUMULUS, "Apply"): [".spec.a", ".spec.b"]}
        changed = ownership.updated(live, {**live, "spec": {"a": 1, "b": 3}}, "x", now=NOW)
        assert changed["metadata"]["annotations"] == {"mine": "x"}
        assert owned(changed) == {(CUMULUS, "Apply"): [".spec.a"], ("x", "Update"): [".spec.b"]}
        assert apply(live, CUMULUS, thing(a=1))["spec"] == {"a": 1}

    def test_without_a_change_the_note_stays(self) -> None:
        live = thing({LAST_APPLIED: json.dumps(thing(a=1))}, a=1)
        assert ownership.updated(live, thing(a=1), "x", now=NOW) == live

    @pytest.mark.parametrize("note", ["{", "[]", "null", '{"metadata": 3, "spec": []}', '{"metadata": {"labels": 1}}'])
    def test_a_damaged_note_owns_nothing_that_matters(self, note: str) -> None:
        live = thing({LAST_APPLIED: note}, a=1)
        assert apply(live, CUMULUS, thing(b=2))["spec"] == {"a": 1, "b": 2}

    def test_kubectl_is_in_no_conflict_with_what_it_applied_client_side(self) -> None:
        note = json.dumps(thing(a=1, b=2))
        made = thing({KUBECTL_LAST_APPLIED: note}, a=1, b=2)
        made = ownership.created(made, made, "kubectl-client-side-apply", now=NOW)
        assert apply(made, KUBECTL, thing(a=5))["spec"] == {"a": 5, "b": 2}
        with pytest.raises(ApplyConflict):
            apply(made, "other", thing(a=5))
        edited = ownership.updated(made, {**made, "spec": {"a": 3, "b": 2}}, "kubectl-edit", now=NOW)
        with pytest.raises(ApplyConflict, match="kubectl-edit"):
            apply(edited, KUBECTL, thing(a=5))
