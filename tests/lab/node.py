"""One machine of the lab: a PID, mount, network and host name namespace with sshd, a Docker engine and Chronos.

Everything of a node dies with its first process: `power_off` is what pulling the plug is. `kill_engine` ends dockerd
alone, and `cut` takes the network away.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests import unix_users
from tests.lab import certificates
from tests.processes import die_with_parent
from tests.waiting import PATIENCE, poll

TLS_PORT = 2376
_STARTS = 3


class LabError(Exception):
    """A command of the lab failed."""


def until(met: Callable[[], object], within: float, what: str) -> None:
    """Wait until `met()` is true; raise LabError after `within` seconds."""
    if not poll(met, within):
        raise LabError(f"not within {within:g} s: {what}")


def run(*command: str, check: bool = True, timeout: float = PATIENCE) -> str:
    """What the command printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Node:
    """`name` is its host name, `address` its IPv4 address; `switch` is the process in whose network the bridge is."""

    def __init__(self, directory: Path, name: str, tag: str, number: int, address: str, switch: int) -> None:
        self.directory = directory
        self.name = name
        self.address = address
        self._tag = tag
        self._port = f"{tag}p{number}"
        self._switch = switch
        self._holder: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.is_cut = False
        self._talks: list[subprocess.Popen[bytes]] = []
        directory.mkdir(parents=True)
        (directory / "chronos").mkdir()
        (directory / "srv").mkdir(mode=0o755)
        for name in ("etc", "etc-work"):
            (directory / name).mkdir(mode=0o755)
        for name in ("passwd", "group"):
            # Users of tests that run beside this one go, and their numbers are given to others.
            lines = Path(f"/etc/{name}").read_text().splitlines(keepends=True)
            kept = (line for line in lines if not line.startswith(unix_users.PREFIX))
            (directory / "etc" / name).write_text("".join(kept))
        self._write_sshd_config()

    @property
    def socket(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    @property
    def chronos_home(self) -> Path:
        """What is /var/lib/chronos on the node."""
        return self.directory / "chronos"

    @property
    def own(self) -> Path:
        """What is /srv on the node, and on no other one."""
        return self.directory / "srv"

    def add_user(self, name: str, uid: int, gid: int | None = None) -> None:
        """Let the node alone know that user."""
        line = f"{name}:x:{uid}:{uid if gid is None else gid}::/srv:/bin/sh"
        self.inside("sh", "-c", 'echo "$1" >> /etc/passwd', "sh", line)

    def remove_user(self, name: str) -> None:
        self.inside("sed", "-i", f"/^{name}:/d", "/etc/passwd")

    @property
    def cgroup(self) -> str:
        return f"/{self._tag}-{self.name}"

    def boot(self) -> None:
        """Power on: namespaces, network, sshd, engine."""
        self._hold()
        self._plug_in()
        self._prepare()
        self._spawn("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", str(self.directory / "sshd_config"))
        self.start_engine()

    def power_off(self) -> None:
        """Pull the plug: every process of the node is gone when this returns."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
            until(lambda: not os.path.exists(f"/proc/{self.pid}"), PATIENCE, f"{self.name} is off")
        self._holder = None
        self.pid = 0

    def start_engine(self) -> None:
        """As a service manager does it: one that gave up, since its containerd took too long, is started anew."""
        for left in reversed(range(_STARTS)):
            engine = self._start_engine()
            until(
                lambda engine=engine: self._engine_answers() or engine.poll() is not None,  # type: ignore[misc]
                PATIENCE,
                f"the engine of {self.name} answers",
            )
            if self._engine_answers():
                return
            if not left:
                raise LabError(f"the engine of {self.name} does not start\n{self._engine_log()}")

    def _start_engine(self) -> subprocess.Popen[bytes]:
        (self.directory / "docker.pid").unlink(missing_ok=True)
        return self._spawn(
            "dockerd", "dockerd", f"--data-root={self.directory}/data", f"--exec-root={self.directory}/exec",
            f"--pidfile={self.directory}/docker.pid", f"--host={self.socket}", "--host=unix:///run/docker.sock",
            f"--cgroup-parent={self.cgroup}",
            "--shutdown-timeout=2", f"--add-runtime=chronos={self.directory.parent}/bin/chronos-runtime",
            "--default-runtime=chronos", f"--insecure-registry={self.address}/24",
            f"--host=tcp://{self.address}:{TLS_PORT}", *certificates.server(self.directory.parent),
        )  # fmt: skip

    def _engine_answers(self) -> bool:
        return self._docker("info", check=False).returncode == 0

    def _engine_log(self) -> str:
        log = self.directory / "dockerd.log"
        return log.read_text()[-500:] if log.exists() else ""

    def kill_engine(self, number: int = signal.SIGKILL) -> None:
        """Signal dockerd and wait for its end; containers go on."""
        pid = (self.directory / "docker.pid").read_text().strip()
        self.inside("kill", f"-{int(number)}", pid)
        until(lambda: not (self._proc() / pid).exists(), PATIENCE, f"the engine of {self.name} is gone")

    def cut(self) -> None:
        """Take the network away."""
        self.is_cut = True
        self._on_switch("link", "set", self._port, "down")

    def heal(self) -> None:
        self._on_switch("link", "set", self._port, "up")
        self.is_cut = False

    def has_engine(self) -> bool:
        """Whether the node is on and its dockerd lives."""
        pidfile = self.directory / "docker.pid"
        return bool(self.pid and pidfile.exists() and (self._proc() / pidfile.read_text().strip()).exists())

    def restart(self) -> None:
        """The engine anew, or the whole node where that is off."""
        if not self.pid:
            self.boot()
            return
        if self.has_engine():
            self.kill_engine()
        self.start_engine()

    def shell(self, command: str, timeout: float = PATIENCE) -> tuple[int, str, str]:
        """Exit status, output and errors of a shell command on the node, however it ends."""
        words = [*self._enter(), "sh", "-c", command]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout)
        return done.returncode, done.stdout, done.stderr

    def fed(self, command: str, content: bytes, timeout: float = PATIENCE) -> tuple[int, str, str]:
        """The same, of one that reads the content."""
        words = [*self._enter(), "sh", "-c", command]
        done = subprocess.run(words, input=content, capture_output=True, check=False, timeout=timeout)
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def read(self, command: str, content: bytes) -> Iterator[bytes]:
        """What a shell command writes that reads the content."""
        words = [*self._enter(), "sh", "-c", command]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(content)
            process.stdin.close()
            while chunk := process.stdout.read(65536):
                yield chunk

    def talked_to(self, command: str) -> socket.socket:
        """A connection to the input and output of a shell command on the node."""
        near, far = socket.socketpair()
        with far:
            self._talks.append(subprocess.Popen([*self._enter(), "sh", "-c", command], stdin=far, stdout=far))
        return near

    def inside(self, *command: str, check: bool = True, timeout: float = PATIENCE) -> str:
        """Run a command on the node."""
        return run(*self._enter(), *command, check=check, timeout=timeout)

    def docker(self, *arguments: str, timeout: float = PATIENCE) -> str:
        """Run the docker client against this node's engine."""
        done = self._docker(*arguments, timeout=timeout)
        if done.returncode != 0:
            raise LabError(f"docker {' '.join(arguments)} on {self.name}: {done.stderr.strip()}")
        return done.stdout.strip()

    def has_process(self, word: str) -> bool:
        """Whether a process with that word in its environment or command line lives here, seen past all engines."""
        for entry in self._proc().iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if word.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                        return True
        return False

    def signals_of(self, *command: str) -> list[int]:
        """Which signals each process of that command line here catches or ignores: bit N-1 for signal N."""
        wanted = b"".join(word.encode() + b"\0" for word in command)
        found = []
        for entry in self._proc().iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "cmdline").read_bytes() == wanted:
                        lines = dict(line.split(":\t") for line in (entry / "status").read_text().splitlines())
                        found.append(int(lines["SigCgt"], 16) | int(lines["SigIgn"], 16))
        return found

    def facts(self) -> dict[str, str]:
        """What a script wants to know."""
        return {
            "pid": str(self.pid), "address": self.address, "port": self._port, "socket": self.socket,
            "cgroup": self.cgroup,
        }  # fmt: skip

    def _docker(
        self, *arguments: str, check: bool = False, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        command = ["docker", "-H", self.socket, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=timeout)

    def _proc(self) -> Path:
        """The node's own /proc, from outside."""
        return Path(f"/proc/{self.pid}/root/proc")

    def _enter(self) -> Sequence[str]:
        return ("nsenter", f"--target={self.pid}", "--mount", "--uts", "--net", "--pid", "--ipc")

    def _hold(self) -> None:
        """The first process of the node; the kernel ends all others with it."""
        self._holder = subprocess.Popen(
            ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "--propagation=private", "--uts",
             "--net", "--ipc", "docker-init", "--", "sleep", "infinity"],
            stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, start_new_session=True,
        )  # fmt: skip
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        until(lambda: children.read_text().split(), PATIENCE, f"{self.name} has a first process")
        self.pid = int(children.read_text().split()[0])
        command = Path(f"/proc/{self.pid}/cmdline")
        until(lambda: command.read_bytes().startswith(b"docker-init\0"), PATIENCE, f"{self.name} is on")

    def _plug_in(self) -> None:
        self._on_switch("link", "del", self._port, check=False)
        self._on_switch("link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        self._on_switch("link", "set", self._port, "master", "bridge0", "up")
        self.is_cut = False

    def _prepare(self) -> None:
        own = self.directory
        boot = own / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        self.inside(
            "sh", "-ec",
            f"hostname {self.name}; mount -t tmpfs -o mode=755 tmpfs /run;"
            "mkdir -p /run/sshd /run/lock /var/lib/chronos;"
            f"mount --bind {self.chronos_home} /var/lib/chronos; mount --bind {self.directory.parent}/shared /mnt;"
            f"mount --bind {boot} /proc/sys/kernel/random/boot_id; mount --bind {self.own} /srv;"
            # Not a mount on each file: who changes the machine's list of users puts another one in its place.
            f"mount -t overlay -o lowerdir=/etc,upperdir={own}/etc,workdir={own}/etc-work etc /etc;"
            f"ip addr add {self.address}/24 dev eth0; ip link set eth0 up; ip link set lo up",
        )  # fmt: skip

    def _spawn(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with open(self.directory / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [*self._enter(), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=die_with_parent,
            )  # fmt: skip

    def _on_switch(self, *arguments: str, check: bool = True) -> None:
        run("nsenter", f"--target={self._switch}", "--net", "ip", *arguments, check=check)

    def _write_sshd_config(self) -> None:
        key = self.directory / "host_key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        (self.directory / "sshd_config").write_text(
            f"ListenAddress {self.address}:22\nHostKey {key}\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {self.directory.parent}/id_ed25519.pub\nPasswordAuthentication no\n"
            f"SetEnv HOME={self.directory} "
            f"PATH={self.directory.parent}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            "PermitRootLogin yes\nSubsystem sftp internal-sftp\nAcceptEnv *\nMaxSessions 64\nMaxStartups 64\n"
        )


def remove_traces(directory: Path, cgroups: Sequence[str]) -> None:
    """What stays when all processes are gone: cgroups and files."""
    for name in cgroups:
        # In each hierarchy of version 1, and in that of version 2, beside them or alone.
        top = Path("/sys/fs/cgroup")
        for root in (top / name, *top.glob(f"*/{name}")) if name else ():
            for below in sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    below.rmdir()
            with contextlib.suppress(OSError):
                root.rmdir()
    shutil.rmtree(directory, ignore_errors=True)


def write_facts(path: Path, facts: dict[str, object]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(facts, indent=1))
    temporary.rename(path)
