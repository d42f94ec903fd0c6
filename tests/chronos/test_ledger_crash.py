"""The ledger's files after crashes, torn writes and damage: what was answered is there, or an error says why not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cumulus.chronos import audit, records
from cumulus.chronos.contract import LeasedTotal, LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.clock import FakeClock
from cumulus.errors import LedgerFull, LedgerUnavailable
from tests.chronos.conftest import GIB, end_monitor, open_ledger, remove_cgroups, request
from tests.waiting import PATIENCE, eventually

Run = Callable[..., subprocess.Popen[bytes]]


def disk(home: Path, target: Path) -> Path:
    """The files as a power cut would leave them: without the index of the log, which is shared memory."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in ("ledger.db", "ledger.db-wal"):
        shutil.copy(home / name, target / name)
    return target


def grant(ledger: Ledger) -> None:
    ledger.grant(request("new", memory_bytes=GIB))


def release(ledger: Ledger) -> None:
    ledger.release("old")


def renew(ledger: Ledger) -> None:
    ledger.renew("old", 600)


@pytest.mark.parametrize("act", [grant, release, renew])
def test_a_torn_last_write_is_all_or_nothing(
    ledger: Ledger, home: Path, clock: FakeClock, tmp_path: Path, act: Callable[[Ledger], None]
) -> None:
    ledger.grant(request("old"))
    before = (home / "ledger.db-wal").stat().st_size
    state_before = ledger.list(ended=True), ledger.usage(0)
    act(ledger)
    state_after = ledger.list(ended=True), ledger.usage(0)
    after = (home / "ledger.db-wal").stat().st_size
    assert after > before
    outcomes = []
    for size in _cuts(before, after):
        copy = disk(home, tmp_path / "copy")
        os.truncate(copy / "ledger.db-wal", size)
        cut = open_ledger(copy, clock)
        found = cut.list(ended=True), cut.usage(0)
        assert found in (state_before, state_after)
        outcomes.append(found == state_after)
        # What was lost was never answered, so that it may be asked again.
        act(cut)
        assert (cut.list(ended=True), cut.usage(0)) == state_after
        cut.close()
    assert outcomes == sorted(outcomes)
    assert outcomes[0] is False
    assert outcomes[-1] is True


def _cuts(before: int, after: int) -> Iterator[int]:
    """Around each frame's header, and some in the pages between; the whole at last."""
    frame = 1024 + 24
    yield from (size for size in range(before, after) if (size - before) % frame in (0, 1, 8, 23, 24, 25, 500, 1047))
    yield after


def test_garbage_at_the_end_of_the_log_is_ignored(ledger: Ledger, home: Path, clock: FakeClock, tmp_path: Path) -> None:
    ledger.grant(request("a"))
    copy = disk(home, tmp_path / "copy")
    with open(copy / "ledger.db-wal", "ab") as file:
        file.write(os.urandom(10000))
    assert open_ledger(copy, clock).list() == ledger.list()


def test_what_was_answered_is_in_the_log_before_the_answer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def spy(fd: int) -> None:
        synced.append(os.stat(f"/proc/self/fd/{fd}").st_ino)
        real(fd)

    ledger.open()
    log = (ledger.home / "ledger.db-wal").stat().st_ino
    monkeypatch.setattr(os, "fdatasync", spy)
    ledger.grant(request("a"))
    assert synced[-1:] == [log]
    del synced[:]
    # Asked again it is synced again: the first caller may have been killed before it was.
    ledger.grant(request("a"))
    assert synced == [log]


def test_a_failed_sync_is_no_answer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.open()

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(LedgerUnavailable, match="Input/output error"):
            ledger.grant(request("a"))
    assert ledger.grant(request("a")).state is LeaseState.ACTIVE


HAMMER = """
import sys
from pathlib import Path
from cumulus.chronos.contract import LeaseRequest
from cumulus.chronos.ledger import Ledger
from cumulus.errors import InsufficientShare
from tests.chronos.conftest import CPU, GIB, GPUS
ledger = Ledger(Path(sys.argv[1]), None, lambda: [*GPUS, CPU], start_monitor=False)
name, turns, memory, leak = sys.argv[2], *map(int, sys.argv[3:])
for turn in range(turns):
    id = f"{name}-{turn}"
    try:
        lease = ledger.grant(LeaseRequest(id=id, device=0, memory_bytes=memory * GIB, compute=1, seconds=600))
        print("granted", id, lease.token, flush=True)
    except InsufficientShare:
        continue
    if not leak or turn % leak:
        ledger.release(id)
        print("released", id, flush=True)
"""


def hammer(home: Path, name: str, turns: int, memory: int, leak: int) -> subprocess.Popen[str]:
    """A process that grants and releases `memory` GiB, but for every `leak`-th lease."""
    arguments = [str(home), name, str(turns), str(memory), str(leak)]
    return subprocess.Popen([sys.executable, "-c", HAMMER, *arguments], stdout=subprocess.PIPE, text=True)


