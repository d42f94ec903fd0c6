"""What the SQLite store does when the disk, the file or another process misbehaves: it says so in one line, goes on
when the trouble is over, and never loses what it acknowledged."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cumulus.errors import CumulusError, StoreReplaced, StoreUnavailable
from cumulus.store.base import Fence, Key, Query, Write
from cumulus.store.commit import Job
from cumulus.store.schema import FILE, VERSION
from cumulus.store.sqlite import SqliteStore
from tests.store.conftest import thing
from tests.waiting import PATIENCE

A = Key("Thing", "default", "a")


def refused(directory: Path, match: str, **options: float) -> StoreUnavailable:
    """Opening it raises StoreUnavailable: one line that names what is wrong, with a hint."""
    with pytest.raises(StoreUnavailable, match=match) as caught:
        SqliteStore(directory, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def checkpointed(directory: Path, count: int = 30) -> Path:
    """A closed store of some objects with history; returns its file, which has no write-ahead log."""
    store = SqliteStore(directory)
    for n in range(count):
        store.create(thing(f"t{n}", spec={"text": f"{n}" * 200}, owners=[f"u{n % 3}"]))
        if n % 3 == 0:
            store.update_status(thing(f"t{n}", status={"n": n}))
    store.close()
    file = directory / FILE
    assert not Path(f"{file}-wal").exists()
    return file


def run_python(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    prelude = """
        import os, sys, pathlib, threading, resource, signal
        from cumulus.errors import *
        from cumulus.store.base import *
        from cumulus.store.sqlite import SqliteStore
        import cumulus.store.client, watchfiles
        from tests.store.conftest import thing
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, timeout=PATIENCE, check=True, **options,  # type: ignore[call-overload]
    )  # fmt: skip


class TestOpen:
    def test_makes_a_private_directory(self, tmp_path: Path) -> None:
        SqliteStore(tmp_path / "a" / "b").close()
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
        assert [f.name for f in (tmp_path / "a" / "b").iterdir()] == [FILE]

    def test_a_file_in_the_directorys_place(self, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        refused(tmp_path / "f", "f is not a directory")
        refused(tmp_path / "f" / "store", "not a directory")

    def test_a_text_file(self, tmp_path: Path) -> None:
        (tmp_path / FILE).write_text("this is not a database at all")
        refused(tmp_path, "not an SQLite file")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / FILE).touch()
        refused(tmp_path, "empty")

    def test_a_directory_in_the_files_place(self, tmp_path: Path) -> None:
        (tmp_path / FILE).mkdir()
        refused(tmp_path, FILE)

    def test_an_sqlite_file_of_another_program(self, tmp_path: Path) -> None:
        other = sqlite3.connect(tmp_path / FILE)
        other.execute("CREATE TABLE t (x)")
        other.commit()
        other.close()
        refused(tmp_path, "another program")

    @pytest.mark.parametrize(("version", "match"), [(VERSION + 1, "schema 2"), (99, "schema 99"), (0, "schema 0")])
    def test_another_schema(self, tmp_path: Path, version: int, match: str) -> None:
        file = checkpointed(tmp_path / "store")
        changed = sqlite3.connect(file)
        changed.execute(f"PRAGMA user_version = {version}")
        changed.close()
        before = file.read_bytes()
        error = refused(tmp_path / "store", match)
        assert ("upgrade" in str(error.hint)) is (version > VERSION)
        assert file.read_bytes() == before

    def test_a_missing_table(self, tmp_path: Path) -> None:
        file = checkpointed(tmp_path / "store")
        changed = sqlite3.connect(file)
        changed.execute("DROP TABLE owners")
        changed.close()
        refused(tmp_path / "store", "owners")

    def test_a_file_that_was_removed_from_under_its_log(self, tmp_path: Path, sqlite: SqliteStore) -> None:
        sqlite.create(thing("a"))
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        (tmp_path / "copy" / FILE).unlink()
        refused(tmp_path / "copy", "gone")

    def test_many_processes_at_once_make_one_store(self, tmp_path: Path) -> None:
        code = """
            import sys, pathlib
            from cumulus.store.sqlite import SqliteStore
            from tests.store.conftest import thing
            print("ready", flush=True); sys.stdin.readline()
            store = SqliteStore(pathlib.Path(sys.argv[1])); store.create(thing(sys.argv[2])); store.close()
        """
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "store")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes = [subprocess.Popen([*command, f"t{n}"], text=True, **pipes) for n in range(4)]  # type: ignore[call-overload]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=PATIENCE)
        assert [process.returncode for process in processes] == [0] * 4
        store = SqliteStore(tmp_path / "store")
        assert len(store.list(Query("Thing")).items) == 4
        store.close()


