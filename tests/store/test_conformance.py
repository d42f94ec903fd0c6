"""What every store does: `base`'s contract, sentence by sentence, on each implementation."""

from __future__ import annotations

import json
import threading
from copy import deepcopy

import pytest

from cumulus.clock import FakeClock, timestamp
from cumulus.errors import (
    AlreadyExists,
    Conflict,
    CumulusError,
    Expired,
    Fenced,
    InvalidObject,
    NotFound,
    StoreUnavailable,
    UsageError,
)
from cumulus.store.base import Fence, Key, Query, Retention, Store, Write
from cumulus.store.codec import MAX_BYTES, MAX_GIVEN
from tests.store.conftest import Make, thing, version

A = Key("Thing", "default", "a")


def names(store: Store, query: Query) -> list[str]:
    return [item["metadata"]["name"] for item in store.list(query).items]


def test_the_namespaces_are_those_that_objects_are_in(store: Store) -> None:
    for namespace in ("b", "a", "b"):
        store.create(thing(f"x{store.revision()}", namespace=namespace))
    assert list(store.namespaces()) == ["a", "b"]
    store.delete(Key("Thing", "a", "x1"))
    assert list(store.namespaces()) == ["b"]


class TestCreate:
    def test_sets_what_the_store_owns(self, store: Store, clock: FakeClock) -> None:
        made = store.create(thing("a", spec={"n": 1}, status={"phase": "New"}))
        assert made["metadata"] == {
            "name": "a",
            "namespace": "default",
            "uid": made["metadata"]["uid"],
            "creationTimestamp": timestamp(clock.now()),
            "generation": 1,
            "resourceVersion": "1",
        }
        assert made["spec"] == {"n": 1}
        assert made["status"] == {"phase": "New"}
        assert store.get(A) == made
        assert store.create(thing("b"))["metadata"]["uid"] != made["metadata"]["uid"]

    def test_ignores_what_the_writer_says_of_the_stores_own(self, store: Store) -> None:
        given = thing("a", uid="mine", resourceVersion="77")
        given["metadata"] |= {"generation": 9, "deletionTimestamp": "2020-01-01T00:00:00Z", "creationTimestamp": "x"}
        metadata = store.create(given)["metadata"]
        assert metadata["uid"] != "mine"
        assert metadata["generation"] == 1
        assert metadata["resourceVersion"] == "1"
        assert "deletionTimestamp" not in metadata
        assert metadata["creationTimestamp"] != "x"

    def test_of_one_that_is_there_is_refused(self, store: Store) -> None:
        store.create(thing("a"))
        with pytest.raises(AlreadyExists, match="thing/default/a"):
            store.create(thing("a"))
        assert store.revision() == 1

    def test_names_are_per_kind_and_namespace(self, store: Store) -> None:
        store.create(thing("a"))
        store.create(thing("a", namespace="other"))
        store.create(thing("a", namespace=None))
        store.create(thing("a", kind="Other"))
        assert store.get(Key("Thing", "", "a"))["metadata"].get("namespace") is None
        assert store.revision() == 4

    @pytest.mark.parametrize(
        ("document", "field"),
        [
            ({"metadata": {"name": "a"}}, "kind"),
            ({"kind": "", "metadata": {"name": "a"}}, "kind"),
            ({"kind": "Thing"}, "metadata"),
            ({"kind": "Thing", "metadata": []}, "metadata"),
            ({"kind": "Thing", "metadata": {}}, "metadata.name"),
            ({"kind": "Thing", "metadata": {"name": 3}}, "metadata.name"),
            ({"kind": "Thing", "metadata": {"name": "a\nb"}}, "metadata.name"),
            ({"kind": "Thing", "metadata": {"name": "a/b"}}, "metadata.name"),
            ({"kind": "Thing", "metadata": {"name": "a", "namespace": 3}}, "metadata.namespace"),
            ({"kind": "Thing", "metadata": {"name": "a", "namespace": "x/y"}}, "metadata.namespace"),
            ({"kind": "Thing", "metadata": {"name": "a", "labels": {"a": 1}}}, "metadata.labels"),
            ({"kind": "Thing", "metadata": {"name": "a", "annotations": ["a"]}}, "metadata.annotations"),
            ({"kind": "Thing", "metadata": {"name": "a", "finalizers": "x"}}, "metadata.finalizers"),
            ({"kind": "Thing", "metadata": {"name": "a", "finalizers": [1]}}, "metadata.finalizers"),
            ({"kind": "Thing", "metadata": {"name": "a", "finalizers": ["x\x1b[2J"]}}, "metadata.finalizers"),
            ({"kind": "Thing", "metadata": {"name": "a", "ownerReferences": [{}]}}, "metadata.ownerReferences"),
        ],
    )
    def test_refuses_what_is_not_an_object(self, store: Store, document: dict[str, object], field: str) -> None:
        with pytest.raises(InvalidObject) as caught:
            store.create(document)
        assert caught.value.field == field
        assert field in str(caught.value)
        assert store.revision() == 0

    def test_refuses_a_verb_that_there_is_not(self, store: Store) -> None:
        made = store.create(thing("a"))
        with pytest.raises(InvalidObject, match="a write is create, update, status or delete, not 'nonsense'"):
            store.transact([Write("nonsense", made | {"spec": {"n": 1}})])  # type: ignore[arg-type]
        assert store.revision() == 1

    @pytest.mark.parametrize("value", [{1, 2}, 1 << 70, "\ud800", {1: 2}, object()])
    def test_refuses_what_json_cannot_say(self, store: Store, value: object) -> None:
        with pytest.raises(InvalidObject, match="JSON"):
            store.create(thing("a", spec={"x": value}))
        assert store.revision() == 0

    def test_what_is_given_leaves_a_status_its_room(self, store: Store) -> None:
        for kind in ("GPUJob", "GPUPartition", "GPUNode", "Event"):
            document = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "n"}, "spec": {"text": ""}}
            key = Key(kind, "", "n")
            with pytest.raises(InvalidObject, match=f"more than the {MAX_GIVEN} that may be given"):
                store.create({**document, "spec": {"text": "x" * MAX_GIVEN}})
            made = store.create({**document, "spec": {"text": "x" * (MAX_GIVEN - 1000)}})
            made = store.update_status({**made, "status": {"text": "x" * (MAX_BYTES - MAX_GIVEN)}})
            with pytest.raises(InvalidObject, match="may be given"):
                store.update({**made, "metadata": {**made["metadata"], "annotations": {"note": "x" * 2000}}})
            store.delete(key)

    def test_refuses_an_object_too_large(self, store: Store) -> None:
        with pytest.raises(InvalidObject, match="bytes"):
            store.create(thing("a", spec={"x": "y" * 2_000_000}))

    def test_keeps_any_text(self, store: Store) -> None:
        odd = "\x00 é \U0001f600 ' \" \\ \n"
        store.create(thing("a", spec={odd: odd}, annotations={"note": odd}))
        assert store.get(A)["spec"] == {odd: odd}