def check(ledger: Ledger) -> None:
    """The books balance, and nothing is over-allocated."""
    with ledger.database.read() as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    for device in ledger.devices():
        live = [lease for lease in ledger.list() if lease.device_id == device.id]
        used = LeasedTotal(sum(x.memory_bytes for x in live), sum(x.compute for x in live))
        assert ledger.usage(device.index) == used
        assert used.memory_bytes <= device.memory_bytes


def test_nothing_answered_is_lost_when_writers_are_killed(home: Path) -> None:
    answered: dict[str, str] = {}
    tokens: list[int] = []
    for turn in range(3):
        writers = [hammer(home, f"{turn}-{number}", 10000, 1, 20) for number in range(2)]
        outputs = [_first_lines(writer, 25) for writer in writers]
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer, output in zip(writers, outputs, strict=True):
            assert writer.stdout is not None
            rest = writer.stdout.read()
            writer.wait()
            writer.stdout.close()
            for line in (output + rest).splitlines(keepends=True):
                if line.endswith("\n"):
                    word, id, *token = line.split()
                    answered[id] = word
                    tokens += map(int, token)
    ledger = open_ledger(home, None)
    ledger._start_monitor = False
    found = {lease.id: lease for lease in ledger.list(ended=True)}
    for id, word in answered.items():
        # A lease of which the grant was answered may have been released by what was not answered any more.
        assert id in found
        assert word == "granted" or found[id].state is LeaseState.ENDED
    assert len(set(tokens)) == len(tokens)
    assert sorted(lease.token for lease in found.values()) == sorted({lease.token for lease in found.values()})
    check(ledger)


def _first_lines(writer: subprocess.Popen[str], count: int) -> str:
    assert writer.stdout is not None
    return "".join(writer.stdout.readline() for _ in range(count))


def test_processes_that_race_never_lease_more_than_all(home: Path) -> None:
    writers = [hammer(home, str(number), 60, 30, 0) for number in range(3)]
    ledger = Ledger(home, start_monitor=False)
    looks = 0
    while any(writer.poll() is None for writer in writers):
        with ledger.database.read() as db:
            rows = db.execute(
                "SELECT used_memory, used_compute, (SELECT coalesce(sum(memory_bytes), 0) FROM lease"
                " WHERE device_id = device.id AND state <> 'Ended') FROM device"
            ).fetchall()
        for memory, compute, counted in rows:
            assert memory == counted <= 80 * GIB
            assert compute <= 1000
        looks += 1
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
        assert writer.returncode == 0
    assert looks > 3
    check(ledger)


def test_a_newer_ledger_is_refused(ledger: Ledger, home: Path) -> None:
    with ledger.database.write() as tx:
        tx.execute("PRAGMA user_version=99")
    with pytest.raises(LedgerUnavailable, match="is of ledger version 99; this Chronos knows version 2") as caught:
        open_ledger(home, FakeClock()).list()
    assert "upgrade" in (caught.value.hint or "")


def test_a_ledger_of_version_1_is_carried_over(home: Path, clock: FakeClock) -> None:
    home.mkdir()
    db = sqlite3.connect(home / "ledger.db")
    db.executescript((Path(__file__).parent / "ledger-1.sql").read_text())
    db.close()
    ledger = open_ledger(home, clock, boot="boot-1")
    assert [(x.id, x.state, x.end_reason) for x in ledger.list(ended=True)] == [
        ("ended", LeaseState.ENDED, "released"),
        ("live", LeaseState.ACTIVE, None),
    ]
    assert ledger.usage(0) == LeasedTotal(GIB, 10)
    assert audit.flush(ledger.database, 2000.0) == 2
    lines = [json.loads(line) for line in (home / "audit.log").read_text().splitlines()]
    told = [(line["seq"], line["event"], line["lease"]) for line in lines]
    assert told == [(2, "granted", "live"), (3, "released", "ended")]
    ledger.release("live")
    audit.flush(ledger.database, 2000.0)
    assert json.loads((home / "audit.log").read_text().splitlines()[-1])["seq"] == 4
    with ledger.database.write() as tx:
        assert records.recently_ended(tx, 0.0) == {"ended", "live"}
        assert records.forget(tx, 1500.0, 10) == 1
    assert [x.id for x in ledger.list(ended=True)] == ["live"]
    check(ledger)
    ledger.close()


