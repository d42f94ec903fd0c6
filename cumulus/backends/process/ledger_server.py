"""Has the ledger open for the supervisors of one backend: a fork of the process that forks them.

To open a ledger costs a supervisor as much as all else that it does, and memory for as long as its job runs. So it asks
here, and where it gets no answer it goes to the ledger by itself: nothing depends on this process, and only what went
well is answered. It ends with the process that forked it. Standard library only.

A request is one message, the JSON of `{"what": …, …}`, and the end of a socket for the answer: the JSON of a list with
the answer in it, or nothing at all.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import select
import socket
import threading
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from cumulus.backends.process import forked
from cumulus.backends.process.held_leases import HeldLeases, open_ledger, preload
from cumulus.lib import processes

if TYPE_CHECKING:
    from cumulus.chronos.local import Ledger

LARGEST = 2**18
"""Bytes of a message."""
PATIENCE_SECONDS = 10.0
"""How long an answer is waited for: what holds a job to its lease may have to be started first."""
_THREADS = 4
"""Requests at once: one that takes long is not in the way of the others."""


class Question:
    """One that was asked."""

    def __init__(self, near: socket.socket) -> None:
        self._near = near

    def answer(self) -> list[Any]:
        """The answer, in a list; an empty one where there is none: whoever wants to know why goes to the ledger."""
        with self._near:
            try:
                return list(json.loads(self._near.recv(LARGEST)))
            except (OSError, ValueError):
                return []


class LedgerClient:
    """What a supervisor has of it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    @staticmethod
    def of(descriptor: int) -> LedgerClient:
        """The one that another process has as well."""
        channel = socket.socket(fileno=descriptor)
        channel.settimeout(PATIENCE_SECONDS)
        return LedgerClient(channel)

    def fileno(self) -> int:
        return self._channel.fileno()

    def ask(self, what: str, leases: Mapping[str, Any], **more: Any) -> Question | None:
        """None where nobody is there any more. `leases` are the words of `HeldLeases`."""
        request = json.dumps({"what": what, "leases": leases, **more}).encode()
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            near.settimeout(PATIENCE_SECONDS)
            try:
                socket.send_fds(self._channel, [request], [far.fileno()])
            except OSError:
                near.close()
                return None
        return Question(near)


class Starter:
    """Starts it, and again where it has ended, for the process that forks supervisors."""

    def __init__(self) -> None:
        self._pid = 0
        self._channel: socket.socket | None = None
        self._environment: dict[str, str] = {}

    def client(self, environment: dict[str, str]) -> LedgerClient | None:
        """None for a supervisor whose environment lacks what the first one's had, or says otherwise: it asks the ledger
        by itself. What it has beside that concerns no lease."""
        if self._channel is None:
            self._start(environment)
        if self._channel is None or not self._environment.items() <= environment.items():
            return None
        return LedgerClient(self._channel)

    def reaped(self, pid: int) -> None:
        """A child has ended."""
        if pid == self._pid and self._channel is not None:
            self._channel.close()
            self._channel = None

    def _start(self, environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            parent = os.pidfd_open(os.getpid())
            try:
                pid = os.fork()
            except OSError:
                # There are too many processes: a supervisor can do without it.
                os.close(parent)
                ours.close()
                return
            if pid == 0:
                _serve(theirs, parent, environment)
            os.close(parent)
        ours.settimeout(PATIENCE_SECONDS)
        self._pid, self._channel, self._environment = pid, ours, environment


def _serve(channel: socket.socket, parent: int, environment: dict[str, str]) -> NoReturn:
    """In the child."""
    try:
        forked.become("ledger", environment)
        forked.let_go(channel.fileno(), parent)
        preload()
        _answer_until_gone(channel, parent)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _answer_until_gone(channel: socket.socket, parent: int) -> None:
    requests: queue.SimpleQueue[tuple[bytes, int]] = queue.SimpleQueue()
    ledgers = _Ledgers()
    for number in range(_THREADS):
        threading.Thread(target=_work, args=(requests, ledgers), name=f"ledger-{number}", daemon=True).start()
    while True:
        ready, _, _ = select.select([channel.fileno(), parent], [], [])
        if parent in ready:
            return
        request, descriptors, _, _ = socket.recv_fds(channel, LARGEST, 1, socket.MSG_CMSG_CLOEXEC)
        for descriptor in descriptors:
            requests.put((request, descriptor))


def _work(requests: queue.SimpleQueue[tuple[bytes, int]], ledgers: _Ledgers) -> None:
    while True:
        request, descriptor = requests.get()
        # Whatever went wrong: who asked does it by itself, and tells what comes of that.
        with socket.socket(fileno=descriptor) as far, contextlib.suppress(Exception):
            far.send(json.dumps([_answer(json.loads(request), ledgers)]).encode())


class _Ledgers:
    """One for each home: they are safe between threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._opened: dict[str | None, Ledger] = {}

    def open(self, home: str | None) -> Ledger:
        with self._mutex:
            found = self._opened.get(home)
            if found is None:
                found = self._opened[home] = open_ledger(home)
            return found


def _answer(request: dict[str, Any], ledgers: _Ledgers) -> Any:
    held = HeldLeases(**request["leases"], opened=ledgers.open)
    match request["what"]:
        case "attach":
            pid, start = request["process"]
            found = processes.read(pid)
            if found is None or found.start != start:
                raise ValueError("whoever asked is gone")
            return held.attach(pid)
        case "begin":
            return held.begin()
        case _:
            by, began = (math.inf if at is None else at for at in request["times"])
            return held.ended(by, began)
