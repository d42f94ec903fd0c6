"""Watches across processes: real writers in other processes, nothing lost, repeated or reordered, and soon."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cumulus.store.base import Query, Watch, WatchEvent
from cumulus.store.sqlite import SqliteStore
from tests.store.conftest import thing
from tests.waiting import PATIENCE, eventually

WRITER = """
    import pathlib, sys
    from cumulus.store.sqlite import SqliteStore
    from tests.store.conftest import thing
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        for n in range(int(line)):
            store.create(thing(f"{sys.argv[2]}-{line.strip()}-{n}", kind="Thing" if n % 2 else "Other"))
        print("done", flush=True)
    store.close()
"""

SLOWLY = """
    import pathlib, sys, time
    from cumulus.store.sqlite import SqliteStore
    from tests.store.conftest import thing
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    for n in range(int(sys.argv[2])):
        time.sleep(0.02)
        store.create(thing(f"t{n}"))
    store.close()
"""


@contextmanager
def writer(directory: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """A process that creates as many objects as each line on its stdin says, and answers `done`."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(directory), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate(timeout=PATIENCE)


def order(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{count}\n")
    process.stdin.flush()


def collect(watch: Watch, until: int) -> list[WatchEvent]:
    """Events up to a revision, within 20 s each."""
    events: list[WatchEvent] = []
    while not events or events[-1].revision < until:
        more = watch.next(20)
        assert more, f"nothing came after revision {events[-1].revision if events else 0}"
        events += more
    return events


def test_every_revision_of_every_process_once_and_in_order(tmp_path: Path, sqlite: SqliteStore) -> None:
    watch = sqlite.watch(since=0)
    with writer(tmp_path / "store", "one") as one, writer(tmp_path / "store", "two") as two:
        order(one, 120)
        order(two, 120)
        for n in range(60):
            sqlite.create(thing(f"own-{n}"))
        events = collect(watch, 300)
    assert [e.revision for e in events] == list(range(1, 301))
    assert len({e.key for e in events}) == 300
    listed = {d["metadata"]["name"]: d for k in ("Thing", "Other") for d in sqlite.list(Query(k)).items}
    assert {e.key.name: e.document for e in events} == listed


def test_a_notification_comes_long_before_the_slow_poll(
    tmp_path: Path, sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no poll for a minute, only the notification can bring the event."""
    monkeypatch.setattr(sqlite._hub, "_poll_seconds", 60.0)
    with writer(tmp_path / "store", "one") as one:
        watch = sqlite.watch(since=0)
        assert watch.next(0.2) == []
        order(one, 1)
        assert [e.revision for e in watch.next(10)] == [1]
        order(one, 2)
        assert [e.revision for e in collect(watch, 3)] == [2, 3]


def test_the_slow_poll_finds_what_no_notification_told(
    tmp_path: Path, sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cumulus.store.sqlite.Notifier.start", lambda self: None)
    watch = sqlite.watch(since=0)
    with writer(tmp_path / "store", "one") as one:
        order(one, 1)
        assert [e.revision for e in watch.next(10)] == [1]


def test_a_writer_killed_before_it_could_tell(tmp_path: Path, sqlite: SqliteStore) -> None:
    """The commit is there; the poll brings it."""
    code = """
        import os, pathlib, sys
        from cumulus.store.sqlite import SqliteStore
        from tests.store.conftest import thing
        store = SqliteStore(pathlib.Path(sys.argv[1]))
        store._signal.send = lambda: os.kill(os.getpid(), 9)
        store.create(thing("a"))
    """
    watch = sqlite.watch(since=0)
    assert watch.next(0.05) == []
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "store")])
    assert killed.returncode == -9
    assert [e.revision for e in watch.next(10)] == [1]


def test_where_the_system_has_no_notifications_left(
    tmp_path: Path, sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "inotify watch limit reached")

    monkeypatch.setattr("cumulus.store.notify.Inotify", refuse)
    monkeypatch.setattr(sqlite._hub, "_poll_seconds", 60.0)
    watch = sqlite.watch(since=0)
    with writer(tmp_path / "store", "one") as one:
        order(one, 3)
        assert [e.revision for e in collect(watch, 3)] == [1, 2, 3]


def test_a_hundred_watches_are_fed_from_one_reading_and_soon(
    tmp_path: Path, sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes; every one of 100 watches, each in its own thread, gets each event, long before the slow
    poll. How soon is measured by the benchmarks."""
    monkeypatch.setattr(sqlite._hub, "_poll_seconds", 600.0)
    reads = 0
    read = sqlite._read_log

    def counted(after: int, limit: int) -> object:
        nonlocal reads
        reads += 1
        return read(after, limit)

    sqlite._hub._read = counted  # type: ignore[assignment]
    events = 25
    watches = [sqlite.watch(since=0) for _ in range(100)]
    seen: list[list[int]] = [[] for _ in watches]

    def follow(watch: Watch, revisions: list[int]) -> None:
        while len(revisions) < events:
            revisions += [event.revision for event in watch.next(PATIENCE)]

    threads = [threading.Thread(target=follow, args=pair) for pair in zip(watches, seen, strict=True)]
    for thread in threads:
        thread.start()
    eventually(lambda: not any(watch._behind for watch in watches))  # type: ignore[attr-defined]
    before = reads
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SLOWLY), str(tmp_path / "store"), str(events)],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert all(revisions == list(range(1, events + 1)) for revisions in seen)
    assert reads - before < 6 * events, "each piece of the log is read once for all watches"
