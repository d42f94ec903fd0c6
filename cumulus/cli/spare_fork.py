"""A fork of the command server that is made before its command comes, and has rehearsed one.

What a fork of a large interpreter touches first is copied page by page, counts of references most of all: that takes
longer than most verbs. A spare one has done so while nobody waited.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from cumulus.cli import attached, command_job, context, log_output, progress, same_directory
from cumulus.cli import main as command
from cumulus.cli.command_job import Shell, Wanted
from cumulus.client import connect, contexts, endpoint
from cumulus.client.http import client, connection, logs, watch
from cumulus.resources.key import DEFAULT_NAMESPACE

NAME = "spare"
"""What it goes by while it waits."""
_LARGEST = 2**17
"""Bytes of a request that is handed over, in one message."""
_MOST_DESCRIPTORS = 8
_LINE = ["--gpu", "25%", "--for", "2h", "--", "python", "train.py"]
_WALKED = (
    attached, client, connect, connection, context, contexts, endpoint, log_output, logs, progress, same_directory,
    watch,
)  # fmt: skip
"""Modules that a command runs through once it has been read."""


class Handed(NamedTuple):
    """A request, and the descriptors that came with it."""

    request: bytes
    descriptors: list[int]


class SpareFork:
    """One that waits, as the server has it."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel

    def hand(self, request: bytes, descriptors: Sequence[int]) -> bool:
        """Whether it has the request, whole. Where not, it never runs any of it."""
        if len(request) > _LARGEST:
            return False
        try:
            return socket.send_fds(self._channel, [request], descriptors) == len(request)
        except OSError:
            return False

    def close(self) -> None:
        """It ends, unless it has a request."""
        self._channel.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """The server's end of a channel, which never waits, and the fork's. Messages arrive whole, or not at all."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    return near, far


def wait(channel: socket.socket) -> Handed | None:
    """In the fork: rehearse, then wait. None once the server wants nothing of it."""
    with contextlib.suppress(Exception):
        rehearse()
    with channel:
        request, descriptors, _, _ = socket.recv_fds(channel, _LARGEST, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    return Handed(request, descriptors) if request else None


def called(name: str) -> str:
    """Go by another name; the one before."""
    with open("/proc/self/comm", "r+") as comm:
        before = comm.read().rstrip("\n")
        comm.write(name)
    return before


def rehearse() -> None:
    """Read a command line as one that comes will be, and make its job. Nobody is asked, and no file is touched."""
    group, verb = command.group_of_verbs(), command.load("run")
    with group.make_context("cumulus", ["run", *_LINE]) as outer, verb.make_context("run", [*_LINE], parent=outer):
        pass
    shell = Shell("/", {"PATH": os.defpath})
    wanted = Wanted(tuple(_LINE[-2:]), gpu="25%", duration="2h")
    job = command_job.job_of(wanted, shell, DEFAULT_NAMESPACE, command_job.random_ending()).job
    json.loads(json.dumps(job))
    for module in _WALKED:
        _walk(module)


def _walk(module: ModuleType) -> None:
    """Count a reference to what its functions are made of, and uncount it."""
    for each in [*vars(module).values()]:
        for function in (each, *(vars(each).values() if isinstance(each, type) else ())):
            code = getattr(function, "__code__", None)
            if code is not None and function.__module__ == module.__name__:
                for part in (*code.co_consts, *code.co_names, *code.co_varnames):
                    del part