class TestInUse:
    def test_a_file_replaced_under_a_running_store(self, tmp_path: Path, sqlite: SqliteStore) -> None:
        sqlite.create(thing("a"))
        shutil.copy(tmp_path / "store" / FILE, tmp_path / "copy")
        os.replace(tmp_path / "copy", tmp_path / "store" / FILE)
        with pytest.raises(StoreUnavailable, match="replaced"):
            sqlite.create(thing("b"))

    @pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
    def test_a_store_that_was_lost_is_neither_read_nor_written(
        self, tmp_path: Path, sqlite: SqliteStore, how: str
    ) -> None:
        """It would go on working without its name, and nobody else would read it."""
        sqlite.create(thing("a"))
        watch = sqlite.watch(since=0)
        assert len(watch.next(10)) == 1
        directory = tmp_path / "store"
        if how == "removed":
            shutil.rmtree(directory)
        else:
            directory.rename(tmp_path / "aside")
        if how == "replaced":
            SqliteStore(directory).close()
        for call in (lambda: sqlite.create(thing("b")), lambda: sqlite.get(A), sqlite.revision, lambda: watch.next(10)):
            with pytest.raises(StoreReplaced, match="while it was in use") as caught:
                call()
            assert "put it back" in str(caught.value.hint)
        if how == "moved":
            (tmp_path / "aside").rename(directory)
            assert sqlite.get(A)
            sqlite.create(thing("b"))

    def test_locked_by_another_for_too_long(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "store", busy_seconds=0.05)
        store.create(thing("a"))
        other = sqlite3.connect(tmp_path / "store" / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked") as caught:
            store.create(thing("b"))
        assert "fuser" in str(caught.value.hint)  # This very process, which is not told of itself.
        assert store.get(A), "reading goes on"
        other.execute("ROLLBACK")
        store.create(thing("b"))
        other.close()
        store.close()

    def test_another_writer_that_waits_for_too_long(self, tmp_path: Path) -> None:
        """A process stopped that waits to write holds up the writers, and they say so."""
        store = SqliteStore(tmp_path / "store", busy_seconds=0.05)
        store.create(thing("a"))
        with (tmp_path / "store" / "writers").open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(StoreUnavailable, match="locked"):
                store.create(thing("b"))
        store.create(thing("b"))
        store.close()

    def test_a_process_that_writes_all_the_time_starves_no_other(self, tmp_path: Path, sqlite: SqliteStore) -> None:
        code = """
            import pathlib, sys
            from cumulus.store.sqlite import SqliteStore
            from tests.store.conftest import thing
            store = SqliteStore(pathlib.Path(sys.argv[1]))
            n = 0
            while True:
                store.create(thing(f"greedy-{n}"))
                n += 1
                if n == 10:
                    print("writing", flush=True)
        """
        greedy = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "store")], stdout=subprocess.PIPE
        )
        try:
            assert greedy.stdout is not None
            assert greedy.stdout.readline() == b"writing\n"
            start = sqlite.revision()
            for n in range(30):
                sqlite.create(thing(f"modest-{n}"))
            passed = sqlite.revision() - start
        finally:
            greedy.kill()
            greedy.communicate()
        assert passed < 30 * 100, "they take turns, more or less"

    def test_one_bad_transaction_takes_no_other_with_it(self, sqlite: SqliteStore) -> None:
        """Many threads, half of whose transactions break a rule: the others' all land, and land whole."""
        errors: list[str] = []

        def work(worker: int) -> None:
            for n in range(20):
                writes = [Write("create", thing(f"w{worker}-{n}")), Write("create", thing(f"x{worker}-{n}"))]
                if n % 2:
                    writes.append(Write("create", thing(f"w{worker}-{n}")))
                try:
                    sqlite.transact(writes)
                except CumulusError as error:
                    errors.append(type(error).__name__)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == ["AlreadyExists"] * 80
        names = {d["metadata"]["name"] for d in sqlite.list(Query("Thing")).items}
        assert names == {f"{p}{w}-{n}" for p in "wx" for w in range(8) for n in range(0, 20, 2)}
        assert sqlite.revision() == 160
        assert [e.revision for e in sqlite.watch(since=0).next(10)] == list(range(1, 161))

    def test_transactions_of_one_commit_see_each_other(self, sqlite: SqliteStore) -> None:
        jobs = [
            Job([write], None)
            for write in (
                Write("create", thing("a", owners=["u1"])),
                Write("create", thing("a")),
                Write("update", thing("a", spec={}, resourceVersion="1", owners=["u2"])),
                Write("update", thing("a", resourceVersion="1")),
                Write("delete", key=A),
                Write("delete", key=A),
                Write("create", thing("a", owners=["u3"])),
            )
        ]
        sqlite._commit(jobs)
        errors = [type(job.error).__name__ for job in jobs]
        assert errors == ["NoneType", "AlreadyExists", "NoneType", "Conflict", "NoneType", "NotFound", "NoneType"]
        assert sqlite.get(A)["metadata"]["resourceVersion"] == "4"
        owned = [len(sqlite.list(Query("Thing", owner_uid=f"u{n}")).items) for n in (1, 2, 3)]
        assert owned == [0, 0, 1]

    def test_a_fence_that_a_transaction_of_the_same_commit_broke(self, sqlite: SqliteStore) -> None:
        lease = thing("leader", namespace=None, kind="Lease", spec={"token": 1})
        sqlite.create(lease)
        deposed = {**lease, "spec": {"token": 2}}
        jobs = [
            Job([Write("create", thing("a"))], Fence("", "leader", 1)),
            Job([Write("update", deposed)], None),
            Job([Write("create", thing("b"))], Fence("", "leader", 1)),
        ]
        sqlite._commit(jobs)
        assert [type(job.error).__name__ for job in jobs] == ["NoneType", "NoneType", "Fenced"]

    def test_a_bug_in_one_commit_does_not_stop_the_next(
        self, sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def explode(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr("cumulus.store.rules.prepare", explode)
            with pytest.raises(ZeroDivisionError):
                sqlite.create(thing("a"))
        sqlite.create(thing("a"))
        assert sqlite.revision() == 1


class TestDamage:
    def test_a_changed_object_is_noticed(self, tmp_path: Path) -> None:
        file = checkpointed(tmp_path / "store")
        file.write_bytes(file.read_bytes().replace(b"1717171717", b"1717171718", 1))
        store = SqliteStore(tmp_path / "store")
        with pytest.raises(StoreUnavailable, match="checksum"):
            store.get(Key("Thing", "default", "t17"))
        with pytest.raises(StoreUnavailable, match="checksum"):
            store.list(Query("Thing"))
        assert store.get(Key("Thing", "default", "t18"))
        store.close()

    def test_a_watch_over_damage_says_so_and_later_ones_go_on(self, tmp_path: Path) -> None:
        file = checkpointed(tmp_path / "store")
        file.write_bytes(file.read_bytes().replace(b"1717171717", b"1717171718", 1))
        store = SqliteStore(tmp_path / "store")
        with pytest.raises(StoreUnavailable, match="checksum"):
            store.watch(since=0).next(10)
        late = store.watch(since=store.revision())
        made = store.create(thing("new"))
        assert [e.document for e in late.next(10)] == [made]
        store.close()

    @pytest.mark.parametrize("seed", range(int(os.environ.get("CUMULUS_DAMAGE_SEEDS", "15"))))
    def test_any_damage_to_the_file_gives_true_objects_or_a_clear_error(self, tmp_path: Path, seed: int) -> None:
        file = checkpointed(tmp_path / "store")
        store = SqliteStore(tmp_path / "store")
        true = {d["metadata"]["name"]: d for d in store.list(Query("Thing")).items}
        store.close()
        chance = random.Random(seed)
        data = bytearray(file.read_bytes())
        if seed % 3 == 0:
            del data[chance.randrange(len(data)) :]
        elif seed % 3 == 1:
            for _ in range(chance.choice((1, 5, 40))):
                data[chance.randrange(len(data))] = chance.randrange(256)
        else:
            page = chance.randrange(len(data) // 4096) * 4096
            data[page : page + 4096] = chance.choice((bytes(4096), chance.randbytes(4096)))
        file.write_bytes(data)
        with suppress(StoreUnavailable):
            self.use(SqliteStore(tmp_path / "store"), true)

    def use(self, store: SqliteStore, true: dict[str, object]) -> None:
        def listed() -> None:
            for document in store.list(Query("Thing")).items:
                assert document == true.get(document["metadata"]["name"])

        def owned() -> None:
            for document in store.list(Query("Thing", owner_uid="u1", revision=store.revision())).items:
                assert document == true.get(document["metadata"]["name"])

        def watched() -> None:
            store.watch(since=0).next(0.05)

        actions: list[Callable[[], object]] = [
            listed,
            owned,
            watched,
            *[lambda n=n: store.get(Key("Thing", "default", f"t{n}")) for n in range(30)],
            lambda: store.list(Query("Thing", revision=20)),
            lambda: store.create(thing("new")),
            lambda: store.update(thing("t3")),
            lambda: store.delete(Key("Thing", "default", "t4")),
            lambda: store.compact(store.revision()),
        ]
        for action in actions:
            with suppress(CumulusError):
                action()
        store.close()


class TestTornLog:
    """A crash can leave any prefix of the write-ahead log, and a bad disk a changed byte: the store then is as it
    was before or after the last write, whole."""

    def copies(self, tmp_path: Path) -> tuple[Path, bytes, int, list[object], list[object]]:
        """A store's directory without its log, the log, where the last write begins in it, the states before and
        after that write."""
        store = SqliteStore(tmp_path / "store")
        for n in range(5):
            store.create(thing(f"t{n}", spec={"text": "x" * 300}))
        log = tmp_path / "store" / f"{FILE}-wal"
        start = log.stat().st_size
        before = store.list(Query("Thing")).items
        gone = Write("delete", key=Key("Thing", "default", "t0"))
        store.transact([Write("create", thing("t9")), Write("update", thing("t1", spec={})), gone])
        after = store.list(Query("Thing")).items
        shutil.copytree(tmp_path / "store", tmp_path / "base", ignore=shutil.ignore_patterns("*-shm", "*-wal"))
        data = log.read_bytes()
        store.close()
        assert len(data) > start
        return tmp_path / "base", data, start, before, after

    def state(self, base: Path, log: bytes, place: Path) -> tuple[list[object], int]:
        """What a store opened on the log says; the place is used again and again."""
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
            (place / name).unlink(missing_ok=True)
        shutil.copy(base / FILE, place / FILE)
        (place / f"{FILE}-wal").write_bytes(log)
        store = SqliteStore(place)
        try:
            watched = [e.revision for e in store.watch(since=0).next(0.01)]
            assert watched == list(range(1, store.revision() + 1))
            return store.list(Query("Thing")).items, store.revision()
        finally:
            store.close()

    def test_cut_anywhere(self, tmp_path: Path, fast_place: Path) -> None:
        base, log, start, before, after = self.copies(tmp_path)
        stride = int(os.environ.get("CUMULUS_TORN_STRIDE", "127"))
        cuts = {*range(start, len(log), stride), *range(start, start + 30), *range(len(log) - 30, len(log) + 1)}
        for cut in sorted(cuts):
            expected = (after, 8) if cut == len(log) else (before, 5)
            assert self.state(base, log[:cut], fast_place) == expected, f"cut at byte {cut}"

    def test_a_byte_changed_anywhere(self, tmp_path: Path, fast_place: Path) -> None:
        base, log, start, before, after = self.copies(tmp_path)
        stride = int(os.environ.get("CUMULUS_TORN_STRIDE", "127"))
        for place in sorted({*range(start, len(log), stride), *range(start, start + 24)}):
            changed = bytearray(log)
            changed[place] ^= 0x41
            found = self.state(base, bytes(changed), fast_place)
            assert found in ((before, 5), (after, 8)), f"changed at byte {place}"

    def test_garbage_after_the_last_write_is_ignored(self, tmp_path: Path, fast_place: Path) -> None:
        base, log, _, _, after = self.copies(tmp_path)
        assert self.state(base, log + random.Random(1).randbytes(5000), fast_place) == (after, 8)


@pytest.fixture
def fast_place() -> Iterator[Path]:
    """A directory in memory where there is one: these tests reopen a store hundreds of times."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as place:
        yield Path(place)


class TestKill:
    def test_what_was_acknowledged_is_there_after_kill_9(self, tmp_path: Path) -> None:
        """Several threads write as fast as they can and report each acknowledged object; the kill comes amid that."""
        code = """
            import os, pathlib, sys, threading
            from cumulus.store.sqlite import SqliteStore
            from tests.store.conftest import thing
            store = SqliteStore(pathlib.Path(sys.argv[1]))
            def work(worker):
                n = 0
                while True:
                    made = store.create(thing(f"{sys.argv[2]}-{worker}-{n}", spec={"n": n}))
                    os.write(1, f"{made['metadata']['name']} {made['metadata']['resourceVersion']}\\n".encode())
                    n += 1
            for worker in range(4):
                threading.Thread(target=work, args=(worker,)).start()
        """
        acknowledged: dict[str, int] = {}
        for turn in range(3):
            writer = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "store"), f"r{turn}"],
                stdout=subprocess.PIPE,
            )
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(150 + 100 * turn)]
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().splitlines(keepends=True)
            writer.wait()
            for line in [*lines, *rest]:
                if line.endswith(b"\n"):
                    name, revision = line.split()
                    acknowledged[name.decode()] = int(revision)
        store = SqliteStore(tmp_path / "store")
        there = {d["metadata"]["name"]: int(d["metadata"]["resourceVersion"]) for d in store.list(Query("Thing")).items}
        assert len(acknowledged) >= 750
        assert acknowledged.items() <= there.items()
        assert sorted(there.values()) == list(range(1, store.revision() + 1)), "no gap, nothing half written"
        assert len(there) - len(acknowledged) <= 3 * 4, "at most what was in flight"
        store.close()


class TestFullDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        place = tmp_path / "disk"
        place.mkdir()
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True, text=True
        )  # fmt: skip
        if mount.returncode:
            pytest.skip(f"LEFT OUT: a really full disk needs root to mount one ({mount.stderr.strip()})")
        yield place
        subprocess.run(["umount", "-l", place], check=True)

    @pytest.mark.parametrize("threads", [1, 8])
    def test_says_so_keeps_what_it_acknowledged_and_goes_on(self, disk: Path, threads: int) -> None:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(700_000))
        store = SqliteStore(disk / "store")
        acknowledged: dict[str, object] = {}
        errors: list[StoreUnavailable] = []

        def fill(worker: int) -> None:
            for n in range(10_000):
                try:
                    made = store.create(thing(f"w{worker}-{n}", spec={"text": "y" * 2000}))
                except StoreUnavailable as error:
                    errors.append(error)
                    return
                acknowledged[made["metadata"]["name"]] = made

        workers = [threading.Thread(target=fill, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(errors) == threads
        for error in errors:
            assert "full" in str(error)
            assert "free" in str(error.hint)
        assert len(acknowledged) > 50
        self.check(store, acknowledged)
        with pytest.raises(StoreUnavailable, match="full"):
            store.create(thing("big", spec={"text": "y" * 500_000}))
        ballast.unlink()
        acknowledged["after"] = store.create(thing("after", spec={"text": "y" * 2000}))
        self.check(store, acknowledged)
        store.close()
        again = SqliteStore(disk / "store")
        self.check(again, acknowledged)
        again.close()

    def test_a_large_write_takes_no_small_one_with_it(self, disk: Path) -> None:
        """Also one that the large write's success would have made fail."""
        store = SqliteStore(disk / "store")
        (disk / "ballast").write_bytes(bytes(1_500_000))
        jobs = [
            Job([Write("create", document)], None)
            for document in (thing("a"), thing("big", spec={"text": "y" * 900_000}), thing("big"), thing("b"))
        ]
        store._commit(jobs)
        assert jobs[1].error is not None
        assert "full" in str(jobs[1].error)
        assert [job.error for job in jobs if job is not jobs[1]] == [None] * 3
        assert [d["metadata"]["name"] for d in store.list(Query("Thing")).items] == ["a", "b", "big"]
        assert "spec" not in store.get(Key("Thing", "default", "big"))
        store.close()

    def check(self, store: SqliteStore, acknowledged: dict[str, object]) -> None:
        assert {d["metadata"]["name"]: d for d in store.list(Query("Thing")).items} == acknowledged
        assert store.revision() == len(acknowledged)

    def test_a_new_store_on_a_full_disk(self, disk: Path) -> None:
        with suppress(OSError):
            (disk / "ballast").write_bytes(bytes(4_000_000))
        refused(disk / "store", "full")
        (disk / "ballast").unlink()
        SqliteStore(disk / "store").close()

    def test_a_file_size_limit(self, tmp_path: Path) -> None:
        """The same without root: the system refuses to let files grow past 400 kB."""
        code = """
            store = SqliteStore(pathlib.Path(sys.argv[1]))
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
            made = 0
            try:
                while True:
                    store.create(thing(f"t{made}", spec={"text": "y" * 2000})); made += 1
            except StoreUnavailable as error:
                assert "\\n" not in str(error) and error.hint, error
            assert len(store.list(Query("Thing")).items) == made > 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            store.create(thing("after"))
            assert store.revision() == made + 1
            store.close(); print(made)
        """
        made = int(run_python(code, tmp_path / "store").stdout)
        store = SqliteStore(tmp_path / "store")
        assert len(store.list(Query("Thing")).items) == made + 1
        store.close()


class TestReadOnly:
    """As an ordinary user on a directory that it may read but not write."""

    DROP = """
        if os.geteuid() == 0:
            os.setgid(65534); os.setuid(65534)
    """
    CHECK = """
        store = SqliteStore(pathlib.Path(sys.argv[1]))
        assert len(store.list(Query("Thing")).items) == 30
        assert store.get(Key("Thing", "default", "t3"))["status"] == {"n": 3}
        assert store.watch(since=0).next(10)
        for write in (lambda: store.create(thing("x")), lambda: store.delete(Key("Thing", "default", "t1"))):
            try:
                write()
            except StoreUnavailable as error:
                assert "may not be written" in str(error) and error.hint, error
            else:
                raise AssertionError("wrote")
        store.close(); print("read")
    """

    @pytest.fixture
    def place(self) -> Iterator[Path]:
        """Readable by every user, unlike `tmp_path`."""
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            place.chmod(0o755)
            yield place
            for directory in (place, *(d for d in place.iterdir() if d.is_dir())):
                directory.chmod(0o755)

    def open_to_all(self, directory: Path) -> None:
        for file in directory.iterdir():
            file.chmod(0o444)
        directory.chmod(0o555)

    def test_a_store_at_rest_can_be_read(self, place: Path) -> None:
        checkpointed(place / "store")
        self.open_to_all(place / "store")
        before = sorted(f.name for f in (place / "store").iterdir())
        assert run_python(self.DROP + self.CHECK, place / "store").stdout == "read\n"
        assert sorted(f.name for f in (place / "store").iterdir()) == before

    def test_a_store_in_use_can_be_read(self, place: Path) -> None:
        checkpointed(place / "store")
        if os.geteuid() != 0:
            pytest.skip("LEFT OUT: a writer beside a reader without rights needs root")
        store = SqliteStore(place / "store")
        store.update_status(thing("t3", status={"n": 99}))
        store.update_status(thing("t3", status={"n": 3}))
        self.open_to_all(place / "store")
        assert run_python(self.DROP + self.CHECK, place / "store").stdout == "read\n"
        store.close()

    def test_no_store_can_be_made(self, place: Path) -> None:
        (place / "store").mkdir()
        (place / "store").chmod(0o555)
        code = """
            for directory in (pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1]) / "deeper"):
                try:
                    SqliteStore(directory)
                except StoreUnavailable as error:
                    assert "may not be written" in str(error) and str(directory) in str(error), error
                    print(error.hint)
        """
        lines = run_python(self.DROP + code, place / "store").stdout.splitlines()
        assert len(lines) == 2
        assert all("writable" in line for line in lines)

    def test_a_read_only_file_system(self, tmp_path: Path) -> None:
        checkpointed(tmp_path / "store")
        target = tmp_path / "mounted"
        target.mkdir()
        bind = f"mount --bind {tmp_path / 'store'} {target} && mount -o remount,ro,bind {target}"
        if subprocess.run(["sh", "-c", bind], capture_output=True).returncode:
            pytest.skip("LEFT OUT: a read-only file system needs root to mount one")
        try:
            assert run_python(self.CHECK, target).stdout == "read\n"
        finally:
            subprocess.run(["umount", "-l", target], check=True)
