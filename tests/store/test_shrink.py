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
        assert file_size(directory) <= shrink.KEPT_FREE + 2 * MIB
        assert [d["metadata"]["name"] for d in store.list(Query(kind="Thing")).items] == ["small", "t0"]
        before = file_size(directory)
        settled(store, clock)
        assert file_size(directory) == before


def test_a_store_of_an_earlier_version_is_rewritten_once(directory: Path, clock: FakeClock) -> None:
    SqliteStore(directory, clock).close()
    with closing(sqlite3.connect(directory / schema.FILE, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
    with closing(SqliteStore(directory, clock, NOTHING_KEPT)) as store:
        fill(store)
        store.create(thing("small"))
        settled(store, clock)
        assert file_size(directory) < 2 * MIB
        assert len(store.list(Query(kind="Thing")).items) == 2
    with closing(sqlite3.connect(directory / schema.FILE)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
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
        assert file_size(directory) <= shrink.KEPT_FREE + 3 * MIB


@pytest.mark.parametrize(
    ("pages", "free", "gone"),
    [
        pytest.param(1000, 1000, 0, id="little, though all of it"),
        pytest.param(10_000, 2048, 0, id="a usual part of a large one"),
        pytest.param(100_000, 40_000, 25_000, id="more than a usual part"),
        pytest.param(100_000, 99_000, 97_976, id="almost all"),
    ],
)
def test_what_is_soon_needed_again_stays(pages: int, free: int, gone: int) -> None:
    assert shrink.excessive(pages, free, 4096) == gone
