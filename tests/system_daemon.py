"""A system daemon in namespaces of its own, where /var/lib and /run are empty, and requests of the machine's users to
it."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cumulus import environment
from cumulus.lib import cgroup, unix_socket
from tests.commands import CUMULUS
from tests.processes import cgroups_of
from tests.unix_users import User
from tests.waiting import PATIENCE, eventually

ROOT = Path(__file__).parents[1]
SITE = sysconfig.get_paths()["purelib"]
PYTHON = "/usr/bin/python3"
"""The system's, which every user can start."""
KILLED = 128 + signal.SIGKILL
"""What a shell says of a program that was killed."""
API_SOCKET = "run/cumulus/api.sock"
GROUP = "/apis/cumulus.dev/v1alpha1"

ASK = """
import http.client, json, socket, sys
connection = http.client.HTTPConnection("localhost", timeout=60)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/cumulus/api.sock")
verb, path, body = sys.argv[1:]
connection.request(verb, path, body or None, {"content-type": "application/json"} if body else {})
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""


class Answer(NamedTuple):
    status: int
    body: Any

    @classmethod
    def of(cls, status: int, said: str) -> Answer:
        return cls(status, json.loads(said) if said[:1] in ("{", "[") else said)


class SystemDaemon:
    """`seen` is where the host sees its files. One that `comes_back` is started again when it is killed, as by
    systemd."""

    def __init__(self, log: Path, *options: str, comes_back: bool = False) -> None:
        self._log = log
        empty = "mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /run"
        serve = shlex.join([CUMULUS, "serve", "--system", *options])
        served = f"while {serve}; [ $? = {KILLED} ]; do :; done" if comes_back else f"{serve} & wait"
        # Its own processes too: what it leaves ends with them, and no other test finds a monitor of /var/lib/chronos.
        inside = f"{empty} && {{ {served}; }}"
        kept = {"CHRONOS_OFFER_CPU": "1", "CHRONOS_MONITOR_IDLE": "1", environment.NO_COMMAND_SERVER: "1"}
        dropped = ("CUMULUS_HOME", "CHRONOS_HOME", "XDG_STATE_HOME")
        variables = {name: value for name, value in os.environ.items() if name not in dropped} | kept
        with open(log, "wb") as output:
            self._unshare = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside],
                env=variables, stdout=output, stderr=output,
            )  # fmt: skip
        eventually(lambda: "the API is served" in self.written(), what=self.written)
        [self._init] = children(self._unshare.pid)
        self.seen = Path(f"/proc/{self._init}/root")

    def pid(self) -> int | None:
        """Of the daemon that can be asked, as the host sees it: the kernel says who listens at its socket. None where
        there is none."""
        try:
            return unix_socket.listener(str(self.seen / API_SOCKET))
        except OSError:
            return None

    def written(self) -> str:
        return self._log.read_text(errors="replace")

    def run(self, user: User | None, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """In the daemon's namespaces, as the user; None: as root."""
        enter, its = self._entered(user)
        return subprocess.run(
            [*enter, *command], env=its | variables, cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    @contextmanager
    def running(self, *command: str, user: User | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """The same, while the block runs. What it writes as errors is in the log."""
        enter, its = self._entered(user)
        with open(self._log, "ab") as errors:
            process = subprocess.Popen(
                [*enter, *command], env=its | {"PYTHONPATH": str(ROOT)}, cwd="/", stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        try:
            yield process
        finally:
            # nsenter waits for what it started in the other namespace.
            for pid in children(process.pid) if process.poll() is None else ():
                os.kill(pid, signal.SIGTERM)
            process.communicate(timeout=PATIENCE)

    def _entered(self, user: User | None) -> tuple[list[str], dict[str, str]]:
        enter = ["nsenter", "-t", str(self._init), "-m", "-p", "--"]
        if user is None:
            return enter, {"PATH": os.environ["PATH"], "HOME": "/root"}
        become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--init-groups"]
        return [*enter, *become], {"PATH": "/usr/bin:/bin", "HOME": str(user.home), "USER": user.name}

    def ask(self, user: User | None, verb: str, path: str, body: Any = None) -> Answer:
        """One request at the machine's socket."""
        answer = self.asked(user, verb, path, body)
        assert isinstance(answer, Answer), answer + self.written()
        return answer

    def asked(self, user: User | None, verb: str, path: str, body: Any = None) -> Answer | str:
        """The same, of a daemon that may be dead: then why there is no answer."""
        text = "" if body is None else json.dumps(body)
        done = self.run(user, PYTHON, "-c", ASK, verb, path, text)
        return Answer.of(*json.loads(done.stdout)) if done.returncode == 0 else done.stderr

    def read(self, path: str) -> Answer | None:
        """What root reads there, asked by this process; None where the daemon dies, or is not there."""
        connection = http.client.HTTPConnection("localhost")
        try:
            connection.sock = unix_socket.connect(str(self.seen / API_SOCKET), PATIENCE)
            connection.request("GET", path)
            answer = connection.getresponse()
            return Answer.of(answer.status, answer.read().decode())
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def close(self) -> None:
        cgroups = cgroups_of(self.seen / "var/lib/chronos")
        if (pid := self.pid()) is None:
            self._unshare.kill()
        else:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self._unshare.wait(PATIENCE)
        eventually(lambda: all(cgroup.remove(directory) for directory in cgroups))


def is_like_ours(python: str) -> bool:
    """Whether that Python can load what is installed for this one."""
    shown = subprocess.run([python, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True)
    return shown.stdout.strip() == str(sys.version_info[:2])


def children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextmanager
def system_daemon(log: Path, *options: str, comes_back: bool = False) -> Iterator[SystemDaemon]:
    made = SystemDaemon(log, *options, comes_back=comes_back)
    try:
        yield made
    finally:
        made.close()


def job(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"name": name},
        "spec": {"gpu": {"memory": "5%", "duration": "5m"}, "command": list(command), **spec},
    }  # fmt: skip


def jobs(namespace: str, name: str = "") -> str:
    return f"{GROUP}/namespaces/{namespace}/gpujobs" + (f"/{name}" if name else "")
