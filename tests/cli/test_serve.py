from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus import environment, paths
from cumulus.chronos import monitor_control
from cumulus.chronos.ledger import Ledger
from cumulus.daemon_lock import DaemonLock, daemon_pid
from cumulus.lib.host import object_name
from cumulus.lib.systemd import notify
from cumulus.server.daemon import node_name
from cumulus.store import schema
from cumulus.store.base import Key
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import failed, job
from tests.waiting import PATIENCE, eventually

COMMAND = [sys.executable, "-m", "cumulus.cli.main"]


class Daemon:
    """`cumulus serve` in a process of its own, with its log and a service manager's socket."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        directory.mkdir(exist_ok=True)
        self.log = directory / "log"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(directory / "notify"))
        env = {**os.environ, "NOTIFY_SOCKET": str(directory / "notify"), environment.NO_COMMAND_SERVER: "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--grpc-listen", "off", *arguments], env=env, stderr=log, cwd=directory
            )

    def told(self, word: str, seconds: float = PATIENCE) -> str:
        """The first message to the service manager that holds `word`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self.socket], [], [], 0.1)[0]:
                message = self.socket.recv(4096).decode()
                if word in message:
                    return message
            assert self.process.poll() is None, self.log.read_text()
        raise AssertionError(f"{word} was not told: {self.log.read_text()}")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()


@pytest.fixture
def daemons(home: Path, tmp_path: Path) -> Iterator[Any]:
    started: list[Daemon] = []

    def start(*arguments: str) -> Daemon:
        started.append(Daemon(tmp_path / f"d{len(started)}", *arguments))
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop()
    ledger = Ledger()
    for lease in ledger.list():
        ledger.release(lease.id)
    monitor = monitor_control.running(ledger.home)
    if monitor is not None:
        os.kill(monitor, signal.SIGTERM)


@pytest.mark.daemon
def test_from_apply_to_the_log_and_a_clean_end(daemons: Any, run: Run, home: Path) -> None:
    leader = daemons("--log-format", "json", "--workers", "2")
    assert "leads on" in leader.told("leads on")
    assert daemon_pid(home) == leader.process.pid
    assert run("wait", "node", "--all", "--for=condition=Ready", "--timeout=150s").code == 0
    manifest = home / "job.json"
    hello = job("hello", command=["sh", "-c", "echo hello; echo world"], gpu={"memory": "10%"})
    del hello["status"]
    manifest.write_text(json.dumps(hello))
    applied = run("apply", "-f", str(manifest))
    assert (applied.out, applied.err) == ("gpujob.cumulus.dev/hello created\n", "")
    assert run("wait", "job/hello", "--for=condition=Succeeded", "--timeout=150s").code == 0
    shown = subprocess.run([*COMMAND, "logs", "hello", "-f", "--tail=1"], capture_output=True, text=True, check=True)
    assert shown.stdout == "world\n"
    eventually(lambda: "Started" in run("events", "--for", "job/hello").out)
    assert "OK" in next(line for line in run("doctor").out.splitlines() if "daemon" in line)
    assert run("restore", "nothing").code == 1

    standby = daemons("--log-format", "json")
    assert "stands by" in standby.told("STATUS")
    assert standby.lines()[-1]["leader"].split("-")[-2] == str(leader.process.pid)

    leader.process.send_signal(signal.SIGHUP)
    leader.process.send_signal(signal.SIGTERM)
    assert "STOPPING=1" in leader.told("STOPPING")
    assert leader.process.wait(PATIENCE) == 0
    assert leader.lines()[-1]["event"] == "stopped"
    assert "leads on" in standby.told("leads on")
    assert run("delete", "job", "hello", "--timeout=150s").out == "gpujob.cumulus.dev/hello deleted\n"
    standby.process.send_signal(signal.SIGINT)
    assert standby.process.wait(PATIENCE) == 0
    assert daemon_pid(home) is None
    assert all(line["timestamp"].endswith("Z") for line in leader.lines())


