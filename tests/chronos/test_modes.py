"""Who may read and write what the ledger and its monitor keep: their user alone, whatever the umask is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cumulus.chronos import monitor_control
from cumulus.chronos.ledger import Ledger
from cumulus.errors import LedgerUnavailable
from tests.chronos.conftest import open_ledger, request


def test_every_file_is_its_owners_alone(home: Path) -> None:
    umask = os.umask(0)
    try:
        ledger = open_ledger(home)
        ledger.grant(request())
        monitor_control.ensure_running(home)
    finally:
        os.umask(umask)
    modes = {path.relative_to(home): stat.S_IMODE(path.lstat().st_mode) for path in (home, *home.iterdir())}
    assert {path: f"{mode:04o}" for path, mode in modes.items() if mode & 0o077} == {}
    assert Path("monitor.log") in modes
    ledger.close()


def test_a_log_that_all_could_read_is_so_no_more(home: Path) -> None:
    home.mkdir(mode=0o700)
    log = home / "monitor.log"
    log.write_text("earlier\n")
    log.chmod(0o644)
    ledger = open_ledger(home)
    ledger.grant(request())
    monitor_control.ensure_running(home)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.read_text().startswith("earlier\n")
    ledger.close()


def test_a_log_that_leads_elsewhere_is_not_written(home: Path, tmp_path: Path) -> None:
    home.mkdir(mode=0o700)
    (tmp_path / "theirs").touch()
    (home / "monitor.log").symlink_to(tmp_path / "theirs")
    with pytest.raises(LedgerUnavailable, match="did not start"):
        monitor_control.ensure_running(home)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_directory_that_everybody_may_write_to_is_refused(home: Path, mode: int) -> None:
    home.mkdir()
    home.chmod(mode)
    for use in (lambda: Ledger(home, start_monitor=False).list(), lambda: monitor_control.ensure_running(home)):
        with pytest.raises(LedgerUnavailable, match=f"can be written by everybody .mode {mode:04o}.*replace") as caught:
            use()
        assert caught.value.hint is not None
        assert caught.value.hint.startswith(f"run: chmod go-w {home}")
    home.chmod(0o770)
    Ledger(home, start_monitor=False).list()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_a_directory_of_another_user_is_refused_also_for_root(home: Path) -> None:
    home.mkdir()
    os.chown(home, 4711, -1)
    for use in (lambda: Ledger(home, start_monitor=False).list(), lambda: monitor_control.ensure_running(home)):
        with pytest.raises(LedgerUnavailable, match=r"belongs to another user \(4711\), who could replace") as caught:
            use()
        assert f"chown -R 0 {home}" in str(caught.value.hint)
