"""The standard input of a command that waits for one: the end of a pipe, which one who feeds it gets, once. Used by the
supervisor only.

The supervisor keeps that end open too. So the command reads the end of its input where whoever feeds it says that this
was all; where they go away without a word, it gets SIGHUP first: half an input never looks like a whole one. Standard
library only.
"""

from __future__ import annotations

import _socket
import array
import contextlib
import os
from signal import SIGCONT, SIGHUP

GIVEN, END = b"given", b"end"
"""What comes with the descriptor, and what is said once all is written."""


class ProcessInput:
    """`descriptor` is the writable end; `leader` leads the command's process group."""

    def __init__(self, descriptor: int, leader: int) -> None:
        self._descriptor = descriptor
        self._leader = leader
        self._given = False

    def give(self, connection: _socket.socket) -> bool:
        """Hand the end over. False where that was done before. Raises OSError."""
        if self._given:
            return False
        rights = array.array("i", [self._descriptor])
        connection.sendmsg([GIVEN], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        self._given = True
        return True

    def take(self, connection: _socket.socket) -> bool:
        """Something came on the connection of the one who feeds it: whether that was the word that all is written.
        Else they have gone."""
        try:
            whole = connection.recv(len(END)) == END
        except OSError:
            whole = False
        if not whole:
            for number in (SIGHUP, SIGCONT):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._leader, number)
        os.close(self._descriptor)
        return whole