def test_an_unusable_store_is_refused_at_once(home: Path) -> None:
    home.mkdir()
    (home / "store").write_text("not a directory")
    done = subprocess.run([*COMMAND, "serve"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    (home / "store").unlink()
    (home / "store").mkdir()
    (home / "store" / schema.FILE).write_bytes(b"this is no database" * 500)
    done = subprocess.run([*COMMAND, "serve"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--log-level", "loud"], "there is no log level 'loud'"),
        (["--log-format", "xml"], "there is no log format 'xml'"),
        (["--workers", "0"], "--workers takes a number from 1 to 64"),
        (["--config", "/nowhere.yaml"], "the configuration file /nowhere.yaml is not there; it is named by --config"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], problem: str) -> None:
    done = run("serve", *arguments)
    assert done.code == 2
    assert problem in done.err


def test_a_lock_is_seen_from_other_processes_and_ends_with_its_own(home: Path) -> None:
    assert daemon_pid(home) is None
    script = "import sys; from pathlib import Path; from cumulus.daemon_lock import DaemonLock; " \
        "lock = DaemonLock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"  # fmt: skip
    holders = [
        subprocess.Popen([sys.executable, "-c", script, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None
            holder.stdout.readline()
        assert daemon_pid(home) in [holder.pid for holder in holders]
        holders[0].kill()
        holders[0].wait()
        assert daemon_pid(home) == holders[1].pid
        holders[1].kill()
        holders[1].wait()
        assert daemon_pid(home) is None
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def test_a_stale_lock_file_means_nothing(home: Path) -> None:
    home.mkdir()
    paths.daemon_lock(home).write_text(f"{os.getpid()}\n")
    assert daemon_pid(home) is None
    lock = DaemonLock(home)
    assert fcntl.fcntl(lock._fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    lock.close()


def test_the_protocol_of_sd_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify(READY="1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify(READY="1")
    for address in (str(tmp_path / "s"), f"@cumulus-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            assert notify(READY="1", STATUS="two\nlines")
            assert manager.recv(100) == b"READY=1\nSTATUS=two lines"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("gpu-3", "gpu-3"),
        ("GPU_3.Example.COM", "gpu-3.example.com"),
        ("-a-.-b-", "a.b"),
        ("___", "node"),
        ("x" * 300, "x" * 253),
    ],
)
def test_the_nodes_name_is_a_name(host: str, name: str) -> None:
    assert object_name(host) == name


def test_following_a_job_that_never_starts_ends_with_it(store: SqliteStore) -> None:
    made = store.create(job("train"))
    follower = subprocess.Popen([*COMMAND, "logs", "-f", "train"], stderr=subprocess.PIPE, text=True)
    try:
        assert follower.stderr is not None
        while "waiting for gpujob/train to start: Pending" not in follower.stderr.readline():
            assert follower.poll() is None
        store.update_status({**made, "status": {"phase": "Failed"}})
        assert "gpujob/train never started: Failed" in follower.stderr.read()
        assert follower.wait(PATIENCE) == 1
    finally:
        follower.kill()
        follower.communicate()


def test_logs_of_what_never_ran(store: SqliteStore, run: Run) -> None:
    store.create(job("train"))
    store.create(failed("old"))
    done = run("logs", "train")
    assert done.code == 1
    assert done.err == "error: gpujob/train has not started yet: Pending; see `cumulus why train`\n"
    assert "there are no logs in" in run("logs", "old").err
    assert "has started 1 attempts" in run("logs", "old", "--attempt=4").err
    assert run("logs", "old", "--replica=1").code == 2
    assert run("logs", "node/x").code == 2
    assert run("logs", "nope").code == 1
    assert store.get(Key("GPUJob", "default", "train"))


def test_a_host_that_is_renamed_stays_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the state directory is another machine's, as far as anybody knows."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr("socket.gethostname", lambda: "before")
    assert node_name(home) == "before"
    monkeypatch.setattr("socket.gethostname", lambda: "after")
    assert node_name(home) == "before"
    shutil.copytree(home, tmp_path / "copy")
    assert node_name(tmp_path / "copy") == "after"
