"""A fork that is made before there is work for it: how it is handed its work. Standard library only.

What a fork of an interpreter touches first is copied page by page, counts of references most of all. One that is there
early has done so while nobody waited.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

LARGEST = 2**17
"""Bytes of a request that is handed over, in one message."""
_MOST_DESCRIPTORS = 8


class Handed(NamedTuple):
    """A request, and the descriptors that came with it."""

    request: bytes
    descriptors: list[int]


class SpareFork:
    """One that waits, as the process has it that made it."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel

    def hand(self, request: bytes, descriptors: Sequence[int] = ()) -> int:
        """Its pid where it has the request, whole. Where not, 0, and it never runs any of it. It is nobody's spare
        after that."""
        try:
            if len(request) <= LARGEST and socket.send_fds(self._channel, [request], descriptors) == len(request):
                return self.pid
        except OSError:
            pass
        finally:
            self.close()
        return 0

    def close(self) -> None:
        """It ends, unless it has a request."""
        self._channel.close()


def make() -> SpareFork | socket.socket | None:
    """Fork: the fork, None where there are too many processes; and in the fork, where its work comes from. Its maker
    never waits, and messages arrive whole, or not at all."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    try:
        pid = os.fork()
    except OSError:
        near.close()
        far.close()
        return None
    if pid == 0:
        near.close()
        return far
    far.close()
    return SpareFork(pid, near)


def wait(channel: socket.socket) -> Handed | None:
    """In the fork: its work, once it comes. None once nothing is wanted of it."""
    with channel:
        try:
            request, descriptors, _, _ = socket.recv_fds(channel, LARGEST, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
    return Handed(request, descriptors) if request else None


def called(name: str) -> str:
    """Go by another name in the list of processes; the one before."""
    with open("/proc/self/comm", "r+") as comm:
        before = comm.read().rstrip("\n")
        comm.write(name)
    return before


def walk(module: ModuleType) -> None:
    """Rehearse what cannot be run for nothing: count a reference to what its functions are made of, and uncount it."""
    for each in [*vars(module).values()]:
        for function in (each, *(vars(each).values() if isinstance(each, type) else ())):
            code = getattr(function, "__code__", None)
            if code is not None and function.__module__ == module.__name__:
                for part in (*code.co_consts, *code.co_names, *code.co_varnames):
                    del part
