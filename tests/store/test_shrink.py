"""A store that was large once is not so for ever."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.resources.key import key_of
from cumulus.store import schema, shrink
from cumulus.store.base import Query, Retention, Write
from cumulus.store.sqlite import SqliteStore
from tests.store.conftest import thing

MIB = 1 << 20
NOTHING_KEPT = Retention(seconds=0, revisions=0)


def file_size(directory: Path) -> int:
    return (directory / schema.FILE).stat().st_size


def fill(store: SqliteStore, count: int = 60) -> None:
    """Half a megabyte each, and then nothing but one of them."""
    made = store.transact([Write("create", thing(f"t{n}", text="x" * (MIB // 2))) for n in range(count)])
    store.transact([Write("delete", key=key_of(document)) for document in made[1:]])


def settled(store: SqliteStore, clock: FakeClock) -> None:
    clock.advance(10)
    store.retain()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_it_gives_back_what_compaction_freed(directory: Path, clock: FakeClock) -> None:
    with closing(SqliteStore(directory, clock, NOTHING_KEPT)) as store:
        fill(store)
        store.create(thing("small"))
        settled(store, clock)
        assert file_size(directory) < 2 * MIB
        assert [d["metadata"]["name"] for d in store.list(Query(kind="Thing")).items] == ["small", "t0"]
    with closing(sqlite3.connect(directory / schema.FILE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_others_write_and_read_meanwhile(directory: Path, clock: FakeClock) -> None:
    """In this process and in others, as another store on the same file stands for."""
    with (
        closing(SqliteStore(directory, clock, NOTHING_KEPT)) as store,
        closing(SqliteStore(directory, clock)) as other,
    ):
        fill(store)
        failures: list[Exception] = []

        def write(into: SqliteStore, prefix: str) -> None:
            try:
                for n in range(20):
                    into.create(thing(f"{prefix}{n}"))
                    assert len(into.list(Query(kind="Thing")).items) > n
            except Exception as error:
                failures.append(error)

        writers = [threading.Thread(target=write, args=each) for each in ((store, "a"), (other, "b"))]
        for writer in writers:
            writer.start()
        settled(store, clock)
        for writer in writers:
            writer.join()
        assert failures == []
        assert len(other.list(Query(kind="Thing")).items) == 41
        settled(store, clock)
        assert file_size(directory) < 3 * MIB


@pytest.mark.parametrize(
    ("used", "idle", "worth"),
    [
        pytest.param(1, 16, False, id="little"),
        pytest.param(1, 17, True, id="almost all of it"),
        pytest.param(40, 40, False, id="half of it"),
        pytest.param(40, 41, True, id="more than half"),
        pytest.param(65, 1000, False, id="more than others would wait for"),
    ],
)
def test_when_it_is_worth_it(used: int, idle: int, worth: bool) -> None:
    assert shrink.worth_it(used=used * MIB, idle=idle * MIB) is worth
