"""After a power cut at any moment: what was acknowledged is there, and nothing half. See `powerloss`."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cumulus.backends.base import Workload, WorkloadState
from cumulus.backends.process.backend import ProcessBackend
from cumulus.backends.rundir.documents import read_document, write_document
from cumulus.chronos.contract import LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.secrets import JobSecrets
from cumulus.store.base import Query
from cumulus.store.sqlite import SqliteStore
from tests.chronos.conftest import CPU, GPUS, request
from tests.crash import powerloss
from tests.store.conftest import thing
from tests.waiting import PATIENCE, poll

SAMPLES = int(os.environ.get("CUMULUS_POWER_CUTS", "120"))
"""Cuts tried of each recording."""

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory where possible: the files are written anew for each cut."""
    why = powerloss.available()
    if why:
        pytest.skip(why)
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="cumulus-power-", dir=parent) as directory:
        yield Path(directory)


def recorded(place: Path, program: str) -> list[powerloss.Call]:
    """The calls of a program that is given the empty directory `place/root`; the model of them is exact."""
    root = place / "root"
    root.mkdir()
    source = place / "program.py"
    source.write_text(textwrap.dedent(program))
    calls = powerloss.record(root, [sys.executable, str(source), str(root)], place / "trace")
    (place / "trace").unlink()
    real = tree(root)
    disk = powerloss.Disk(root)
    for call in calls:
        disk.apply(call)
    disk.materialise()
    assert tree(root) == real, "the model of the disk is not what the kernel made"
    return calls


def tree(root: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in root.rglob("*")
        if (path.is_symlink() or path.is_file()) and not path.name.endswith("-shm")
    }


def cuts(place: Path, calls: list[powerloss.Call], check: Callable[[list[str]], None], samples: int = SAMPLES) -> None:
    """Call `check` on the root after many cuts, with what had been said by then."""
    rng = random.Random(20)
    chosen = sorted(rng.choices(range(1, len(calls) + 1), k=samples))
    disk, done, said = powerloss.Disk(place / "root"), 0, b""
    for number, cut in enumerate(chosen):
        for call in calls[done:cut]:
            disk.apply(call)
            said += call.data if call.name == "said" else b""
            if call.name == "write" and (name := Path(call.path).name).startswith("ran-"):
                said += name.replace("-", " ").encode() + b"\n"
        done = cut
        disk.materialise(random.Random(number))
        try:
            check(said.decode().split("\n")[:-1])
        except Exception as error:
            raise AssertionError(f"cut {number} after call {cut} of {len(calls)}, {calls[cut - 1]!r:.300}") from error


WRITER = """
import pathlib, sys
from cumulus.store.base import Key, Write
from cumulus.store.sqlite import SqliteStore
from tests.store.conftest import thing
for life in range(3):
    store = SqliteStore(pathlib.Path(sys.argv[1]) / "store")
    for n in range(4):
        name = f"t{life}-{n}"
        both = thing(name, spec={"text": name * 100}), thing(f"{name}-twin")
        store.transact([Write("create", each) for each in both])
        print("created", name, flush=True)
    store.delete(Key("Thing", "default", f"t{life}-0"))
    print("deleted", f"t{life}-0", flush=True)
    store.compact(store.revision() - 2)
    store.close()
"""


def test_the_store(place: Path) -> None:
    """Opened, written and closed again and again; single and joint transactions, deletions, a compaction."""
    cuts(place, recorded(place, WRITER), lambda said: check_store(place / "root", said))


@pytest.mark.parametrize("lost", ["cumulus.db-wal", "store"])
def test_a_sync_that_were_left_out_would_be_noticed(place: Path, lost: str) -> None:
    """Of the log, or of the directory that names it."""
    calls = [call for call in recorded(place, WRITER) if (call.name, Path(call.path).name) != ("sync", lost)]
    with pytest.raises(AssertionError, match="after call"):
        cuts(place, calls, lambda said: check_store(place / "root", said), samples=max(250, SAMPLES))


def check_store(root: Path, said: list[str]) -> None:
    store = SqliteStore(root / "store")
    there = {d["metadata"]["name"]: d for d in store.list(Query("Thing")).items}
    words = [line.split() for line in said]
    deleted = {name for word, name in words if word == "deleted"}
    for word, name in words:
        if word == "created" and name not in deleted:
            # A deletion may be there before it was acknowledged.
            assert name in there or name.endswith("-0"), f"{name} is lost"
            assert f"{name}-twin" in there
    assert not deleted & there.keys(), "a deletion is undone"
    for name, document in there.items():
        assert name.endswith("-twin") or f"{name}-twin" in there
        if not name.endswith("-twin"):
            assert document["spec"] == {"text": name * 100}
    newest = store.revision()
    store.create(thing("after"))
    assert store.revision() == newest + 1
    store.close()
    SqliteStore(root / "store").close()


