"""A ledger that is removed, moved or replaced while it is in use, with real monitors and real processes.

The leases that it knew end on time, nothing is granted twice, and a new ledger is made when none of them is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cumulus.chronos import monitor_claim, monitor_control
from cumulus.chronos.contract import LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.errors import LedgerReplaced, LedgerUnavailable
from tests.chronos.conftest import open_ledger, request
from tests.waiting import PATIENCE, eventually

Run = Callable[..., subprocess.Popen[bytes]]

SLEEP = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def real(home: Path) -> Iterator[Ledger]:
    ledger = open_ledger(home)
    yield ledger
    ledger.close()


@pytest.fixture
def copy(home: Path, real: Ledger) -> Path:
    """The ledger as it was before anything was leased."""
    real.devices()
    there = home.with_name("copy")
    # In another process: one that closes the files would drop the locks of its own connections.
    subprocess.run(["cp", "-r", str(home), str(there)], check=True)
    return there


def removed(home: Path, copy: Path) -> None:
    shutil.rmtree(home)


def moved(home: Path, copy: Path) -> None:
    home.rename(home.with_name("aside"))


def file_removed(home: Path, copy: Path) -> None:
    for file in home.glob("ledger.*"):
        file.unlink()


def replaced(home: Path, copy: Path) -> None:
    home.rename(home.with_name("aside"))
    copy.rename(home)


def file_replaced(home: Path, copy: Path) -> None:
    for file in home.glob("ledger.*"):
        file.unlink()
    for file in copy.iterdir():
        file.rename(home / file.name)


def held(real: Ledger, run: Run, seconds: float) -> tuple[subprocess.Popen[bytes], int]:
    """A process with a lease of that length of a whole device, and the monitor."""
    process = run(SLEEP)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    lease = real.grant(request(seconds=seconds, compute=1000, grace=30))
    real.attach("a", process.pid, lease.token)
    monitor = monitor_control.running(real.home)
    assert monitor
    return process, monitor


@pytest.mark.parametrize("lose", [removed, moved, file_removed, replaced, file_replaced])
def test_the_leases_end_on_time_and_nothing_is_granted_until_then(
    real: Ledger, home: Path, copy: Path, run: Run, lose: Callable[[Path, Path], None]
) -> None:
    process, monitor = held(real, run, 6.0)
    lose(home, copy)
    fresh = open_ledger(home)
    for call in (real.list, *(partial(ledger.grant, request("b", compute=1000)) for ledger in (real, fresh))):
        with pytest.raises(LedgerReplaced, match=f"its monitor, process {monitor}, still ends") as caught:
            call()
        assert f"kill {monitor}" in str(caught.value.hint)
    assert process.poll() is None
    assert process.wait(PATIENCE) == -signal.SIGTERM
    eventually(lambda: not Path(f"/proc/{monitor}").exists())
    # The share is free by now, and both go on with what is there.
    assert fresh.grant(request("b", compute=1000)).state is LeaseState.ACTIVE
    assert [lease.id for lease in real.list()] == ["b"]
    fresh.close()


def test_one_that_is_put_back_goes_on(real: Ledger, home: Path, run: Run) -> None:
    process, monitor = held(real, run, 600.0)
    home.rename(home.with_name("aside"))
    with pytest.raises(LedgerReplaced):
        real.list()
    home.with_name("aside").rename(home)
    assert [(lease.id, lease.state) for lease in real.list()] == [("a", LeaseState.ACTIVE)]
    assert process.poll() is None
    real.release("a")
    assert process.wait(PATIENCE) == -signal.SIGTERM
    assert monitor_control.running(home) == monitor


def test_the_repair_is_what_the_hint_says(real: Ledger, home: Path, run: Run) -> None:
    """The file is damaged in place: end what runs on the devices, then move it away. Nothing is restarted."""
    process, monitor = held(real, run, 600.0)
    for file in home.glob("ledger.db*"):
        with open(file, "r+b") as damaged:
            damaged.write(b"no database " * 1000)
    fresh = open_ledger(home)
    with pytest.raises(LedgerUnavailable) as caught:
        fresh.list()
    assert f"move {home} away: a new ledger is made with no leases" in str(caught.value.hint)
    process.kill()
    process.wait()
    home.rename(home.with_name("damaged"))
    eventually(lambda: not Path(f"/proc/{monitor}").exists())
    assert real.grant(request("b", compute=1000)).state is LeaseState.ACTIVE
    assert [lease.id for lease in fresh.list()] == ["b"]
    fresh.close()


def test_a_lost_ledger_need_not_be_waited_for_once_nothing_runs(real: Ledger, home: Path, run: Run) -> None:
    process, monitor = held(real, run, 600.0)
    shutil.rmtree(home)
    with pytest.raises(LedgerReplaced):
        real.list()
    process.kill()
    process.wait()
    eventually(lambda: not Path(f"/proc/{monitor}").exists())
    assert real.list() == []


def test_a_ledger_with_no_lease_is_made_anew_at_once(real: Ledger, home: Path) -> None:
    assert real.devices()
    shutil.rmtree(home)
    assert real.grant(request("b", compute=1000)).token == 1


def test_only_roots_and_ones_own_word_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user can take the name of a socket."""
    with monitor_claim.claim(home) as listener:  # type: ignore[union-attr]
        assert listener is not None
        assert monitor_claim.claim(home) is None
        assert monitor_claim.of_another_ledger(home) == os.getpid()
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        monkeypatch.setattr(monitor_claim, "TRUSTED", ())
        assert monitor_claim.of_another_ledger(home) is None
    assert monitor_claim.of_another_ledger(home) is None
