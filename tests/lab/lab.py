"""A real Docker Swarm of several nodes on one Linux machine, up in seconds, gone with the process that made it.

    Lab -> switch (a network namespace with a bridge) -> Node... (see `node`) -> docker swarm init and join

Nothing stays behind, however the process ends: namespaces, mounts and interfaces live as long as the nodes' first
processes, which the kernel kills with this one; a sweeper that hears of the end removes cgroups and files.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from cumulus.lib import host_image
from tests import opencl
from tests.lab import certificates, claim
from tests.lab.node import LabError, Node, run, until, write_facts
from tests.lab.sweep import sweep
from tests.processes import die_with_parent
from tests.waiting import PATIENCE

NEEDED = {
    "dockerd": "docker.io", "docker": "docker.io", "docker-init": "docker.io", "sshd": "openssh-server",
    "ssh-keygen": "openssh-client", "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux",
    "iptables": "iptables", "openssl": "openssl", "busybox": "busybox-static",
}  # fmt: skip
"""Program -> Debian's package that has it."""


def missing() -> str:
    """Why no lab can be made here; "" where one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a lab needs root on Linux"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = sorted({package for program, package in NEEDED.items() if not shutil.which(program, path=path)})
    if packages:
        return f"a lab needs: apt-get install {' '.join(packages)}"
    done = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "a lab needs the right to make namespaces (a privileged container)"


_MEND_SECONDS = 90.0
"""How long a node may take to be Ready, after each step that is to bring it back."""

_numbers = itertools.count()


class Lab:
    """`workers` machines beside the manager; `directory` holds all their files and is removed in the end."""

    def __init__(self, workers: int = 2, directory: Path | None = None) -> None:
        if why := missing():
            raise LabError(why)
        os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        self.directory = directory or Path(tempfile.mkdtemp(prefix="cumulus-lab-"))
        self._lock = claim.take(self.directory)
        # An interface has at most 15 letters.
        self.tag = f"lab{os.getpid():x}{next(_numbers)}"
        self._sweeper = self._start_sweeper()
        self.shared.mkdir()
        self.shared.chmod(0o1777)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        self._install_chronos()
        self._subnet, self._claim = _free_subnet()
        self._switch = self._start_switch()
        certificates.make(self.directory, [f"{self._subnet}.{10 + number}" for number in range(workers + 1)])
        names = ["manager", *(f"worker{n}" for n in range(1, workers + 1))]
        self.nodes = {name: self._node(name, number) for number, name in enumerate(names)}

    @property
    def manager(self) -> Node:
        return self.nodes["manager"]

    @property
    def workers(self) -> Sequence[Node]:
        return [node for name, node in self.nodes.items() if name != "manager"]

    @property
    def key(self) -> Path:
        """The private key that opens every node, as root."""
        return self.directory / "id_ed25519"

    @property
    def host(self) -> str:
        """This machine's address, as the nodes reach it."""
        return f"{self._subnet}.1"

    @property
    def shared(self) -> Path:
        """What is /mnt on every node: storage that all of them see."""
        return self.directory / "shared"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def up(self) -> None:
        """Boot every node and join them."""
        (self.directory / "cgroups").write_text("\n".join(node.cgroup.strip("/") for node in self.nodes.values()))
        self.known_hosts.write_text(
            "".join(f"{n.address} {(n.directory / 'host_key.pub').read_text()}" for n in self.nodes.values())
        )
        with ThreadPoolExecutor() as pool:
            # Threads would be the parents whose death ends the nodes; only what has no processes runs in the pool.
            for node in self.nodes.values():
                node.boot()
            manager = self.manager
            address = manager.address
            manager.docker("swarm", "init", "--advertise-addr", address, "--listen-addr", f"{address}:2377")
            token = manager.docker("swarm", "join-token", "-q", "worker")
            joins = [
                pool.submit(
                    node.docker, "swarm", "join", "--token", token, "--advertise-addr", node.address, f"{address}:2377"
                )
                for node in self.workers
            ]
            for join in joins:
                join.result()
        until(lambda: self.ready() == set(self.nodes), PATIENCE, "all nodes are Ready")
        self._write_facts()

    def promote(self) -> None:
        """Make every node a manager, so that the Swarm outlives any one of them (with three or more)."""
        self.manager.docker("node", "promote", *(node.name for node in self.workers))
        until(lambda: self._managers() == len(self.nodes), PATIENCE, "all nodes are managers")

    def _managers(self) -> int:
        lines = self.manager.docker("node", "ls", "--format", "{{.ManagerStatus}}").splitlines()
        return sum(line in ("Leader", "Reachable") for line in lines)

    def ready(self) -> set[str]:
        """The nodes that the Swarm takes for Ready."""
        lines = self.manager.docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}").splitlines()
        return {line.split()[0] for line in lines if line.split()[1:] == ["Ready"]}

    def mend(self) -> list[str]:
        """Put in order what was left broken: links, engines, nodes that are not Ready. What was done, in words; nothing
        where the lab is whole. Raises LabError where a node does not come back."""
        done = []
        for node in self.nodes.values():
            if node.is_cut:
                node.heal()
                done.append(f"{node.name} was cut off, and is connected again")
            if not node.has_engine():
                node.restart()
                done.append(f"{node.name} had no engine, and was started again")
        steps: Sequence[tuple[str, Callable[[Node], None]]] = (
            ("was waited for", lambda node: None),
            ("got its engine restarted", Node.restart),
            ("was switched off and on", _power_cycle),
        )
        for words, step in steps:
            # Asked once, since each test does: every question starts a process.
            ready = self.ready()
            broken = [node for name, node in self.nodes.items() if name not in ready]
            if not broken:
                return done
            for node in broken:
                step(node)
                done.append(f"{node.name} was not Ready, and {words}")
            with contextlib.suppress(LabError):
                until(lambda: self.ready() == set(self.nodes), _MEND_SECONDS, "all nodes are Ready")
        if self.ready() != set(self.nodes):
            raise LabError(f"the lab stays broken: {'; '.join(done)}\n{self.manager.docker('node', 'ls')}")
        return done

    def image(self, tag: str, directory: Path) -> None:
        """Make the directory an image on every node; no registry is asked."""
        archive = self.directory / "image.tar"
        run("tar", "--create", f"--file={archive}", f"--directory={directory}", ".", timeout=300)
        self.load(tag, archive)
        archive.unlink()

    def load(self, tag: str, archive: Path, *changes: str) -> None:
        """Import an archive of a root file system as an image on every node."""
        arguments = [part for change in changes for part in ("--change", change)]
        for node in self.nodes.values():
            node.docker("import", *arguments, str(archive), tag, timeout=300)

    def load_host_image(self) -> None:
        """Bring the image by which programs of a node's own disk run to every node."""
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        for node in self.nodes.values():
            status, _, errors = node.fed("docker load", host_image.image(machine).archive)
            if status != 0:
                raise LabError(f"the host image is not loaded on {node.name}: {errors}")

    def down(self) -> None:
        """Remove everything."""
        for node in self.nodes.values():
            node.power_off()
        self._switch.kill()
        self._switch.wait()
        assert self._sweeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            # Its end alone may not come: what a test forked has this pipe too.
            self._sweeper.stdin.write(b".")
            self._sweeper.stdin.close()
        self._sweeper.wait(PATIENCE)
        if self.directory.exists():
            sweep(self.directory)  # The sweeper was killed.
        self._claim.close()
        os.close(self._lock)

    def guard(self) -> NoReturn:
        """Stay, and see that there is a sweeper."""
        while True:
            self._sweeper.wait()
            self._sweeper = self._start_sweeper()

    def _node(self, name: str, number: int) -> Node:
        address = f"{self._subnet}.{10 + number}"
        return Node(self.directory / name, name, self.tag, number, address, self._switch.pid)

    def _install_chronos(self) -> None:
        """What every node finds as chronos_cli. The devices are this machine's own, offered by each node."""
        path = self.directory / "bin" / "chronos_cli"
        path.parent.mkdir()
        root = Path(__file__).resolve().parents[2]
        path.write_text(
            # The tests' own CHRONOS_HOME is not the node's.
            "#!/bin/sh\nunset CHRONOS_HOME\n"
            f"export CHRONOS_OFFER_CPU=1 PYTHONPATH={root} {opencl.CACHE}={opencl.cache()}\n"
            f'exec {sys.executable} -m cumulus.chronos "$@"\n'
        )
        path.chmod(0o755)
        worker = root / "cumulus" / "nodes" / "worker"
        shutil.copy2(worker / "chronos-runtime", path.parent / "chronos-runtime")
        shutil.copy2(root / "cumulus" / "chronos" / "runtime.py", path.parent / "chronos_runtime.py")
        for source in ("chronos/host_program.py", "lib/unix_user.py"):
            shutil.copy2(root / "cumulus" / source, path.parent)
        (path.parent / "python").symlink_to(Path(sys.executable).resolve())

    def _start_sweeper(self) -> subprocess.Popen[bytes]:
        """A process that outlives this one and removes what the kernel does not."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.lab.sweep", str(self.directory)], stdin=subprocess.PIPE,
            start_new_session=True, cwd=Path(__file__).resolve().parents[2], pass_fds=[self._lock],
        )  # fmt: skip

    def _start_switch(self) -> subprocess.Popen[bytes]:
        """The bridge has a namespace of its own: on the host, Docker's FORWARD policy would drop its frames."""
        switch = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"], preexec_fn=die_with_parent, start_new_session=True
        )
        until(
            lambda: Path(f"/proc/{switch.pid}/cmdline").read_bytes().startswith(b"sleep\0"),
            PATIENCE,
            "the switch is on",
        )
        inside = ("nsenter", f"--target={switch.pid}", "--net", "ip")
        run(*inside, "link", "add", "bridge0", "type", "bridge")
        run(*inside, "link", "set", "bridge0", "up")
        host = f"{self.tag}h"
        run("ip", "link", "add", host, "type", "veth", "peer", "name", "host0", "netns", str(switch.pid))
        run(*inside, "link", "set", "host0", "master", "bridge0", "up")
        run("ip", "addr", "add", f"{self._subnet}.1/24", "dev", host)
        run("ip", "link", "set", host, "up")
        return switch

    def _write_facts(self) -> None:
        """For scripts: where everything is."""
        write_facts(
            self.directory / "lab.json",
            {
                "owner": os.getpid(), "switch": self._switch.pid,
                "key": str(self.key), "known_hosts": str(self.known_hosts),
                "nodes": {name: node.facts() for name, node in self.nodes.items()},
            },
        )  # fmt: skip


@contextmanager
def lab(workers: int = 2, directory: Path | None = None) -> Iterator[Lab]:
    """A lab that is up, and down again whatever happens."""
    made = Lab(workers, directory)
    try:
        made.up()
        yield made
    finally:
        made.down()


def _power_cycle(node: Node) -> None:
    node.power_off()
    node.boot()


def end_on_signals() -> None:
    """SIGTERM, SIGHUP and Ctrl-C end the program once, so that `finally` runs, and runs to its end."""
    # In the background of a script SIGINT is ignored.
    ending = [n for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]

    def end(number: int, frame: object) -> None:
        for each in ending:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in ending:
        signal.signal(number, end)


def _free_subnet() -> tuple[str, socket.socket]:
    """A /24 of 10.77 that no interface of this machine uses, and what keeps it from labs that start at the same time:
    a name that the kernel lets one process have, and frees with it."""
    used = run("ip", "-4", "-o", "addr")
    for number in range(256):
        if f" 10.77.{number}." in used:
            continue
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0cumulus-lab-10.77.{number}")
        except OSError:
            claim.close()
            continue
        return f"10.77.{number}", claim
    raise LabError("256 labs run on this machine already")
