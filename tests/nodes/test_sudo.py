"""A worker set up for the whole machine, with a user who may ask for leases through sudo and do nothing else there.

The machine is a real one whose /etc, /opt, /home, /usr/local/bin and /var/lib are its own, in a mount namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cumulus.errors import LedgerUnavailable
from cumulus.lib.backoff import Backoff
from cumulus.nodes.connection import NodeConnection, Waits
from cumulus.nodes.host_keys import KnownHosts, fetch
from cumulus.nodes.install import Setup, SetupFailed, install
from cumulus.nodes.leases import RemoteLeases
from tests.chronos.conftest import end_monitor
from tests.nodes.conftest import ROOT, Worker
from tests.nodes.test_leases import request
from tests.waiting import PATIENCE

# With the system's daemon: a monitor of /var/lib/chronos keeps others of that name away, in whatever file system.
pytestmark = [pytest.mark.ssh, pytest.mark.xdist_group("system-daemon")]

USER = "cumulus"
REFUSALS = ("sudo: ", f"Sorry, user {USER} is not allowed to execute ")
SUDO = "sudo -n chronos_cli"

_OWN = f"""\
set -e
mount --make-rprivate /
cp -a /etc "$1/etc"
mount --bind "$1/etc" /etc
for place in /opt /home /usr/local/bin /var/lib; do mount -t tmpfs tmpfs $place; done
id {USER} >/dev/null 2>&1 || useradd --create-home --shell /bin/sh --password '*' {USER}
shift
exec "$@"
"""


class Machine(Worker):
    """A worker with a file system of its own."""

    def __init__(self, directory: Path, client_key: Path) -> None:
        directory.with_name("own").mkdir()
        own = ("unshare", "--mount", "sh", "-c", _OWN, "sh", str(directory.with_name("own")))
        super().__init__(directory, client_key, inside=own)
        keys = f"/home/{USER}/.ssh/authorized_keys"
        self.as_root("install", "-D", "-m", "644", f"{client_key}.pub", keys)

    def as_root(self, *words: str) -> str:
        assert self.process is not None
        done = subprocess.run(
            ["nsenter", "-t", str(self.process.pid), "-m", *words], capture_output=True, text=True, timeout=PATIENCE,
            env={**os.environ, "PYTHON": sys.executable, "CHRONOS_MONITOR_IDLE": "600"}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def close(self) -> None:
        assert self.process is not None
        end_monitor(Path(f"/proc/{self.process.pid}/root/var/lib/chronos"))
        super().close()


@pytest.fixture
def machine(tmp_path: Path, client_key: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    missing = [name for name in ("sudo", "visudo", "unshare", "nsenter", "useradd") if not shutil.which(name)]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}: apt-get install sudo util-linux passwd")
    monkeypatch.delenv("CHRONOS_HOME", raising=False)
    machine = Machine(tmp_path / "worker", client_key)
    yield machine
    machine.close()


def test_a_user_with_the_sudo_rule_may_ask_for_leases_and_no_more(machine: Machine, known_hosts: KnownHosts) -> None:
    known_hosts.add(machine.address, fetch(machine.address, 5))
    connection = NodeConnection(
        "gpu-1", replace(machine.address, user=USER), known_hosts, key_path=machine.key_path,
        waits=Waits(one_by_one=Backoff(0.0, 0.0)),
    )  # fmt: skip
    leases = RemoteLeases(connection, SUDO)
    with pytest.raises(LedgerUnavailable, match="may not be run on gpu-1: sudo"):
        leases.list()
    with pytest.raises(SetupFailed, match="cumulus may not set gpu-1 up: sudo"):
        install(connection, Setup())

    script = str(ROOT / "scripts/setup-worker.sh")
    said = machine.as_root("sh", script, "--user", USER, "--yes")
    assert "the ledger being /var/lib/chronos" in said
    assert "Chronos is ready." in said
    assert "nothing is to be changed" in machine.as_root("sh", script, "--user", USER, "--yes")

    assert leases.devices()
    asked = request(user="somebody")
    granted = leases.grant(asked)
    assert [lease.id for lease in leases.list()] == [asked.id]
    assert leases.renew(asked.id, 90, token=granted.token).expires_in > 60
    served = connection.call(f"{SUDO} serve --json", ("list", "--home", f"/home/{USER}"), 60)
    assert served is not None, "the rule lets it be served"
    assert "its own ledger" in served.output
    for beyond in (
        f"{SUDO} exec {asked.id} -- id",
        f"{SUDO} list --home /home/{USER}",
        f"{SUDO} list --ho /home/{USER}",
        f"{SUDO} serve --home /home/{USER}",
        f"{SUDO} monitor --once",
        "sudo -n sh -c id",
    ):
        answer = connection.run(beyond, 15)
        assert answer.status != 0, beyond
        assert answer.errors.startswith(REFUSALS), beyond
    assert leases.release(asked.id) is not None
    leases.close()
