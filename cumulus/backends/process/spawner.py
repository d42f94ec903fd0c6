"""Starts supervisors: as forks of one process that has loaded what they need, or each by itself where that one is not
to be had."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from cumulus.backends.process.layout import SUPERVISOR_LOG

log = structlog.get_logger("cumulus.backends")

_HERE = os.path.dirname(os.path.abspath(__file__))
SUPERVISOR = os.path.join(_HERE, "supervisor.py")
PYTHON = (sys.executable, "-I", "-S", "-X", "utf8")
"""Runs a program by path: neither site-packages nor the working directory is in its way."""
PATIENCE_SECONDS = 10.0
"""How long a fork is waited for: the first one until Python has started, on a machine that may be very busy."""


class Spawned(NamedTuple):
    """A supervisor that was started a moment ago."""

    pid: int
    descriptor: int
    """A pidfd, the caller's to close."""


class Spawner:
    """`program` is what supervises one run, `server` what forks such ones. Both are run by path. `root` is the
    backend's, for who looks at the list of processes."""

    def __init__(
        self, root: str, program: str = SUPERVISOR, server: str = os.path.join(_HERE, "fork_server.py")
    ) -> None:
        self._root = root
        self._program = program
        self._server = server
        self._mutex = threading.Lock()
        self._channel: socket.socket | None = None
        self._pid = 0

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Start the process that forks, and the one that has the ledger open, without waiting for them. `environment`
        is what supervisors will have."""
        with self._mutex:
            if self._channel is None:
                self._start(environment)
                assert self._channel is not None
                self._channel.send(json.dumps(["", dict(environment)]).encode())

    def spawn(self, directory: str, environment: Mapping[str, str]) -> Spawned:
        """Start a supervisor of the run in `directory`, in a session of its own. Raises OSError."""
        with self._mutex:
            for _ in range(2):
                # The second time for one that was killed since the last run.
                if self._channel is None:
                    self._start(environment)
                spawned = self._fork(directory, environment)
                if spawned is not None:
                    return spawned
        return _spawn(self._program, directory, environment)

    def close(self) -> None:
        """End the process that forks. Supervisors go on."""
        with self._mutex:
            self._end()

    def _start(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            libraries = {name: environment[name] for name in _LIBRARIES if name in environment}
            streams = (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
            pid = _python([self._server, self._root], libraries, streams)
        ours.settimeout(PATIENCE_SECONDS)
        self._channel, self._pid = ours, pid

    def _fork(self, directory: str, environment: Mapping[str, str]) -> Spawned | None:
        """None where the process that forks does not answer; it is ended then."""
        assert self._channel is not None
        try:
            self._channel.send(json.dumps([directory, dict(environment)]).encode())
            answer, descriptors, _, _ = socket.recv_fds(self._channel, 64, 1)
            if descriptors:
                return Spawned(int(answer), descriptors[0])
            problem = "it ended" if not answer else "it cannot fork"
        except (OSError, ValueError) as error:
            problem = str(error)
        log.warning("the process that forks supervisors failed", error=problem)
        self._end()
        return None

    def _end(self) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        channel.close()
        # It would end by itself; a stopped one does not. Supervisors are in sessions of their own.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


_LIBRARIES = ("PATH", "LD_LIBRARY_PATH")
"""What the process that forks needs of the environment; each supervisor has its own."""


def _spawn(program: str, directory: str, environment: Mapping[str, str]) -> Spawned:
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    streams = (
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.path.join(directory, SUPERVISOR_LOG), append, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    )
    pid = _python([program, directory], environment, streams)
    return Spawned(pid, os.pidfd_open(pid))


def _python(words: Sequence[str], environment: Mapping[str, str], streams: Sequence[tuple[Any, ...]]) -> int:
    """Start a program that is run by path, in a session of its own and with signals as they are by default; its pid."""
    return os.posix_spawn(
        sys.executable, [*PYTHON, *words], dict(environment), file_actions=streams, setsid=True, setsigmask=(),
        setsigdef=set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP},
    )  # fmt: skip