class TestUpdate:
    def test_replaces_spec_and_metadata_but_not_status(self, store: Store) -> None:
        made = store.create(thing("a", labels={"x": "1"}, spec={"n": 1}, status={"phase": "New"}))
        changed = store.update(thing("a", labels={"y": "2"}, spec={"m": 2}, status={"phase": "Forged"}, data=[1]))
        assert changed["spec"] == {"m": 2}
        assert changed["data"] == [1]
        assert changed["status"] == {"phase": "New"}
        assert changed["metadata"]["labels"] == {"y": "2"}
        for name in ("uid", "creationTimestamp"):
            assert changed["metadata"][name] == made["metadata"][name]
        assert changed == store.get(A)

    def test_generation_counts_changes_of_what_users_wrote(self, store: Store) -> None:
        store.create(thing("a", spec={"n": 1}))
        assert store.update(thing("a", spec={"n": 2}))["metadata"]["generation"] == 2
        assert store.update(thing("a", spec={"n": 2}, labels={"l": "m"}))["metadata"]["generation"] == 2
        assert store.update_status(thing("a", status={"x": 1}))["metadata"]["generation"] == 2
        assert store.update(thing("a", spec={"n": 2}, data={}))["metadata"]["generation"] == 3
        assert version(store.get(A)) == 5

    def test_of_nothing_spends_no_revision(self, store: Store) -> None:
        made = store.create(thing("a", spec={"n": 1}, labels={"x": "y"}))
        assert store.update(deepcopy(made)) == made
        assert store.update(thing("a", spec={"n": 1}, labels={"x": "y"}, finalizers=[], annotations={})) == made
        assert store.update_status(thing("a")) == made
        assert store.revision() == 1

    @pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), (0, False), (None, 0), ("", None), ([], {})])
    def test_values_that_python_calls_equal_are_changes(self, store: Store, old: object, new: object) -> None:
        store.create(thing("a", spec={"x": old}))
        changed = store.update(thing("a", spec={"x": new}))
        assert version(changed) == 2
        assert changed["metadata"]["generation"] == 2
        assert type(store.get(A)["spec"]["x"]) is type(new)

    def test_with_an_old_version_loses(self, store: Store) -> None:
        made = store.create(thing("a", spec={"n": 1}))
        store.update(thing("a", spec={"n": 2}))
        for stale in (made, thing("a", spec={"n": 3}, resourceVersion="nonsense")):
            with pytest.raises(Conflict, match="thing/default/a"):
                store.update(stale)
            with pytest.raises(Conflict):
                store.update_status(stale)
        assert store.get(A)["spec"] == {"n": 2}
        assert store.update(thing("a", spec={"n": 4}, resourceVersion="2"))["spec"] == {"n": 4}

    def test_of_what_is_not_there(self, store: Store) -> None:
        for write in (store.update, store.update_status):
            with pytest.raises(NotFound, match="thing/default/a"):
                write(thing("a"))

    def test_of_another_object_of_that_name(self, store: Store) -> None:
        old = store.create(thing("a"))
        store.delete(A)
        store.create(thing("a"))
        given = thing("a", uid=old["metadata"]["uid"], spec={})
        for write in (store.update, store.update_status):
            with pytest.raises(NotFound):
                write(given)

    def test_what_was_given_and_got_is_never_shared(self, store: Store) -> None:
        given = thing("a", spec={"list": [1]})
        first = store.create(given)
        given["spec"]["list"].append(2)
        first["spec"]["list"].append(3)
        got = store.get(A)
        assert got["spec"] == {"list": [1]}
        got["spec"]["list"].append(4)
        assert store.list(Query("Thing")).items[0]["spec"] == {"list": [1]}


