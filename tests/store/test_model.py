"""Random histories on the SQLite store, the store in memory and a model of a few lines: all three agree on every
answer, error, list at every revision kept, page and event, also when SQLite's file is closed and opened amid them."""

from __future__ import annotations

import json
import tempfile
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cumulus.clock import FakeClock
from cumulus.errors import AlreadyExists, Conflict, CumulusError, Expired, InvalidObject, NotFound
from cumulus.store.base import Document, Fence, Key, Query, Store, Watch, Write
from cumulus.store.memory import MemoryStore
from cumulus.store.sqlite import SqliteStore
from tests.store.conftest import thing

KINDS = ("Thing", "Other")
KEYS = [Key(kind, namespace, name) for kind in KINDS for namespace in ("", "n") for name in ("a", "b")]


@dataclass(frozen=True)
class Op:
    """A write as a test draws it. `stale` is how far behind the version it carries is, None for none."""

    verb: str
    key: Key
    content: int = 0
    finalizers: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    stale: int | None = None


OPS = st.builds(
    Op,
    verb=st.sampled_from(("create", "create", "update", "update", "status", "delete")),
    key=st.sampled_from(KEYS),
    content=st.integers(0, 2),
    finalizers=st.sampled_from(((), ("f",), ("f", "g"))),
    owners=st.sampled_from(((), ("o1",), ("o1", "o2"))),
    stale=st.sampled_from((None, None, 0, 1)),
)


@dataclass
class Thing:
    """What the model knows of an object."""

    spec: int
    finalizers: tuple[str, ...]
    owners: tuple[str, ...]
    revision: int
    generation: int = 1
    status: int | None = None
    deleting: bool = False


@dataclass
class Model:
    """The contract, in the plainest way: dictionaries, copied whole at each revision."""

    revision: int = 0
    things: dict[Key, Thing] = field(default_factory=dict)
    past: dict[int, dict[Key, Thing]] = field(default_factory=lambda: {0: {}})
    events: list[tuple[str, int, Key]] = field(default_factory=list)

    def apply(self, op: Op) -> None:
        there = self.things.get(op.key)
        if op.verb == "create":
            if there:
                raise AlreadyExists("")
            self.next("ADDED", op.key, Thing(op.content, op.finalizers, op.owners, 0, status=op.content or None))
            return
        if not there:
            raise NotFound("")
        if op.stale:
            raise Conflict("")
        after = deepcopy(there)
        if op.verb == "status":
            after.status = op.content or None
        elif op.verb == "delete":
            if not there.finalizers:
                self.next("DELETED", op.key, after)
                return
            after.deleting = True
        else:
            if there.deleting and set(op.finalizers) - set(there.finalizers):
                raise InvalidObject("")
            after.finalizers, after.owners = op.finalizers, op.owners
            after.generation += there.spec != op.content
            after.spec = op.content
            if there.deleting and not op.finalizers:
                self.next("DELETED", op.key, after)
                return
        if after != there:
            self.next("MODIFIED", op.key, after)

    def next(self, type: str, key: Key, after: Thing) -> None:
        self.revision += 1
        after.revision = self.revision
        if type == "DELETED":
            del self.things[key]
        else:
            self.things[key] = after
        self.events.append((type, self.revision, key))
        self.past[self.revision] = deepcopy(self.things)


def summary(document: Document) -> tuple[Key, Thing]:
    metadata = document["metadata"]
    owners = tuple(owner["uid"] for owner in metadata.get("ownerReferences", ()))
    finalizers = tuple(metadata.get("finalizers", ()))
    status = document.get("status", {}).get("n")
    revision, deleting = int(metadata["resourceVersion"]), "deletionTimestamp" in metadata
    key = Key(document["kind"], metadata.get("namespace", ""), metadata["name"])
    return key, Thing(document["spec"]["n"], finalizers, owners, revision, metadata["generation"], status, deleting)


def outcome(action: Any) -> Any:
    """What an action answers, or the error it raises."""
    try:
        return action()
    except CumulusError as error:
        return type(error).__name__, getattr(error, "index", None)


