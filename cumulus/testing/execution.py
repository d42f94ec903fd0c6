"""What the fake backend starts beside a workload."""

from __future__ import annotations

import os
import socket
import threading

from cumulus.lib.execution import ExecRequest, Exit


class FakeExecution:
    """See `lib.execution.Execution`. It writes the first word of its command, then what comes as its input, and ends
    with the number that its last word is, else 0."""

    def __init__(self, asked: ExecRequest) -> None:
        self.sizes: list[tuple[int, int]] = []
        self._code = int(asked.command[-1]) if asked.command[-1].isdecimal() else 0
        read, self.stdin = os.pipe() if asked.stdin else (-1, -1)
        self.stdout, write = os.pipe()
        self.stderr = -1
        self.done, end = os.pipe()
        word = asked.command[0].encode() + b"\n"
        threading.Thread(target=_run, args=(word, read, write, end), daemon=True).start()
        for descriptor in (self.stdin, self.stdout):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)

    def exit(self) -> Exit:
        return Exit(self._code)

    def resize(self, columns: int, rows: int) -> None:
        self.sizes.append((columns, rows))

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def close(self) -> None:
        self.close_stdin()
        for descriptor in (self.stdout, self.done):
            os.close(descriptor)


def _run(word: bytes, read: int, write: int, end: int) -> None:
    try:
        os.write(write, word)
        while read >= 0 and (data := os.read(read, 65536)):
            os.write(write, data)
    except BrokenPipeError:
        pass
    finally:
        for descriptor in {read, write, end} - {-1}:
            os.close(descriptor)


def echoing() -> socket.socket:
    """A connection to what gives back all that it gets, until it gets no more."""
    near, far = socket.socketpair()

    def echo() -> None:
        with far:
            while data := far.recv(65536):
                far.sendall(data)

    threading.Thread(target=echo, daemon=True).start()
    return near