def test_the_ledger(place: Path) -> None:
    """Two processes at once, so that their syncs overlap; and a ledger that is opened anew."""
    calls = recorded(
        place,
        """
        import os, pathlib, sys
        from cumulus.chronos.ledger import Ledger
        from tests.chronos.conftest import CPU, GPUS, GIB, request
        def work(who):
            for life in range(2):
                home = pathlib.Path(sys.argv[1]) / "chronos"
                ledger = Ledger(home, discover=lambda: [*GPUS, CPU], start_monitor=False)
                for n in range(5):
                    id = f"{who}{life}{n}"
                    ledger.grant(request(id, memory_bytes=GIB, compute=10))
                    os.write(1, f"granted {id}\\n".encode())
                    if n % 2:
                        ledger.release(id)
                        os.write(1, f"released {id}\\n".encode())
                ledger.close()
        child = os.fork()
        work("child" if child == 0 else "parent")
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        work("alone")
        """,
    )

    def check(said: list[str]) -> None:
        ledger = Ledger(place / "root" / "chronos", discover=lambda: [*GPUS, CPU], start_monitor=False, boot="the next")
        found = {lease.id: lease for lease in ledger.list(ended=True)}
        for word, id in (line.split() for line in said):
            assert id in found, f"the grant of {id} is lost"
            if word == "released":
                assert found[id].state is LeaseState.ENDED, f"the release of {id} is undone"
        live = [lease for lease in found.values() if lease.state is not LeaseState.ENDED]
        for device in ledger.devices():
            used = sum(lease.memory_bytes for lease in live if lease.device == device.index)
            assert ledger.usage(device.index).memory_bytes == used
        token = max((lease.token for lease in found.values() if lease.device == 0), default=0)
        assert ledger.grant(request("after", memory_bytes=1, compute=1)).token > token
        ledger.close()

    cuts(place, calls, check)


def test_a_run_of_the_process_backend(place: Path) -> None:
    """Nothing that ran is run again, an end that was told stays told, and a purged job is never started again."""
    calls = recorded(
        place,
        """
        import pathlib, sys
        from tests.crash.test_power_loss import backend, workload
        from tests.waiting import PATIENCE, poll
        root = pathlib.Path(sys.argv[1])
        made = backend(root)
        for name in ("kept", "purged"):
            made.start(workload(root, name))
            print("started", name, flush=True)
            assert poll(lambda: made.get(name).state.finished, PATIENCE), made.get(name)
            print("ended", name, flush=True)
        made.remove("purged")
        made.purge("uid-purged")
        print("gone", "purged", flush=True)
        made.close()
        """,
    )
    root = place / "root"
    assert {"ran-kept", "ran-purged"} <= {Path(call.path).name for call in calls}

    def check(said: list[str]) -> None:
        for started in (root / "process").glob("jobs/*/*/started.json"):
            # As after a restart of the machine, so that no process of now is taken for one of before.
            document = read_document(str(started))
            assert document is not None
            write_document(str(started), {**document, "boot_id": "before"})
        for file in root.glob("ran-*"):
            file.unlink()
        made = backend(root)
        try:
            for name in ("kept", "purged"):
                if name == "kept" and "started kept" in said:
                    assert made.get(name) is not None, "forgotten"
                if name == "kept" and "ended kept" in said:
                    assert made.get(name).state is WorkloadState.SUCCEEDED  # type: ignore[union-attr]
                made.start(workload(root, name))
                assert poll(lambda: (o := made.get(name)) is None or o.state.finished, PATIENCE)  # noqa: B023
                if f"ran {name}" in said:
                    assert not (root / f"ran-{name}").exists(), f"{name} ran again"
        finally:
            made.close()

    cuts(place, calls, check, samples=max(20, SAMPLES // 8))


def backend(root: Path) -> ProcessBackend:
    return ProcessBackend(root / "process", "node", JobSecrets(root / "secrets"), environment=os.environ)


def workload(root: Path, name: str) -> Workload:
    """It writes down, by a name of its own, that it ran."""
    command = ("/bin/sh", "-c", f"echo x >> {root}/ran-{name}")
    return Workload(
        name=name, namespace="default", job=name, job_uid=f"uid-{name}", attempt=1, replica=0, replicas=1,
        node="node", command=command, leases=(),
    )  # fmt: skip
