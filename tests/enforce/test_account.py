"""Who may do what with the account of a lease."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cumulus.chronos.enforce import account
from cumulus.errors import LedgerUnavailable

from .conftest import CPU, MIB, make_lease


@pytest.mark.skipif(os.geteuid() != 0, reason="ANOTHER USER'S ACCESS TO AN ACCOUNT IS NOT TESTED: it needs root")
@pytest.mark.parametrize(("script", "allowed"), [(": <limits", True), (": <>usage", True), (": >>limits", False)])
def test_the_user_of_a_container_writes_its_usage_and_reads_its_limits(
    tmp_path: Path, script: str, allowed: bool
) -> None:
    """A container is shown the account's directory alone, as the working directory shows it here."""
    before = os.umask(0o077)
    try:
        place = account.open_account(make_lease("lease", MIB), CPU, tmp_path)
    finally:
        os.umask(before)
    done = subprocess.run(["sh", "-c", script], cwd=place, user=65534, group=65534, extra_groups=(), check=False)
    assert (done.returncode == 0) == allowed


def test_no_other_user_of_the_node_comes_near_an_account(tmp_path: Path) -> None:
    place = account.open_account(make_lease("lease", MIB), CPU, tmp_path)
    assert place.parent.stat().st_mode & 0o777 == 0o700


def test_what_a_container_puts_in_place_of_the_account_leads_nowhere(tmp_path: Path) -> None:
    """Its user may be root, as its image has it, and may do in the account's directory what it likes."""
    lease = make_lease("lease", MIB)
    place = account.open_account(lease, CPU, tmp_path)
    of_the_node = tmp_path / "shadow"
    of_the_node.write_bytes(b"x" * 64)
    of_the_node.chmod(0o600)
    for name in ("usage", "limits"):
        (place / name).unlink()
        (place / name).symlink_to(of_the_node)
        assert account.used("lease", tmp_path) == {}
        with pytest.raises(LedgerUnavailable):
            account.open_account(lease, CPU, tmp_path)
        (place / name).unlink()
        os.mkfifo(place / name)
        assert account.used("lease", tmp_path) == {}
        with pytest.raises(LedgerUnavailable):
            account.open_account(lease, CPU, tmp_path)
        (place / name).unlink()
    assert of_the_node.read_bytes() == b"x" * 64
    assert of_the_node.stat().st_mode & 0o777 == 0o600
    assert account.open_account(lease, CPU, tmp_path) == place
