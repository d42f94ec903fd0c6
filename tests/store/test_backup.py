"""Backup of a live store and restore: what comes back, what is refused, and that revisions never go back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cumulus.errors import Expired, StoreUnavailable, UsageError
from cumulus.store.backup import backup, restore
from cumulus.store.base import Key, Query
from cumulus.store.schema import FILE
from cumulus.store.sqlite import SqliteStore
from tests.store.conftest import thing, version


@pytest.fixture
def saved(sqlite: SqliteStore, tmp_path: Path) -> Path:
    """A backup of three objects, made while the store was open; the store has a fourth since, and is closed."""
    for name in "abc":
        sqlite.create(thing(name, owners=["u"]))
    backup(tmp_path / "store", tmp_path / "saved")
    sqlite.create(thing("later"))
    sqlite.close()
    return tmp_path / "saved"


def names(directory: Path, **query: str) -> list[str]:
    store = SqliteStore(directory)
    try:
        return [d["metadata"]["name"] for d in store.list(Query("Thing", **query)).items]
    finally:
        store.close()


def test_a_backup_is_one_private_file_that_restores(saved: Path, tmp_path: Path) -> None:
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith((".", "saved"))] == ["saved"]
    assert saved.stat().st_mode & 0o777 == 0o600
    restore(saved, tmp_path / "new" / "place")
    assert names(tmp_path / "new" / "place") == ["a", "b", "c"]
    assert names(tmp_path / "new" / "place", owner_uid="u") == ["a", "b", "c"]


def test_a_restore_replaces_the_store_and_keeps_the_old(saved: Path, tmp_path: Path) -> None:
    restore(saved, tmp_path / "store")
    assert names(tmp_path / "store") == ["a", "b", "c"]
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(tmp_path / "store" / f"{FILE}.replaced", kept / FILE)
    assert names(kept) == ["a", "b", "c", "later"]


def test_revisions_go_on_after_all_that_were_given_out(saved: Path, tmp_path: Path) -> None:
    restore(saved, tmp_path / "store")
    store = SqliteStore(tmp_path / "store")
    try:
        start = store.revision()
        assert start > 4
        for since in (0, 3, 4, start - 1, start + 1):
            with pytest.raises(Expired):
                store.watch(since=since)
            with pytest.raises(Expired):
                store.list(Query("Thing", revision=since))
        watch = store.watch(since=start)
        made = store.create(thing("next"))
        assert version(made) == start + 1
        assert [e.revision for e in watch.next(10)] == [start + 1]
        old = store.get(Key("Thing", "default", "a"))
        assert version(old) == 1
        store.update({**old, "spec": {}})
    finally:
        store.close()


def test_a_second_restore_moves_on_again(saved: Path, tmp_path: Path) -> None:
    revisions = []
    for _ in range(2):
        restore(saved, tmp_path / "store")
        store = SqliteStore(tmp_path / "store")
        revisions.append(store.revision())
        store.close()
    assert revisions[1] > revisions[0]


def test_backups_of_a_store_under_load_are_consistent(sqlite: SqliteStore, tmp_path: Path) -> None:
    """The writer keeps the two objects equal in each transaction: no backup may see them differ."""
    from cumulus.store.base import Write

    sqlite.transact([Write("create", thing(name, spec={"n": 0})) for name in "ab"])
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            sqlite.transact([Write("update", thing(name, spec={"n": n})) for name in "ab"])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(5):
            backup(tmp_path / "store", tmp_path / f"saved{turn}")
    finally:
        stop.set()
        writer.join()
    for turn in range(5):
        restore(tmp_path / f"saved{turn}", tmp_path / f"place{turn}")
        store = SqliteStore(tmp_path / f"place{turn}")
        a, b = store.list(Query("Thing")).items
        store.close()
        assert a["spec"] == b["spec"]


def test_refusals_of_backup(sqlite: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    with pytest.raises(UsageError, match="there already"):
        backup(tmp_path / "store", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "x"
    with pytest.raises(StoreUnavailable, match="no store"):
        backup(tmp_path / "nowhere", tmp_path / "file")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UsageError, match=r"there is no directory .*/no/such"):
        backup(tmp_path / "store", tmp_path / "no" / "such" / "file")


def test_a_damaged_store_is_not_backed_up(sqlite: SqliteStore, tmp_path: Path) -> None:
    sqlite.create(thing("a", spec={"text": "findme" * 10}))
    sqlite.close()
    file = tmp_path / "store" / FILE
    file.write_bytes(file.read_bytes().replace(b"findme", b"damage", 1))
    with pytest.raises(StoreUnavailable, match="checksum"):
        backup(tmp_path / "store", tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_store_in_use_is_not_replaced(saved: Path, tmp_path: Path) -> None:
    """Also by another process, and also while it only reads."""
    code = (
        "import sys, pathlib; from cumulus.store.sqlite import SqliteStore;"
        "s = SqliteStore(pathlib.Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "store")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(StoreUnavailable, match="in use") as caught:
            restore(saved, tmp_path / "store")
        assert caught.value.hint is not None
    finally:
        holder.communicate()
    restore(saved, tmp_path / "store")
    assert names(tmp_path / "store") == ["a", "b", "c"]


def test_what_is_no_backup_is_refused_and_changes_nothing(saved: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello, I am not a database")
    empty = tmp_path / "empty"
    empty.touch()
    foreign = tmp_path / "foreign"
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    cut = tmp_path / "cut"
    cut.write_bytes(saved.read_bytes()[:-4096])
    flipped = tmp_path / "flipped"
    flipped.write_bytes(saved.read_bytes().replace(b"cumulus.dev", b"cumulus.dev"[::-1], 1))
    for bad in (text, empty, foreign, cut, flipped, tmp_path / "missing", tmp_path):
        with pytest.raises(StoreUnavailable) as caught:
            restore(bad, tmp_path / "store")
        assert "\n" not in str(caught.value)
        if bad in (empty, tmp_path / "missing", tmp_path):
            assert caught.value.hint == "name a file that `cumulus backup` wrote"
    assert names(tmp_path / "store") == ["a", "b", "c", "later"]
    assert not (tmp_path / "store" / f"{FILE}.replaced").exists()


def test_restores_over_a_store_that_cannot_be_read(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "store" / FILE).write_bytes(b"rubbish" * 1000)
    (tmp_path / "store" / f"{FILE}-wal").write_bytes(b"old log" * 1000)
    restore(saved, tmp_path / "store")
    assert names(tmp_path / "store") == ["a", "b", "c"]
    assert (tmp_path / "store" / f"{FILE}.replaced-wal").read_bytes() == b"old log" * 1000


def test_an_interrupted_restore_is_noticed(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at each step of the swap: the store opens as before, or says that a restore was interrupted."""
    steps = ("sync_directory", "rename", "link", "replace")
    for step in steps:
        with monkeypatch.context() as patch:

            def stop(*_: object, **__: object) -> None:
                raise KeyboardInterrupt

            if step == "sync_directory":
                patch.setattr("cumulus.lib.files.sync_directory", stop)
            else:
                patch.setattr(os, step, stop)
            with pytest.raises(KeyboardInterrupt):
                restore(saved, tmp_path / "store")
        with pytest.raises(StoreUnavailable, match="interrupted") as caught:
            SqliteStore(tmp_path / "store")
        assert caught.value.hint is not None
        assert "restore" in caught.value.hint
    restore(saved, tmp_path / "store")
    assert names(tmp_path / "store") == ["a", "b", "c"]