class Stores(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.clock = FakeClock()
        self.model = Model()
        self.compacted = 0
        self.memory: Store = MemoryStore(self.clock)
        self.sqlite: Store = SqliteStore(Path(self.directory.name) / "store", self.clock)
        self.watches: list[tuple[Watch, int]] = [(store.watch(since=0), 0) for store in (self.memory, self.sqlite)]

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
            self.sqlite.close()
            self.directory.cleanup()

    def write(self, op: Op) -> Write:
        version = None
        if op.stale is not None:
            there = self.model.things.get(op.key)
            version = str((there.revision if there else 0) - op.stale)
        if op.verb == "delete":
            return Write("delete", key=op.key, resource_version=version)
        parts: dict[str, Any] = {"spec": {"n": op.content}, "finalizers": list(op.finalizers), "owners": op.owners}
        if op.content:
            parts["status"] = {"n": op.content}
        if version is not None:
            parts["resourceVersion"] = version
        return Write(op.verb, thing(op.key.name, op.key.namespace or None, op.key.kind, **parts))  # type: ignore[arg-type]

    @rule(ops=st.lists(OPS, min_size=1, max_size=4))
    def transact(self, ops: list[Op]) -> None:
        # A version is taken from before the transaction, so only its first write to an object may carry one.
        first = {op.key: n for n, op in reversed(list(enumerate(ops)))}
        ops = [
            op if first[op.key] == n else Op(op.verb, op.key, op.content, op.finalizers, op.owners)
            for n, op in enumerate(ops)
        ]
        writes = [self.write(op) for op in ops]
        trial, expected = deepcopy(self.model), None
        for index, op in enumerate(ops):
            try:
                trial.apply(op)
            except CumulusError as error:
                expected = type(error).__name__, index
                break
        else:
            self.model = trial
        answers = [outcome(lambda store=store: store.transact(writes)) for store in (self.memory, self.sqlite)]
        if expected is not None:
            assert answers == [expected, expected]
            return
        assert [summary(d) for d in answers[0]] == [summary(d) for d in answers[1]]
        final = dict(summary(document) for document in answers[1])
        assert {k: t for k, t in final.items() if k in self.model.things} == {
            k: self.model.things[k] for k in final if k in self.model.things
        }

    @rule(op=OPS)
    def fenced(self, op: Op) -> None:
        answers = [
            outcome(lambda s=store: s.transact([self.write(op)], fence=Fence("", "nobody", 1)))
            for store in (self.memory, self.sqlite)
        ]
        assert answers == [("Fenced", None)] * 2

    @rule(back=st.integers(0, 5), namespace=st.sampled_from((None, "", "n")), limit=st.sampled_from((None, 1, 2)))
    def list_then(self, back: int, namespace: str | None, limit: int | None) -> None:
        revision = max(0, self.model.revision - back)
        for kind in KINDS:
            expected: Any = [
                (key, found)
                for key, found in sorted(self.model.past[revision].items(), key=lambda item: item[0])
                if key.kind == kind and namespace in (None, key.namespace)
            ]
            if revision < self.compacted:
                expected = ("Expired", None)
            for store in (self.memory, self.sqlite):
                assert outcome(lambda s=store, k=kind: self.pages(s, k, revision, namespace, limit)) == expected

    def pages(self, store: Store, kind: str, revision: int, namespace: str | None, limit: int | None) -> list[Any]:
        page = store.list(Query(kind, namespace, revision=revision, limit=limit))
        items = list(page.items)
        while page.continue_token:
            page = store.list(Query(kind, namespace, limit=limit, continue_token=page.continue_token))
            items += page.items
        return [summary(document) for document in items]

    @rule(kind=st.sampled_from(KINDS), namespace=st.sampled_from((None, "", "n")))
    def list_packed(self, kind: str, namespace: str | None) -> None:
        """What SQLite's store keeps of a list and brings up to date is what a list reads afresh."""
        for store in (self.memory, self.sqlite):
            packed, page = store.list_packed(Query(kind, namespace)), store.list(Query(kind, namespace))
            assert ([json.loads(item) for item in packed.items], packed.revision) == (page.items, page.revision)

    @rule(owner=st.sampled_from(("o1", "o2")), kind=st.sampled_from(KINDS))
    def list_owned(self, owner: str, kind: str) -> None:
        expected = [k for k, t in sorted(self.model.things.items()) if k.kind == kind and owner in t.owners]
        for store in (self.memory, self.sqlite):
            assert [summary(d)[0] for d in store.list(Query(kind, owner_uid=owner)).items] == expected

    @rule(back=st.integers(0, 3))
    def compact(self, back: int) -> None:
        revision = max(0, self.model.revision - back)
        self.follow()
        for store in (self.memory, self.sqlite):
            store.compact(revision)
        self.compacted = max(self.compacted, revision)

    @rule()
    def reopen(self) -> None:
        self.follow()
        self.sqlite.close()
        self.sqlite = SqliteStore(Path(self.directory.name) / "store", self.clock)
        self.watches[1] = (self.sqlite.watch(since=self.model.revision), self.model.revision)

    @rule()
    def follow(self) -> None:
        """Both watches tell everything that happened since they were last asked."""
        for n, (watch, seen) in enumerate(self.watches):
            told = []
            while len(told) < self.model.revision - seen:
                more = watch.next(10)
                assert more
                told += [(event.type, event.revision, event.key) for event in more]
            assert told == self.model.events[seen:]
            self.watches[n] = (watch, self.model.revision)

    @rule(since=st.integers(0, 12))
    def watch_again(self, since: int) -> None:
        for store in (self.memory, self.sqlite):
            try:
                watch = store.watch(since=since)
            except Expired:
                assert since < self.compacted or since > self.model.revision
                continue
            assert self.compacted <= since <= self.model.revision
            told = []
            while len(told) < self.model.revision - since:
                told += [(event.type, event.revision, event.key) for event in watch.next(10)]
            assert told == self.model.events[since:]
            watch.close()

    @invariant()
    def current_state_agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        for store in (self.memory, self.sqlite):
            assert store.revision() == self.model.revision
            there = {}
            for key in KEYS:
                found = outcome(lambda s=store, k=key: s.get(k))
                if found != ("NotFound", None):
                    there.update([summary(found)])
            assert there == self.model.things


Stores.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStores = Stores.TestCase
