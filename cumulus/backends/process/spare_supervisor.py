"""A supervisor that is there before its run: a fork of `fork_server`, which rehearses and waits.

It has a child that does the same and becomes the program, so that neither is forked, nor finds its memory shared page
by page, while somebody waits for a start. It knows nothing of any run until it is handed one, holds no lock and no
file, and ends with the process that forked it. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from functools import partial
from typing import NamedTuple

from cumulus.backends.process import forked, launch, rlimits
from cumulus.backends.process.launch import Child
from cumulus.backends.process.ledger_server import LedgerClient
from cumulus.backends.rundir import documents
from cumulus.clock import SystemClock, timestamp
from cumulus.lib import files, processes, spare_fork

NAME = "spare"
"""What it goes by while it waits."""


class Start(NamedTuple):
    """What a supervisor is started with."""

    directory: str
    environment: dict[str, str]
    server: LedgerClient | None
    waiting: Child | None = None


def request(start: Start) -> tuple[bytes, list[int]]:
    """What a spare one is handed."""
    words = json.dumps([start.directory, start.environment]).encode()
    return words, [] if start.server is None else [start.server.fileno()]


def wait(channel: socket.socket) -> Start | None:
    """In the fork: its run, once it comes. None once nothing is wanted of it."""
    forked.become(NAME, {})
    forked.let_go(channel.fileno())
    try:
        waiting = launch.waiting_child(_rehearse_program)
    except OSError:
        waiting = None  # There are too many processes: it forks one, then.
    with contextlib.suppress(Exception):
        _rehearse()
    handed = spare_fork.wait(channel)
    if handed is None:
        return None
    directory, environment = json.loads(handed.request)
    forked.become("supervisor", environment)
    server = LedgerClient.of(handed.descriptors[0]) if handed.descriptors else None
    return Start(directory, environment, server, waiting)


def _rehearse() -> None:
    """What is the same for every run. No more of the code is walked through: its pages would be this process's own for
    as long as its job runs."""
    json.loads(json.dumps({"env": {"PATH": os.defpath}, "leases": [], "umask": 0o22}))
    timestamp(SystemClock().now())
    processes.boot_id()
    processes.read(os.getpid())
    for number in launch.CAUGHT:
        signal.signal(number, lambda *_: None)
        signal.signal(number, signal.SIG_DFL)
    for absent in (documents.read_document, partial(files.write_durably, content=b"")):
        with contextlib.suppress(OSError):
            absent("/dev/null/none")


def _rehearse_program() -> None:
    json.loads(json.dumps({"PATH": os.defpath}))
    for module in (launch, rlimits):
        spare_fork.walk(module)
