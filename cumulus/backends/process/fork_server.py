"""Forks supervisors for one backend, a process of its own: `python -I -S fork_server.py ROOT`, a socket as its stdin.

It has loaded what a supervisor needs, so a run costs no start of Python and shares that memory with the other runs, as
with multiprocessing's fork server. It has one thread, no lock and no file open. It ends with the backend that started
it; the supervisors go on. Standard library only.

Each request is one message, the JSON of `[run directory, environment]`. The answer is the supervisor's pid as decimal
text, with a pidfd: this process reaps its children, so the number alone could be another process's by then. One without
a directory is not answered: it only has the process started that has the ledger open for supervisors (`ledger_server`).
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import NoReturn

if __name__ == "__main__":
    # Run by path: neither site-packages nor the working directory is on sys.path (-I -S).
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../../..")]

from cumulus.backends.process import forked, layout, ledger_server, spare_supervisor, supervisor
from cumulus.backends.process.spare_supervisor import Start
from cumulus.lib import spare_fork
from cumulus.lib.descriptors import close_all_but
from cumulus.lib.spare_fork import SpareFork

LARGEST = 2**18
"""Bytes of a request."""
_QUIET = 0.2
"""Seconds without a request after which the spare supervisor is made: it is in nobody's way then."""


def main() -> int:
    """Answer requests until the backend is gone."""
    close_all_but()
    codecs.lookup("ascii")  # Each supervisor would load it.
    server = _Server(socket.socket(fileno=0))
    gc.collect()
    gc.freeze()  # Or the first collection of each supervisor would copy all that they share.
    start = server.run()
    if start is not None:
        _supervise(start)
    return 0


class _Server:
    """Forks one supervisor for each request, and a spare one while there is none."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._ledger = ledger_server.Starter()
        self._spare: SpareFork | None = None
        self._wants_spare = False
        """A request has come since the last spare fork was made: who makes none costs nothing."""

    def run(self) -> Start | None:
        """Until the backend is gone: None then. In a fork: what it is to supervise."""
        ended, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self._channel.fileno(), ended], [], [], _QUIET if self._wants_spare else None)
            if not ready and (given := self._make_spare()) is not None:
                return _awaited(given)
            if ended in ready:
                self._reap(ended)
            if self._channel.fileno() in ready:
                request = self._channel.recv(LARGEST)
                if not request:
                    return None
                if (start := self._answer(request)) is not None:
                    return start

    def _answer(self, request: bytes) -> Start | None:
        """In the fork: what it is to supervise."""
        directory, environment = json.loads(request)
        start = Start(directory, environment, self._ledger.client(environment))
        if not directory:
            return None
        self._wants_spare = True
        try:
            pid = self._hand(start) or os.fork()
        except OSError:
            self._channel.send(b"0")  # There are too many processes: the backend tries again.
            return None
        if pid == 0:
            os.setsid()
            forked.become("supervisor", environment)
            return start
        descriptor = os.pidfd_open(pid)
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(self._channel, [str(pid).encode()], [descriptor])
        os.close(descriptor)
        return None

    def _hand(self, start: Start) -> int:
        """Give a run to the spare fork: its pid, 0 where there is none that takes it."""
        spare, self._spare = self._spare, None
        return 0 if spare is None else spare.hand(*spare_supervisor.request(start))

    def _make_spare(self) -> socket.socket | None:
        """In the fork: where its run comes from."""
        self._wants_spare = False
        made = spare_fork.make()
        if isinstance(made, socket.socket):
            return made
        self._spare = made
        return None

    def _reap(self, ended: int) -> None:
        os.read(ended, 4096)
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self._ledger.reaped(pid)
                if self._spare is not None and pid == self._spare.pid:
                    self._spare.close()
                    self._spare = None


def _awaited(channel: socket.socket) -> Start:
    """In the spare fork: what it is to supervise."""
    try:
        os.setsid()
        if (start := spare_supervisor.wait(channel)) is not None:
            return start
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(0)


def _supervise(start: Start) -> NoReturn:
    """In the child: as if it had been started by itself."""
    code = 1
    try:
        for number, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, os.path.join(start.directory, layout.SUPERVISOR_LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ):
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
            os.dup2(descriptor, number)
        os.dup2(1, 2)
        code = supervisor.main([start.directory], start.server, start.waiting)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
