"""Lists that are kept and brought up to date: what is read afresh, in runs that stay while nothing in them changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cumulus.resources.key import Key
from cumulus.resources.packed import PackedRun
from cumulus.resources.query import Query
from cumulus.store import listing, schema, tables
from cumulus.store.base import Write
from cumulus.store.kept_lists import KeptLists
from cumulus.store.sqlite import SqliteStore
from tests.store.conftest import thing

ALL = listing.parse(Query("Thing"))
Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("write", "write", "delete", "list", "list", "old", "compact", "other")), st.integers(0, 30)
    ),
    max_size=60,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "store")) as store:
        yield store


@pytest.fixture
def reader(store: SqliteStore, tmp_path: Path) -> Iterator[Callable[[], sqlite3.Connection]]:
    opened: list[sqlite3.Connection] = []

    def reader() -> sqlite3.Connection:
        """A connection with a snapshot of its own."""
        connection = schema.connect(tmp_path / "store" / schema.FILE, write=True, busy_seconds=60)
        opened.append(connection)
        connection.execute("BEGIN")
        tables.bounds(connection)
        return connection

    yield reader
    for connection in opened:
        connection.close()


def afresh(connection: sqlite3.Connection, wanted: listing.Listing = ALL) -> tuple[list[bytes], int]:
    return [document for _, document in tables.candidates(connection, wanted)], tables.bounds(connection)[1]


def check(kept: KeptLists, connection: sqlite3.Connection, wanted: listing.Listing = ALL) -> list[PackedRun]:
    runs, revision = kept.read(connection, wanted)
    assert ([item for run in runs for item in run], revision) == afresh(connection, wanted)
    assert all(len(run) == len(run.keys) > 0 for run in runs)
    return runs


@given(steps=STEPS)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_whatever_happens_it_is_what_is_read_afresh(
    steps: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("kept")
    kept, namespaced = KeptLists(2**20, run=3), listing.parse(Query("Thing", namespace="n"))
    with closing(SqliteStore(directory)) as store:
        places = [(namespace, f"t{number:02}") for namespace in ("m", "n") for number in range(31)]
        store.transact([Write("create", thing(name, ns)) for ns, name in places[::4]])
        old = schema.connect(directory / schema.FILE, write=True, busy_seconds=60)
        with closing(old), closing(schema.connect(directory / schema.FILE, write=True, busy_seconds=60)) as new:
            old.execute("BEGIN")
            tables.bounds(old)
            made = 0
            for verb, number in steps:
                namespace, name = places[number * 2 % len(places)]
                there = {(d["metadata"]["namespace"], d["metadata"]["name"]) for d in store.list(Query("Thing")).items}
                if verb == "write":
                    made += 1
                    changed = thing(name, namespace, spec={"n": made})
                    store.transact([Write("update" if (namespace, name) in there else "create", changed)])
                elif verb == "delete" and (namespace, name) in there:
                    store.delete(Key("Thing", namespace, name))
                elif verb == "other":
                    store.transact([Write("create", thing(f"o{made}-{n}", kind="Other")) for n in range(number)])
                    made += 1
                elif verb == "compact":
                    store.compact(max(0, store.revision() - number))
                elif verb == "old":
                    # Who began to read before others comes last.
                    check(kept, old)
                else:
                    check(kept, new)
                    check(kept, new, namespaced)


def test_runs_in_which_nothing_changed_stay(store: SqliteStore, reader: Callable[[], sqlite3.Connection]) -> None:
    store.transact([Write("create", thing(f"t{number:02}")) for number in range(12)])
    kept = KeptLists(2**20, run=3)
    first = check(kept, reader())
    assert [len(run) for run in first] == [3, 3, 3, 3]
    store.create(thing("o", kind="Other"))
    assert check(kept, reader()) == first
    store.update(thing("t04", spec={"n": 2}))
    store.create(thing("t04x"))
    second = check(kept, reader())
    assert [again is run for again, run in zip(second, first, strict=True)] == [True, False, True, True]
    for number in range(4):
        store.create(thing(f"t10-{number}"))
    third = check(kept, reader())
    assert third[:3] == second[:3]
    assert [len(run) for run in third[3:]] == [3, 3, 1]
    for name in ("t06", "t07", "t08"):
        store.delete(Key("Thing", "default", name))
    assert [len(run) for run in check(kept, reader())] == [3, 4, 3, 3, 1]


def test_what_is_kept_has_a_bound(store: SqliteStore, reader: Callable[[], sqlite3.Connection]) -> None:
    store.transact([Write("create", thing(f"t{number}", spec={"text": "x" * 1000})) for number in range(9)])
    connection = reader()
    large, small = KeptLists(2**20), KeptLists(5000)
    assert check(large, connection) == check(large, connection)
    assert check(small, connection) != check(small, connection)


def test_names_that_are_no_text_are_in_no_list(store: SqliteStore, reader: Callable[[], sqlite3.Connection]) -> None:
    store.create(thing("a"))
    kept, wanted = KeptLists(2**20), listing.parse(Query("Thing", namespace="\udcff"))
    assert not check(kept, reader(), wanted)
    store.create(thing("b"))
    assert not check(kept, reader(), wanted)
