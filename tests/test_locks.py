"""Locks that a stopped process holds: waited for with a bound, and the holder named."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cumulus.chronos.enforce import amd
from cumulus.chronos.ledger import Ledger
from cumulus.errors import CumulusError, LedgerUnavailable, StoreUnavailable
from cumulus.lib import locks
from cumulus.store.backup import restore
from cumulus.store.schema import FILE
from cumulus.store.sqlite import SqliteStore
from tests.store.conftest import thing
from tests.waiting import eventually


@contextmanager
def stopped(code: str, *arguments: object) -> Iterator[int]:
    """A process that ran `code` and was stopped then; its pid."""
    prelude = "import fcntl, os, sqlite3, sys, time\n"
    command = [sys.executable, "-c", f"{prelude}{code}\nprint(flush=True); time.sleep(600)", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            process.send_signal(signal.SIGSTOP)
            eventually(lambda: locks.is_stopped(process.pid))
            yield process.pid
        finally:
            process.kill()


@contextmanager
def flocked(path: Path) -> Iterator[int]:
    with stopped("f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX)", path) as pid:
        yield pid


def names(error: CumulusError, pid: int) -> None:
    assert f"process {pid} (python" in str(error)
    assert "which is stopped" in str(error)
    assert f"kill -CONT {pid}" in (error.hint or "")


def test_a_lock_is_waited_for_with_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with open(path, "rb") as file:
        with flocked(path) as pid:
            assert not locks.acquire(file.fileno(), 0.05)
            assert locks.holders(path) == [pid]
        assert locks.acquire(file.fileno(), 30)
        # This process is not one that others could be told of.
        assert locks.holders(path) == []
    assert locks.holders(tmp_path / "none") == []
    assert locks.described([]) == "another process"


def test_those_that_share_a_lock_are_named_where_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with stopped("f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_SH)", path) as pid:
        assert locks.holders(path) == []
        assert locks.holders(path, shared=True) == [pid]


def test_a_stopped_writer_of_the_store_is_named(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path, busy_seconds=0.1)) as store:
        store.create(thing("a"))
        with stopped("c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN IMMEDIATE')", tmp_path / FILE) as pid:
            with pytest.raises(StoreUnavailable, match="locked for too long by") as caught:
                store.create(thing("b"))
            names(caught.value, pid)
        with flocked(tmp_path / "writers") as pid:
            with pytest.raises(StoreUnavailable, match="locked for too long by") as caught:
                store.create(thing("b"))
            names(caught.value, pid)
        store.create(thing("b"))


def test_a_restore_that_was_stopped_is_named(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "store").close()
    with flocked(tmp_path / "store") as pid, pytest.raises(StoreUnavailable, match="is being restored") as caught:
        SqliteStore(tmp_path / "store")
    names(caught.value, pid)


def test_whoever_keeps_a_restore_from_the_store_is_named(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "a")) as store:
        store.create(thing("a"))
    code = "f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_SH)"
    SqliteStore(tmp_path / "b").close()
    with stopped(code, tmp_path / "b") as pid, pytest.raises(StoreUnavailable) as caught:
        restore(tmp_path / "a" / FILE, tmp_path / "b")
    assert f"in use by process {pid} (python" in str(caught.value)


def test_a_stopped_writer_of_the_ledger_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulus.chronos.database._LOCK_TIMEOUT", 0.1)
    ledger = Ledger(tmp_path, discover=list, start_monitor=False)
    ledger.open()
    with flocked(tmp_path / "ledger.lock") as pid:
        with pytest.raises(LedgerUnavailable, match="has been held for") as caught:
            ledger.rediscover()
        names(caught.value, pid)
    ledger.rediscover()
    ledger.close()


def test_a_stopped_giver_of_compute_units_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amd, "_LOCK_SECONDS", 0.1)
    path = tmp_path / "ranges.json"
    path.touch()
    with (
        flocked(path) as pid,
        pytest.raises(LedgerUnavailable, match="has been locked for") as caught,
        amd._open(path),
    ):
        pass
    names(caught.value, pid)
