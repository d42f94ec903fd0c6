"""Whose a process is, by what it cannot change about itself, and whom its own word may blame."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cumulus.chronos import unleased
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.process_owners import ProcessOwners
from cumulus.chronos.runtime import SLOTS, TAKEN
from cumulus.lib import cgroup, processes
from tests.chronos.conftest import GIB, SLEEP, request, up

Run = Callable[..., subprocess.Popen[bytes]]

CHILD = (
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']);"
)
TELLS = CHILD + "print(p.pid, flush=True); time.sleep(60)"
AS_ANOTHER = "import os, time; os.setuid(64321);" + SLEEP
UNDUMPABLE = f"""
import ctypes, os
do = ctypes.CDLL(None).prctl
os.setuid(64321)
do(4, 0, 0, 0, 0)
do(15, b"nvidia-cuda-mps", 0, 0, 0)
{SLEEP}
"""


def owners(ledger: Ledger) -> ProcessOwners:
    found = ProcessOwners(ledger.home)
    learn(found, ledger)
    return found


def learn(found: ProcessOwners, ledger: Ledger) -> None:
    with ledger.database.read() as db:
        found.learn([LeaseProcesses.load(db, lease.id) for lease in ledger.list()])


def attached(ledger: Ledger, process: subprocess.Popen[bytes], *ids: str) -> None:
    for id in ids:
        ledger.attach(id, process.pid, ledger.grant(request(id)).token)


def test_it_and_its_children_run_in_all_leases_that_it_is_attached_to(ledger: Ledger, run: Run) -> None:
    parent, other = run(TELLS), run(SLEEP)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    up(other)
    attached(ledger, parent, "a", "b")
    found = owners(ledger)
    assert found.of(child) == found.of(parent.pid) == {"a", "b"}
    assert found.of(other.pid) == frozenset()
    assert found.of(2**22 - 3) is None


def test_without_a_cgroup_too(ledger: Ledger, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "enclose", lambda pid, name: None)
    process = run(SLEEP)
    up(process)
    attached(ledger, process, "a")
    assert owners(ledger).of(process.pid) == {"a"}


def test_the_environment_counts_only_where_it_blames_nobody_else(ledger: Ledger, run: Run) -> None:
    ledger.grant(request("free"))
    attached(ledger, run(SLEEP), "taken")
    mine = run(SLEEP, CHRONOS_PARTITION_ID="taken")
    up(mine)
    # The same user may say so of their own lease; where nobody knows any process of a lease there is nobody to blame.
    assert owners(ledger).of(mine.pid) == {"taken"}
    said = run(SLEEP, CHRONOS_PARTITION_ID="free")
    up(said)
    assert owners(ledger).of(said.pid) == {"free"}
    attached(ledger, run(SLEEP), "other")
    forged = run(SLEEP, CHRONOS_PARTITION_ID="taken")
    up(forged)
    ledger.attach("other", forged.pid, next(lease.token for lease in ledger.list() if lease.id == "other"))
    assert owners(ledger).of(forged.pid) == {"other"}


def test_what_a_process_said_before_it_was_attached_blames_nobody_afterwards(ledger: Ledger, run: Run) -> None:
    attached(ledger, run(SLEEP), "taken")
    forged = run(SLEEP, CHRONOS_PARTITION_ID="taken")
    up(forged)
    found = owners(ledger)
    assert found.of(forged.pid) == {"taken"}
    attached(ledger, forged, "other")
    learn(found, ledger)
    assert found.of(forged.pid) == {"other"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs of other users")
def test_another_user_blames_nobody(ledger: Ledger, run: Run) -> None:
    attached(ledger, run(SLEEP), "taken")
    ledger.grant(request("free"))
    ledger.grant(request("theirs", user="64321"))
    for lease, blamed in (("taken", False), ("free", False), ("theirs", True)):
        process = run(AS_ANOTHER, CHRONOS_PARTITION_ID=lease)
        up(process)
        assert owners(ledger).of(process.pid) == ({lease} if blamed else set())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs of other users")
def test_nobody_passes_for_root_by_letting_nobody_look_into_them(ledger: Ledger, run: Run) -> None:
    ledger.grant(request("free"))
    process = run(UNDUMPABLE, CHRONOS_PARTITION_ID="free")
    who = up(process)
    # Linux says that root owns its directory in /proc.
    assert processes.user(process.pid) == 64321
    assert owners(ledger).of(process.pid) == frozenset()
    assert not unleased.is_ours(who)
    found = unleased.describe("GPU-a", who, GIB)
    assert found is not None
    assert found.uid == 64321


def test_a_process_that_leases_more_later_runs_in_all_of_it(ledger: Ledger, run: Run) -> None:
    process = run(SLEEP)
    up(process)
    attached(ledger, process, "a")
    found = owners(ledger)
    assert found.of(process.pid) == {"a"}
    attached(ledger, process, "b")
    learn(found, ledger)
    assert found.of(process.pid) == {"a", "b"}


def test_a_container_is_known_by_its_slot(ledger: Ledger, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    container = "ab" * 32
    taken = ledger.home / SLOTS / TAKEN
    taken.mkdir(parents=True)
    ledger.grant(request("a"))
    (taken / "job").write_text(json.dumps({"slot": "job", "container": container, "leases": ["a", "gone"]}))
    (taken / "damaged").write_text("{")
    process = run(SLEEP, CHRONOS_PARTITION_ID="b")
    up(process)
    content = Path.read_text

    # A cgroup of that name cannot be made in each test environment; what the kernel says of one is known.
    monkeypatch.setattr(
        "cumulus.chronos.process_owners.processes.content",
        lambda path, *_: (
            f"0::/docker/{container}\n".encode() if path.endswith("/cgroup") else content(Path(path)).encode()
        ),
    )
    makers = {"/docker": 0}
    monkeypatch.setattr(cgroup, "owner", lambda path, hierarchy: makers[path])
    assert owners(ledger).of(process.pid) == {"a"}
    # Who may make cgroups there gives them the name of anybody's container.
    makers["/docker"] = 64321
    assert owners(ledger).of(process.pid) == frozenset()


def test_a_cgroup_is_its_makers(tmp_path: Path) -> None:
    assert cgroup.owner("/", "name=nothing") is None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, hierarchy, path = line.split(":", 2)
        if cgroup.owner("/", hierarchy) is not None:
            assert cgroup.owner(path, hierarchy) in (0, os.geteuid())
            assert cgroup.owner("/nothing-of-that-name", hierarchy) == -1
