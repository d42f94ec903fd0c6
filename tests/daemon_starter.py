"""Starts `cumulus serve` in a fork of one process that has imported it, as tests start many daemons: to import costs
several times what all else of a start does. What the installed command does from its first line on is shown by those
that start it as a user does (`tests/cli/test_serve.py`, `tests/test_orchestrator.py`, the tours)."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_AT_THE_START = dict(os.environ)
_READ_ONCE = ("PYTHON", "LD_", "TYPER_")
_MOST = 2**17
"""Bytes of a request: the words and variables of a daemon."""
_WHOLE = (
    "cumulus.admission", "cumulus.apply", "cumulus.controllers", "cumulus.gitops", "cumulus.infrastructure",
    "cumulus.server.http", "cumulus.service", "cumulus.store",
)  # fmt: skip
"""Packages of which a daemon loads most modules as it starts, beside what `cumulus.server.daemon` imports."""
_LATER = ("cryptography.x509", "cumulus.lib.collector", "uvicorn.protocols.http.httptools_impl")


class Daemon:
    """A process of the starter's; asked as a `subprocess.Popen` is."""

    def __init__(self, starter: _Starter, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._starter = starter
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._descriptor], [], [], 0)[0]:
            self._reap()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._descriptor], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("cumulus serve", timeout or 0.0)
            self._reap()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        # It has its id until it is reaped, and then it is not signalled.
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _reap(self) -> None:
        self.returncode = self._starter.ask({"reap": self.pid})
        os.close(self._descriptor)


class _Starter:
    """The process, as this one sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # It ends as this process does, however that ends: with its socket.
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            env=_AT_THE_START,
        )  # fmt: skip
        theirs.close()
        atexit.register(self._socket.close)

    def ask(self, request: Mapping[str, object], *files: int) -> int:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            answer = self._socket.recv(100)
        assert answer, "the starter of daemons ended"
        return int(answer)

    def start(self, words: Sequence[str], env: Mapping[str, str], cwd: Path | None, log: IO[bytes]) -> Daemon:
        request = {"words": list(words), "env": dict(env), "cwd": str(cwd or Path.cwd())}
        return Daemon(self, self.ask(request, log.fileno()))


def starts(env: Mapping[str, str]) -> bool:
    """Whether its daemons can have these variables: some are read but once, as Python starts."""
    return _read_once(env) == _read_once(_AT_THE_START)


def start(words: Sequence[str], env: Mapping[str, str], cwd: Path | None, log: IO[bytes]) -> Daemon:
    """A daemon by the words of the installed command."""
    return _starter().start(words, env, cwd, log)


def _read_once(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_READ_ONCE)}


@functools.cache
def _starter() -> _Starter:
    return _Starter()


def _main(connection: socket.socket) -> int:
    """Fork for each request until the tests are over; in a fork, be the daemon."""
    from cumulus.cli.main import load, main
    from cumulus.lib import collector

    collector.begin()
    load("serve")
    importlib.import_module("cumulus.server.daemon")
    for name in (*_LATER, *(each for package in _WHOLE for each in _modules(package))):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    # A terminal's Ctrl-C is for the tests, which end their daemons.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        text, files, _, _ = socket.recv_fds(connection, _MOST, 1)
        if not text:
            return 0
        request = json.loads(text)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        assert threading.active_count() == 1, "a fork has no other thread"
        if pid := os.fork():
            os.close(files[0])
            connection.send(str(pid).encode())
            continue
        connection.close()
        _become(request, files[0])
        code = main()
        collector.end()
        return code


def _modules(package: str) -> list[str]:
    return [each.name for each in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")]


def _become(request: dict[str, Any], log: int) -> None:
    """Make this fork what `subprocess.Popen` would have started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.argv = request["words"]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    # Else people who look for what holds a lock find another name than that of the command.
    Path("/proc/self/comm").write_text(Path(sys.argv[0]).name)


if __name__ == "__main__":
    # This folder, where the command would have its own: what is imported is what is installed.
    sys.path.pop(0)
    sys.exit(_main(socket.socket(fileno=int(sys.argv[1]))))
