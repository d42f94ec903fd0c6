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

from cumulus.backends.process import forked, layout, ledger_server, supervisor

LARGEST = 2**18
"""Bytes of a request."""


def main() -> int:
    """Answer requests until the backend is gone."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    codecs.lookup("ascii")  # Each supervisor would load it.
    channel = socket.socket(fileno=0)
    ended, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    ledger = ledger_server.Starter()
    gc.collect()
    gc.freeze()  # Or the first collection of each supervisor would copy all that they share.
    while True:
        ready, _, _ = select.select([channel.fileno(), ended], [], [])
        if ended in ready:
            _reap(ended, ledger)
        if channel.fileno() in ready:
            request = channel.recv(LARGEST)
            if not request:
                return 0
            _answer(channel, request, ledger)


def _answer(channel: socket.socket, request: bytes, ledger: ledger_server.Starter) -> None:
    directory, environment = json.loads(request)
    server = ledger.client(environment)
    if not directory:
        return
    try:
        pid = os.fork()
    except OSError:
        channel.send(b"0")  # There are too many processes: the backend tries again.
        return
    if pid == 0:
        _supervise(directory, environment, server)
    descriptor = os.pidfd_open(pid)
    with contextlib.suppress(BrokenPipeError):
        socket.send_fds(channel, [str(pid).encode()], [descriptor])
    os.close(descriptor)


def _reap(ended: int, ledger: ledger_server.Starter) -> None:
    os.read(ended, 4096)
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ledger.reaped(pid)


def _supervise(directory: str, environment: dict[str, str], server: ledger_server.LedgerClient | None) -> NoReturn:
    """In the child: as if it had been started by itself."""
    code = 1
    try:
        os.setsid()
        forked.become("supervisor", environment)
        for number, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, os.path.join(directory, layout.SUPERVISOR_LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ):
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
            os.dup2(descriptor, number)
        os.dup2(1, 2)
        code = supervisor.main([directory], server)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