def test_a_ledger_from_before_leases_had_names_is_carried_over(home: Path, clock: FakeClock) -> None:
    ledger = open_ledger(home, clock)
    ledger.grant(request("old"))
    with ledger.database.write() as tx:
        tx.execute("ALTER TABLE lease DROP COLUMN name")
    ledger.close()
    ledger = open_ledger(home, clock)
    assert [(x.id, x.state, x.name) for x in ledger.list()] == [("old", LeaseState.ACTIVE, "")]
    ledger.release("old")
    ledger.grant(request("new"))
    assert [x.id for x in ledger.list()] == ["new"]
    ledger.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_grant_and_a_release_wait_for_the_disk_once_each(home: Path, tmp_path: Path) -> None:
    program = f"""
import os
from tests.chronos.conftest import FakeClock, Path, open_ledger, request
ledger = open_ledger(Path({str(home)!r}), FakeClock())
ledger.grant(request("first"))
os.path.exists("/begin")
for number in range(20):
    ledger.grant(request(str(number), memory_bytes=1, compute=1))
    ledger.release(str(number))
os.path.exists("/end")
"""
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,msync,sync_file_range,stat,newfstatat,statx"
    subprocess.run(["strace", "-f", "-e", calls, "-o", trace, sys.executable, "-c", program], check=True)
    told = trace.read_text().partition('"/begin"')[2].partition('"/end"')[0]
    assert told.count("sync(") == 40


def test_two_ledgers_in_one_process_keep_each_others_files(home: Path) -> None:
    """Closing any descriptor of a file drops all locks that the process holds on it, and without them another process
    that closes the ledger would take itself for the last one and remove the log."""
    first, second = open_ledger(home, FakeClock()), open_ledger(home, FakeClock())
    first.grant(request("a"))
    second.list()
    second.close()
    other = f"""
from tests.chronos.conftest import FakeClock, Path, open_ledger
ledger = open_ledger(Path({str(home)!r}), FakeClock())
ledger.list()
ledger.close()
"""
    subprocess.run([sys.executable, "-c", other], check=True)
    first.grant(request("b"))
    again = open_ledger(home, FakeClock())
    assert [lease.id for lease in again.list()] == ["a", "b"]
    again.close()
    first.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 400, b"\0" * 8192])
def test_a_damaged_file_is_refused_and_left_as_it_is(home: Path, content: bytes) -> None:
    home.mkdir()
    (home / "ledger.db").write_bytes(content)
    with pytest.raises(LedgerUnavailable, match=r"ledger\.db is damaged") as caught:
        open_ledger(home, FakeClock()).list()
    assert "move" in (caught.value.hint or "")
    assert (home / "ledger.db").read_bytes() == content


def test_a_database_of_something_else_is_refused(home: Path) -> None:
    home.mkdir()
    with sqlite3.connect(home / "ledger.db") as other:
        other.execute("CREATE TABLE cats (name)")
    with pytest.raises(LedgerUnavailable, match="is a database of something else"):
        open_ledger(home, FakeClock()).list()


def test_a_home_that_cannot_be_made_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnavailable, match=r"the ledger .*/file/chronos cannot be used: Not a directory"):
        open_ledger(tmp_path / "file" / "chronos", FakeClock()).list()


def test_a_lock_that_is_never_let_go_is_an_error(ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulus.chronos.database._LOCK_TIMEOUT", 0.2)
    ledger.open()
    program = (
        "import fcntl, sys, time\nf = open(sys.argv[1])\nfcntl.flock(f, fcntl.LOCK_EX)\nprint(flush=True)\n"
        "time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-S", "-c", program, str(home / "ledger.lock")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        with pytest.raises(LedgerUnavailable, match=r"ledger\.lock has been held for 0 s by process \d+ \(python"):
            ledger.grant(request("a"))
        assert ledger.list() == []
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    eventually(lambda: ledger.grant(request("a")))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small file system needs root")
    yield place
    end_monitor(place / "chronos")
    remove_cgroups(place / "chronos")
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> None:
    with open(place / "filler", "wb", buffering=0) as filler, suppress(OSError):
        for size in (65536, 512):
            while True:
                filler.write(b"x" * size)


def test_a_full_disk_is_an_error_and_leases_end_all_the_same(small_disk: Path, run: Run) -> None:
    ledger = open_ledger(small_disk / "chronos")
    process = run("import time; time.sleep(60)")
    lease = ledger.grant(request("a", seconds=4, grace=30))
    ledger.attach("a", process.pid, lease.token)
    fill(small_disk)
    granted: list[str] = []

    def grant_on() -> None:
        while True:
            granted.append(ledger.grant(request(f"b{len(granted)}", memory_bytes=1, compute=1, device=1)).id)

    with pytest.raises(LedgerFull, match="full") as caught:
        grant_on()
    assert "free some space" in (caught.value.hint or "")
    assert process.wait(PATIENCE) == -signal.SIGTERM
    (small_disk / "filler").unlink()
    eventually(lambda: (x := ledger.get("a")) is not None and x.state is LeaseState.ENDED)
    assert [x.id for x in ledger.list(ended=True)] == ["a", *granted]
    check(ledger)
