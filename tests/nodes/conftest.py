"""Workers that are real: an sshd of this user on a loopback port, with a ledger of its own behind it."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.errors import NodeUnreachable
from cumulus.nodes.address import WorkerHost
from cumulus.nodes.connection import NodeConnection, Waits
from cumulus.nodes.host_keys import KnownHosts, fetch
from cumulus.nodes.leases import RemoteLeases
from tests import opencl
from tests.chronos.conftest import end_monitor, remove_cgroups
from tests.cli.conftest import home, run
from tests.waiting import eventually

__all__ = ["home", "run"]

ROOT = Path(__file__).resolve().parents[2]
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or ""

PATIENT = Waits(connect=60, turn=60)
"""What is a slow answer to a daemon, which asks again, is a busy machine to a test."""

pytestmark = pytest.mark.ssh


class Worker:
    """A machine to log in to: its sshd, host key, and ledger. `address` is 127.0.0.1 unless it is elsewhere."""

    def __init__(
        self, directory: Path, client_key: Path, host: str = "127.0.0.1", inside: tuple[str, ...] = ()
    ) -> None:
        """`inside`: words put before sshd's command, to run it in a network namespace, say."""
        self.directory = directory
        self.key_path = str(client_key)
        self.ledger = directory / "chronos"
        self._inside = inside
        directory.mkdir()
        self.make_host_key()
        self.address = WorkerHost(host, getpass.getuser(), _free_port() if host == "127.0.0.1" else 2222)
        (directory / "sshd_config").write_text(
            f"ListenAddress {host}:{self.address.port}\nHostKey {directory}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {client_key}.pub .ssh/authorized_keys\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\n"
            # A home of its own: what this user's shell does when it starts, some of it slow, is no part of the test.
            f"SetEnv HOME={directory} {opencl.CACHE}={opencl.cache()}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def command(self) -> str:
        """What runs chronos_cli there."""
        words = ["env", f"CHRONOS_HOME={self.ledger}", "CHRONOS_MONITOR_IDLE=30", f"PYTHONPATH={ROOT}"]
        return shlex.join([*words, sys.executable, "-m", "cumulus.chronos"])

    def make_host_key(self) -> None:
        key = self.directory / "host_key"
        key.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, input=b"y\n")

    def start(self, *, wait: bool = True) -> None:
        """`wait`: until it can be reached."""
        log = (self.directory / "sshd.log").open("ab")
        command = [*self._inside, SSHD, "-D", "-e", "-f", str(self.directory / "sshd_config")]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        log.close()
        if wait:
            eventually(self.listens)

    def stop(self) -> None:
        """End sshd with all of its sessions, and the monitor."""
        if self.process is not None:
            for pid in [*_children(self.process.pid), self.process.pid]:
                _kill(pid)
            self.process.wait()
            self.process = None

    def sessions(self) -> list[int]:
        """The processes of sshd that serve a connection, and what they run."""
        return [] if self.process is None else _children(self.process.pid)

    def close(self) -> None:
        self.stop()
        end_monitor(self.ledger)
        remove_cgroups(self.ledger)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address.host, self.address.port)) == 0


@pytest.fixture(scope="session")
def client_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key that workers let in."""
    if not SSHD or not shutil.which("ssh-keygen"):
        pytest.skip("no sshd here: apt-get install openssh-server")
    key = tmp_path_factory.mktemp("ssh") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    if os.geteuid() == 0:
        # Where sshd parts its privileges; it goes with the machine's temporary files.
        Path("/run/sshd").mkdir(exist_ok=True)
    return key


@pytest.fixture
def worker(tmp_path: Path, client_key: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setenv("SSH_KEY_PATH", str(client_key))
    worker = Worker(tmp_path / "worker", client_key)
    yield worker
    worker.close()


@pytest.fixture
def known_hosts(tmp_path: Path) -> KnownHosts:
    return KnownHosts(tmp_path / "known_hosts", ())


@pytest.fixture
def leases(worker: Worker, known_hosts: KnownHosts) -> Iterator[RemoteLeases]:
    """The worker's leases, with its host key trusted."""
    known_hosts.add(worker.address, fetch(worker.address, 5))
    leases = connect(worker, known_hosts)
    yield leases
    leases.close()


def one_by_one(command: str) -> str:
    """`command` as an older Chronos takes it, which cannot serve."""
    return f'old() {{ [ "$1" != serve ] || exit 2; {command} "$@"; }}; old'


def connect(worker: Worker, known_hosts: KnownHosts, command: str = "", waits: Waits = PATIENT) -> RemoteLeases:
    connection = NodeConnection("gpu-1", worker.address, known_hosts, key_path=worker.key_path, waits=waits)
    return RemoteLeases(connection, command or worker.command)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[int]:
    """Descendants, children first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = list(parents.get(pid, ()))
    for child in found:
        found.extend(parents.get(child, ()))
    return found


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def answers(leases: RemoteLeases) -> bool:
    """Whether the node can be reached just now."""
    try:
        leases.list()
        return True
    except NodeUnreachable:
        return False
