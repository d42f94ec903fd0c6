"""`Partitioner`, as a user's program uses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cumulus.chronos
from cumulus.chronos import Partitioner
from cumulus.chronos.contract import EndReason, LeaseState
from cumulus.errors import InsufficientShare, NoSuchDevice, UsageError
from tests.chronos.conftest import GIB, open_ledger
from tests.waiting import PATIENCE, eventually


@pytest.fixture
def partitioner(home: Path) -> Partitioner:
    open_ledger(home).devices()
    return Partitioner()


def program(text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from cumulus.chronos import Partitioner\nimport os, time\n{text}"],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_block_holds_the_share_and_gives_it_back(partitioner: Partitioner) -> None:
    with partitioner.create(device=0, memory=0.5, duration=3600) as p:
        assert 3000 < p.time_remaining <= 3600
        assert p.is_active()
        assert (p.device, p.memory_bytes, p.memory_fraction, p.duration) == (0, 40 * GIB, 0.5, 3600)
        assert partitioner.available(0) == 0.5
        info = partitioner.list()[0]
        assert (info.partition_id, info.device_index, info.process_id) == (p.partition_id, 0, os.getpid())
        assert (info.memory_fraction, info.duration_seconds, info.active) == (0.5, 3600, True)
        assert 3000 < info.time_remaining_seconds <= 3600
    assert not p.is_active()
    assert p.time_remaining == 0
    assert partitioner.available(0) == 1
    assert partitioner.list() == []
    p.release()


def test_what_is_closed_keeps_nothing_open_and_leases_live_on(partitioner: Partitioner) -> None:
    # In a process of its own: SQLite closes files late while another connection of the process has locks on them.
    text = """
def again():
    made = Partitioner()
    print(made.create_raw(memory=0.1))
    made.close()
    return len(os.listdir("/proc/self/fd"))
first = again()
assert again() == first, os.listdir("/proc/self/fd")
"""
    with program(text) as child:
        said, _ = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0
    assert sorted(info.partition_id for info in partitioner.list()) == sorted(said.split())


def test_the_whole_device_again_and_again(partitioner: Partitioner) -> None:
    for _ in range(5):
        with partitioner.create(memory=1.0, duration="1h"), pytest.raises(InsufficientShare):
            partitioner.create(memory=0.01)


def test_stats_and_the_names_of_chronos_gpu(partitioner: Partitioner, capsys: pytest.CaptureFixture[str]) -> None:
    id = partitioner.create_raw(device=1, memory="25%", duration=60, user="ada")
    assert [(s.index, s.available, s.available_compute, s.partitions) for s in partitioner.stats()] == [
        (0, 1.0, 1.0, 0),
        (1, 0.75, 0.75, 1),
    ]
    assert partitioner.get_available(1) == 0.75
    assert partitioner.list()[0].username == "ada"
    partitioner.show_stats()
    assert "1: H100: 75% of 85899345920 bytes free" in capsys.readouterr().out
    assert partitioner.release(id) is True
    assert partitioner.release("nothing") is False


def test_what_cannot_be_given_is_refused(partitioner: Partitioner) -> None:
    with pytest.raises(NoSuchDevice):
        partitioner.create(device=7)
    for wrong in ({"memory": 1.5}, {"memory": 0}, {"duration": 0}, {"duration": "soon"}, {"compute": 2}):
        with pytest.raises(UsageError):
            partitioner.create(**wrong)


def test_a_child_gets_the_lease_in_its_environment(partitioner: Partitioner) -> None:
    with partitioner.create(memory=0.5) as p:
        assert p.environment["CHRONOS_PARTITION_ID"] == p.partition_id
        assert p.environment["CUDA_VISIBLE_DEVICES"] == "GPU-a"


def test_the_lease_ends_with_a_program_that_does_not_release_it(partitioner: Partitioner) -> None:
    holder = program("p = Partitioner().create(memory=0.5); print(p.partition_id, flush=True); time.sleep(60)")
    assert holder.stdout is not None
    id = holder.stdout.readline().strip()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    eventually(lambda: (x := partitioner.ledger.get(id)) is not None and x.end_reason is EndReason.RELEASED)
    eventually(lambda: partitioner.available(0) == 1)


def test_a_program_is_ended_when_its_lease_expires(partitioner: Partitioner) -> None:
    holder = program("p = Partitioner().create(memory=0.5, duration=0.4); print('up', flush=True); time.sleep(600)")
    assert holder.stdout is not None
    holder.stdout.readline()
    assert holder.wait(PATIENCE) == -signal.SIGTERM
    holder.stdout.close()


def test_a_notebook_may_outlive_its_lease(partitioner: Partitioner) -> None:
    p = partitioner.create(memory=0.5, duration=0.2, enforce=False)
    eventually(lambda: (x := partitioner.ledger.get(p.partition_id)) is not None and x.state is LeaseState.ENDED)
    assert p.time_remaining == 0


def test_renewing_extends_the_lease(partitioner: Partitioner) -> None:
    with partitioner.create(memory=0.5, duration=10) as p:
        p.renew("1h")
        assert p.time_remaining > 3590


def test_the_package_is_light_until_a_name_is_used() -> None:
    code = "import sys, cumulus.chronos as c; assert 'sqlite3' not in sys.modules; c.Partitioner, c.Ledger"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = cumulus.chronos.nothing