class TestStatus:
    def test_replaces_status_alone(self, store: Store) -> None:
        store.create(thing("a", spec={"n": 1}, labels={"x": "1"}, finalizers=["f"]))
        changed = store.update_status(thing("a", spec={"n": 2}, labels={"y": "2"}, status={"phase": "Run"}))
        assert changed["status"] == {"phase": "Run"}
        assert changed["spec"] == {"n": 1}
        assert changed["metadata"]["labels"] == {"x": "1"}
        assert changed["metadata"]["finalizers"] == ["f"]
        assert "status" not in store.update_status(thing("a"))


class TestDelete:
    def test_returns_the_last_state_at_the_deleting_revision(self, store: Store) -> None:
        made = store.create(thing("a", spec={"n": 1}))
        gone = store.delete(A)
        assert gone["spec"] == {"n": 1}
        assert gone["metadata"] == made["metadata"] | {"resourceVersion": "2"}
        with pytest.raises(NotFound):
            store.get(A)
        with pytest.raises(NotFound):
            store.delete(A)

    def test_preconditions(self, store: Store) -> None:
        made = store.create(thing("a"))
        with pytest.raises(NotFound):
            store.delete(A, uid="another")
        with pytest.raises(Conflict):
            store.delete(A, resource_version="9")
        store.delete(A, uid=made["metadata"]["uid"], resource_version="1")
        again = store.create(thing("a"))
        assert again["metadata"]["uid"] != made["metadata"]["uid"]

    def test_with_finalizers_marks_and_waits(self, store: Store, clock: FakeClock) -> None:
        store.create(thing("a", finalizers=["one", "two"], spec={"n": 1}))
        clock.advance(5)
        marked = store.delete(A)
        assert marked["metadata"]["deletionTimestamp"] == timestamp(clock.now())
        clock.advance(5)
        assert store.delete(A) == marked, "a second delete changes nothing"
        assert store.revision() == 2
        left = store.update(thing("a", finalizers=["two"], spec={"n": 1}))
        assert left["metadata"]["deletionTimestamp"] == marked["metadata"]["deletionTimestamp"]
        gone = store.update(thing("a", spec={"n": 1}))
        assert version(gone) == 4
        with pytest.raises(NotFound):
            store.get(A)

    def test_the_least_grace_period_counts(self, store: Store) -> None:
        store.create(thing("a", finalizers=["one"]))
        for given, counts in ((0, 0), (30, 30), (5, 5), (0, 5), (10, 5)):
            store.transact([Write("delete", key=A, grace_seconds=given)])
            assert store.get(A)["metadata"]["deletionGracePeriodSeconds"] == counts
        kept = store.update({**store.get(A), "metadata": {"name": "a", "namespace": "default", "finalizers": ["one"]}})
        assert kept["metadata"]["deletionGracePeriodSeconds"] == 5

    def test_no_finalizer_is_added_while_deleting(self, store: Store) -> None:
        store.create(thing("a", finalizers=["one"]))
        store.delete(A)
        with pytest.raises(InvalidObject, match="two") as caught:
            store.update(thing("a", finalizers=["one", "two"]))
        assert caught.value.field == "metadata.finalizers"
        store.update_status(thing("a", status={"phase": "Ending"}))
        assert store.get(A)["status"] == {"phase": "Ending"}

    def test_emptying_finalizers_of_a_live_object_keeps_it(self, store: Store) -> None:
        store.create(thing("a", finalizers=["one"]))
        store.update(thing("a"))
        assert store.get(A)["metadata"].get("finalizers") is None

    def test_a_writer_cannot_mark_an_object_deleted(self, store: Store) -> None:
        made = store.create(thing("a", finalizers=["one"]))
        made["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
        assert "deletionTimestamp" not in store.update(made)["metadata"]


class TestOddKeys:
    @pytest.mark.parametrize("text", ["\ud800", "a\nb", "", "\x00", "a/b", "'; --", "é"])
    def test_are_just_not_there(self, store: Store, text: str) -> None:
        store.create(thing("a"))
        for key in (Key("Thing", "default", text), Key("Thing", text, "a"), Key(text, "default", "a")):
            for action in (lambda k=key: store.get(k), lambda k=key: store.delete(k)):
                with pytest.raises(NotFound) as caught:
                    action()
                assert "\n" not in str(caught.value)
            with pytest.raises(Fenced):
                store.create(thing("b"), fence=Fence(key.namespace, key.name, 1))
        assert store.list(Query(text)).items == []
        assert store.list(Query("Thing", namespace=text)).items == []
        assert store.list(Query("Thing", owner_uid=text)).items == []


class TestTransact:
    def test_all_in_order_each_seeing_those_before(self, store: Store) -> None:
        made = store.transact(
            [
                Write("create", thing("a", spec={"n": 1})),
                Write("update", thing("a", spec={"n": 2}, resourceVersion="1")),
                Write("status", thing("a", status={"ok": True})),
                Write("create", thing("b")),
                Write("delete", key=A, resource_version="3"),
                Write("create", thing("a", spec={"n": 9})),
            ]
        )
        assert [version(d) for d in made] == [1, 2, 3, 4, 5, 6]
        assert store.get(A)["spec"] == {"n": 9}
        assert store.get(A)["metadata"]["generation"] == 1
        assert made[0]["metadata"]["uid"] == made[4]["metadata"]["uid"] != made[5]["metadata"]["uid"]

    def test_none_when_one_fails(self, store: Store) -> None:
        store.create(thing("b"))
        with pytest.raises(AlreadyExists) as caught:
            store.transact([Write("create", thing("a")), Write("create", thing("c")), Write("create", thing("b"))])
        assert caught.value.index == 2  # type: ignore[attr-defined]
        assert store.revision() == 1
        assert names(store, Query("Thing")) == ["b"]

    def test_of_nothing(self, store: Store) -> None:
        assert store.transact([]) == []
        assert store.revision() == 0

    def test_a_delete_needs_a_key(self, store: Store) -> None:
        with pytest.raises(CumulusError, match="key"):
            store.transact([Write("delete")])


class TestTransactEach:
    def test_each_has_its_own_outcome_and_sees_those_before(self, store: Store) -> None:
        outcomes = store.transact_each(
            [
                [Write("create", thing("a"))],
                [Write("create", thing("b")), Write("create", thing("a"))],
                [Write("update", thing("a", spec={"n": 2}, resourceVersion="1")), Write("create", thing("b"))],
            ]
        )
        made, refused, changed = outcomes
        assert isinstance(made, list)
        assert isinstance(refused, AlreadyExists)
        assert isinstance(changed, list)
        assert [version(d) for d in (*made, *changed)] == [1, 2, 3]
        assert names(store, Query("Thing")) == ["a", "b"]
        assert store.get(A)["spec"] == {"n": 2}

    def test_of_nothing(self, store: Store) -> None:
        assert list(store.transact_each([])) == []
        assert store.revision() == 0


class TestFence:
    FENCE = Fence("", "leader", 7)

    def lease(self, token: object) -> dict[str, object]:
        return thing("leader", namespace=None, kind="Lease", spec={"token": token})

    def test_lets_the_leader_write(self, store: Store) -> None:
        store.create(self.lease(7))
        store.create(thing("a"), fence=self.FENCE)
        store.update(thing("a", spec={}), fence=self.FENCE)
        store.update_status(thing("a", status={}), fence=self.FENCE)
        store.delete(A, fence=self.FENCE)
        store.transact([Write("create", thing("a"))], fence=self.FENCE)

    @pytest.mark.parametrize("token", [6, 8, "7", None, True])
    def test_refuses_any_other(self, store: Store, token: object) -> None:
        store.create(self.lease(token))
        self.check_refused(store)

    def test_refuses_without_a_lease(self, store: Store) -> None:
        self.check_refused(store)

    def check_refused(self, store: Store) -> None:
        before = store.revision()
        for write in (
            lambda: store.create(thing("a"), fence=self.FENCE),
            lambda: store.update(thing("leader", namespace=None, kind="Lease"), fence=self.FENCE),
            lambda: store.delete(Key("Lease", "", "leader"), fence=self.FENCE),
            lambda: store.transact([Write("create", thing("a"))], fence=self.FENCE),
        ):
            with pytest.raises(Fenced, match="leader"):
                write()
        assert store.revision() == before

    def test_goes_by_the_lease_before_the_transaction(self, store: Store) -> None:
        store.create(self.lease(7))
        store.transact([Write("update", self.lease(8)), Write("create", thing("a"))], fence=self.FENCE)
        with pytest.raises(Fenced):
            store.create(thing("b"), fence=self.FENCE)


class TestList:
    def fill(self, store: Store) -> None:
        for namespace in ("beta", "alpha"):
            for name in ("c", "a", "b-x", "b"):
                store.create(thing(name, namespace, labels={"l": name}, spec={"ns": namespace}))
        store.create(thing("z", kind="Other"))
        store.create(thing("cluster", namespace=None))

    def test_is_sorted_by_namespace_and_name(self, store: Store) -> None:
        self.fill(store)
        page = store.list(Query("Thing"))
        places = [(d["metadata"].get("namespace", ""), d["metadata"]["name"]) for d in page.items]
        expected = [(n, m) for n in ("alpha", "beta") for m in ("a", "b", "b-x", "c")]
        assert places == [("", "cluster"), *expected]
        assert page.revision == 10
        assert page.continue_token == ""
        assert names(store, Query("Thing", namespace="beta")) == ["a", "b", "b-x", "c"]
        assert names(store, Query("Thing", namespace="")) == ["cluster"]
        assert names(store, Query("Nothing")) == []

    def test_selectors(self, store: Store) -> None:
        self.fill(store)
        assert names(store, Query("Thing", namespace="alpha", labels="l in (a,b)")) == ["a", "b"]
        assert names(store, Query("Thing", labels="!l")) == ["cluster"]
        assert names(store, Query("Thing", fields="spec.ns=beta,metadata.name!=c")) == ["a", "b", "b-x"]
        unknown = Query("GPUJob", fields="status.phse!=Running")
        for query in (
            Query("Thing", labels="a in b"),
            Query("Thing", fields="nonsense"),
            Query("Thing", limit=0),
            unknown,
        ):
            with pytest.raises(UsageError):
                store.list(query)

    def test_by_owner(self, store: Store) -> None:
        store.create(thing("a", owners=["u1"]))
        store.create(thing("b", owners=["u1", "u2"]))
        store.create(thing("c", namespace="other", owners=["u2"]))
        store.create(thing("d", kind="Other", owners=["u1"]))
        assert names(store, Query("Thing", owner_uid="u1")) == ["a", "b"]
        assert names(store, Query("Thing", owner_uid="u2")) == ["b", "c"]
        assert names(store, Query("Thing", namespace="other", owner_uid="u2")) == ["c"]
        store.update(thing("b", owners=["u2", "u3"]))
        store.delete(Key("Thing", "other", "c"))
        assert names(store, Query("Thing", owner_uid="u1")) == ["a"]
        assert names(store, Query("Thing", owner_uid="u2")) == ["b"]
        assert names(store, Query("Thing", owner_uid="u3")) == ["b"]
        assert names(store, Query("Thing", owner_uid="u2", revision=4)) == ["b", "c"]

    def test_by_owner_after_several_changes_in_one_transaction(self, store: Store) -> None:
        store.create(thing("a", owners=["u1"]))
        store.transact(
            [
                Write("update", thing("a", owners=["u2"])),
                Write("delete", key=A),
                Write("create", thing("a", owners=["u3"])),
                Write("create", thing("b", owners=["u1"])),
                Write("delete", key=Key("Thing", "default", "b")),
            ]
        )
        owned = {uid: names(store, Query("Thing", owner_uid=uid)) for uid in ("u1", "u2", "u3")}
        assert owned == {"u1": [], "u2": [], "u3": ["a"]}

    def test_at_a_revision(self, store: Store) -> None:
        store.create(thing("a", spec={"n": 1}))
        store.create(thing("b", spec={"n": 1}))
        store.update(thing("a", spec={"n": 2}))
        store.delete(Key("Thing", "default", "b"))
        store.create(thing("b", spec={"n": 9}))
        store.create(thing("aa"))

        def seen(revision: int) -> dict[str, object]:
            page = store.list(Query("Thing", revision=revision))
            assert page.revision == revision
            assert all(version(d) <= revision for d in page.items)
            return {d["metadata"]["name"]: d.get("spec", {}).get("n") for d in page.items}

        assert seen(0) == {}
        assert seen(1) == {"a": 1}
        assert seen(2) == {"a": 1, "b": 1}
        assert seen(3) == {"a": 2, "b": 1}
        assert seen(4) == {"a": 2}
        assert seen(5) == {"a": 2, "b": 9}
        assert seen(6) == {"a": 2, "b": 9, "aa": None}
        with pytest.raises(Expired):
            store.list(Query("Thing", revision=7))

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
    def test_pages_stay_at_the_first_pages_revision(self, store: Store, limit: int) -> None:
        self.fill(store)
        whole = store.list(Query("Thing", labels="l!=a"))
        found, token, pages = [], "", 0
        while True:
            page = store.list(Query("Thing", labels="l!=a", limit=limit, continue_token=token))
            assert page.revision == whole.revision
            assert len(page.items) <= limit
            found += page.items
            pages += 1
            token = page.continue_token
            if not token:
                break
            store.create(thing(f"b{pages}", "alpha", labels={"l": "new"}))
            if pages == 1:
                store.delete(Key("Thing", "beta", "c"))
                store.update(thing("b", "beta", labels={"l": "a"}))
                store.create(thing("zz", "beta"))
        assert found == whole.items
        assert pages == -(-len(whole.items) // limit)

    def test_pages_of_one_namespace(self, store: Store) -> None:
        self.fill(store)
        first = store.list(Query("Thing", namespace="alpha", limit=3))
        assert [d["metadata"]["name"] for d in first.items] == ["a", "b", "b-x"]
        second = Query("Thing", namespace="alpha", limit=3, continue_token=first.continue_token)
        assert names(store, second) == ["c"]
        with pytest.raises(UsageError, match="token"):
            store.list(Query("Thing", namespace="beta", limit=3, continue_token=first.continue_token))

    def test_a_forged_token_is_refused(self, store: Store) -> None:
        for token in ("x", "e30=", "WzEsMiwzXQ==", "\u00e9"):
            with pytest.raises(UsageError, match="token"):
                store.list(Query("Thing", continue_token=token))

    def test_packed_it_is_the_same(self, store: Store) -> None:
        self.fill(store)
        for query in (
            Query("Thing"),
            Query("Thing", limit=3),
            Query("Thing", namespace="alpha", labels="l in (a,b)", limit=1),
            Query("Thing", revision=4),
            Query("Nothing"),
        ):
            page, packed = store.list(query), store.list_packed(query)
            assert [json.loads(item) for item in packed.items] == page.items
            assert (packed.revision, packed.continue_token) == (page.revision, page.continue_token)
        with pytest.raises(UsageError):
            store.list_packed(Query("Thing", labels="a in b"))

    def test_packed_it_is_the_same_after_changes(self, store: Store) -> None:
        for number in range(30):
            store.create(thing(f"t{number:02}"))

        def check() -> None:
            page, packed = store.list(Query("Thing")), store.list_packed(Query("Thing"))
            assert ([json.loads(item) for item in packed.items], packed.revision) == (page.items, page.revision)

        check()
        check()
        store.update(thing("t03", spec={"n": 2}))
        store.delete(Key("Thing", "default", "t04"))
        store.create(thing("t04x"))
        check()
        for number in range(10, 30):
            store.update(thing(f"t{number}", spec={"n": 2}))
        check()


class TestWatch:
    def test_tells_every_revision_in_order(self, store: Store) -> None:
        store.create(thing("a", spec={"n": 1}))
        watch = store.watch(since=0)
        store.update(thing("a", spec={"n": 2}))
        store.transact([Write("create", thing("b")), Write("delete", key=A)])
        events = collect(watch, 4)
        assert [(e.type, e.revision, e.key.name) for e in events] == [
            ("ADDED", 1, "a"),
            ("MODIFIED", 2, "a"),
            ("ADDED", 3, "b"),
            ("DELETED", 4, "a"),
        ]
        assert events[3].document["spec"] == {"n": 2}
        assert [version(e.document) for e in events] == [1, 2, 3, 4]
        assert watch.next(0.01) == []
        assert not watch.closed

    def test_from_a_revision_and_of_kinds(self, store: Store) -> None:
        for name in "abc":
            store.create(thing(name))
            store.create(thing(name, kind="Other"))
        watch = store.watch(since=3, kinds=frozenset({"Other", "Third"}))
        store.create(thing("d", kind="Third"))
        assert [e.revision for e in collect(watch, 3)] == [4, 6, 7]
        late = store.watch(since=store.revision())
        assert late.next(0) == []
        store.create(thing("e"))
        assert [e.revision for e in collect(late, 1)] == [8]

    def test_a_write_that_changes_nothing_is_no_event(self, store: Store) -> None:
        store.create(thing("a"))
        watch = store.watch(since=1)
        store.update(thing("a"))
        store.create(thing("b"))
        assert [e.revision for e in collect(watch, 1)] == [2]

    def test_finalizers_end_in_one_deleted_event(self, store: Store) -> None:
        store.create(thing("a", finalizers=["f"]))
        store.delete(A)
        store.update(thing("a"))
        assert [e.type for e in collect(store.watch(since=0), 3)] == ["ADDED", "MODIFIED", "DELETED"]

    def test_waits_for_what_comes(self, store: Store) -> None:
        watch = store.watch(since=0)
        assert watch.next(0.01) == []
        timer = threading.Timer(0.05, lambda: store.create(thing("a")))
        timer.start()
        assert [e.revision for e in watch.next(10)] == [1]
        timer.join()

    @pytest.mark.parametrize("close", ["watch", "store"])
    def test_close_wakes_a_waiting_next(self, store: Store, close: str) -> None:
        watch = store.watch(since=0)
        timer = threading.Timer(0.05, watch.close if close == "watch" else store.close)
        timer.start()
        assert watch.next() == []
        assert watch.closed
        assert watch.next() == []
        timer.join()

    def test_many_writers_many_watches(self, store: Store) -> None:
        """Watches that start at different times all see the one same sequence without a gap."""
        watches = [store.watch(since=0) for _ in range(3)]

        def write(writer: int) -> None:
            for i in range(20):
                store.create(thing(f"w{writer}-{i}"))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        middle = store.revision()
        watches.append(store.watch(since=middle))
        for thread in threads:
            thread.join()
        starts = (0, 0, 0, middle)
        sequences = [[(e.revision, e.key) for e in collect(w, 100 - s)] for w, s in zip(watches, starts, strict=True)]
        assert [r for r, _ in sequences[0]] == list(range(1, 101))
        assert all(s == sequences[0][-len(s) :] for s in sequences[1:] if s)

    def test_a_slow_watch_loses_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cumulus.store.watch.QUEUE_LIMIT", 10)
        monkeypatch.setattr("cumulus.store.watch.BATCH", 7)
        slow = store.watch(since=0, kinds=frozenset({"Thing"}))
        assert slow.next(0.01) == []
        for n in range(100):
            store.create(thing(f"t{n}", kind="Thing" if n % 3 else "Other"))
        expected = [n + 1 for n in range(100) if n % 3]
        assert len(slow._queue) <= 10, "what waits for a slow reader is bounded"  # type: ignore[attr-defined]
        assert [e.revision for e in collect(slow, len(expected))] == expected
        store.create(thing("last"))
        assert [e.revision for e in collect(slow, 1)] == [101]


class TestCompaction:
    def test_keeps_what_is_current_and_expires_the_past(self, store: Store) -> None:
        store.create(thing("a", spec={"n": 1}))
        watch = store.watch(since=0)
        token = self.token(store)
        store.update(thing("a", spec={"n": 2}))
        store.delete(Key("Thing", "default", "p1"))
        store.update(thing("a", spec={"n": 3}))
        newest = store.revision()
        store.compact(newest - 1)
        assert store.get(A)["spec"] == {"n": 3}
        assert names(store, Query("Thing", revision=newest)) == ["a", "p0"]
        assert store.list(Query("Thing", revision=newest - 1)).items[0]["spec"] == {"n": 2}
        for expired in (
            lambda: store.list(Query("Thing", revision=newest - 2)),
            lambda: store.list(Query("Thing", limit=1, continue_token=token)),
            lambda: store.watch(since=newest - 2),
        ):
            with pytest.raises(Expired):
                expired()
        assert [e.revision for e in collect(store.watch(since=newest - 1), 1)] == [newest]
        self.drain(watch)

    def token(self, store: Store) -> str:
        for n in range(2):
            store.create(thing(f"p{n}"))
        token = store.list(Query("Thing", limit=1)).continue_token
        assert token
        return token

    def drain(self, watch: object) -> None:
        """A watch from before goes on without a gap, or says that it cannot."""
        seen: list[int] = []
        try:
            while len(seen) < 6:
                seen += [e.revision for e in watch.next(5)]  # type: ignore[attr-defined]
        except Expired:
            pass
        assert seen == list(range(1, len(seen) + 1))

    def test_a_watch_that_was_left_behind_is_told(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cumulus.store.watch.QUEUE_LIMIT", 3)
        monkeypatch.setattr("cumulus.store.watch.BATCH", 3)
        watch = store.watch(since=0)
        for n in range(20):
            store.create(thing(f"t{n}"))
        store.compact(20)
        seen: list[int] = []
        with pytest.raises(Expired):
            seen.extend(e.revision for _ in range(100) for e in watch.next(5))
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) < 20

    def test_to_a_revision_not_reached_is_refused(self, store: Store) -> None:
        store.create(thing("a"))
        with pytest.raises(UsageError):
            store.compact(2)
        store.compact(1)
        store.compact(0)
        store.compact(1)

    def test_revisions_never_go_back(self, store: Store) -> None:
        store.create(thing("a"))
        store.delete(A)
        store.compact(2)
        assert store.revision() == 2
        assert version(store.create(thing("a"))) == 3

    def test_of_a_recreated_object(self, store: Store) -> None:
        store.create(thing("a", spec={"n": 1}))
        store.delete(A)
        store.create(thing("a", spec={"n": 2}))
        store.compact(2)
        assert names(store, Query("Thing", revision=2)) == []
        store.compact(3)
        assert store.get(A)["spec"] == {"n": 2}
        assert store.list(Query("Thing")).items == [store.get(A)]

    def test_retention_keeps_what_is_young_or_among_the_newest(self, make: Make, clock: FakeClock) -> None:
        store = make(Retention(revisions=5, seconds=60))
        for n in range(10):
            store.create(thing(f"old{n}"))
        assert store.retain() == 0, "nothing is old"
        clock.advance(61)
        for n in range(3):
            store.create(thing(f"new{n}"))
        assert store.retain() == 8, "five revisions are kept though two of them are old"
        with pytest.raises(Expired):
            store.watch(since=7)
        assert [e.revision for e in collect(store.watch(since=8), 5)] == [9, 10, 11, 12, 13]
        clock.advance(30)
        for n in range(10):
            store.create(thing(f"later{n}"))
        assert store.retain() == 10, "thirteen young revisions are kept though they are more than five"
        assert len(store.list(Query("Thing")).items) == 23


class TestRevision:
    def test_is_gapless_over_every_kind_of_write(self, store: Store) -> None:
        assert store.revision() == 0
        store.create(thing("a", finalizers=["f"]))
        store.update(thing("a", spec={}, finalizers=["f"]))
        store.update_status(thing("a", status={}))
        store.delete(A)
        store.update(thing("a", spec={}))
        assert store.revision() == 5
        for failing in (lambda: store.get(A), lambda: store.update(thing("a")), lambda: store.delete(A)):
            with pytest.raises(NotFound):
                failing()
        assert version(store.create(thing("a"))) == 6


class TestClose:
    def test_everything_else_is_refused_afterwards(self, store: Store) -> None:
        store.create(thing("a"))
        store.close()
        store.close()
        for refused in (
            lambda: store.get(A),
            lambda: store.list(Query("Thing")),
            lambda: store.create(thing("b")),
            lambda: store.watch(since=0),
            lambda: store.revision(),
            lambda: store.compact(1),
            lambda: store.retain(),
        ):
            with pytest.raises(StoreUnavailable, match="closed"):
                refused()


def collect(watch: object, count: int) -> list[object]:
    """The next `count` events, within 20 s."""
    events: list[object] = []
    while len(events) < count:
        more = watch.next(20)  # type: ignore[attr-defined]
        assert more, f"only {len(events)} of {count} events came"
        events += more
    assert len(events) == count
    return events
