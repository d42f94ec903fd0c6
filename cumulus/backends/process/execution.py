"""Starts a program beside a run: the daemon's side of `execs`.

The supervisor starts it, so that it is where the run's own program is. The daemon makes the pipes or the terminal and
keeps their near ends: what the program reads and writes never passes through the supervisor.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import termios

from cumulus.backends.process import layout
from cumulus.errors import BackendError, NotRunning, UsageError
from cumulus.lib import unix_socket
from cumulus.lib.execution import ExecRequest, Exit

_SECONDS = 10.0
"""Within which a supervisor must take a request."""
_EOF = b"\x04"
"""What a terminal takes for the end of input where a line begins."""


class ProcessExecution:
    """See `lib.execution.Execution`."""

    def __init__(self, control: socket.socket, stdin: int, stdout: int, stderr: int, *, terminal: bool) -> None:
        self._control = control
        self._terminal = terminal
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self.done = control.fileno()
        for descriptor in (stdin, stdout, stderr):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)

    def exit(self) -> Exit:
        try:
            said = self._control.recv(layout.MOST_ASKED)
        except OSError:
            said = b""
        if not said:
            return Exit(None, "the job has ended")
        code, message = json.loads(said)
        return Exit(code, message)

    def resize(self, columns: int, rows: int) -> None:
        if self._terminal and self.stdout >= 0:
            set_size(self.stdout, columns, rows)

    def close_stdin(self) -> None:
        if self.stdin < 0:
            return
        if self._terminal:
            with contextlib.suppress(OSError):
                os.write(self.stdin, _EOF)
        else:
            os.close(self.stdin)
        self.stdin = -1

    def close(self) -> None:
        for descriptor in {self.stdin, self.stdout, self.stderr} - {-1}:
            os.close(descriptor)
        self.stdin = self.stdout = self.stderr = self.done = -1
        self._control.close()


def begin(directory: str, asked: ExecRequest) -> ProcessExecution:
    """Have the supervisor of the run in that directory start the program. Raises `NotRunning`, `BackendError`."""
    request = json.dumps({"command": asked.command, "terminal": asked.terminal}).encode()
    if len(request) > layout.MOST_ASKED:
        raise UsageError("the command is too long")
    near, far = _terminal(asked) if asked.terminal else _pipes(stdin=asked.stdin)
    try:
        control = _connected(os.path.join(directory, layout.EXECS))
        try:
            socket.send_fds(control, [request], far)
        except OSError as error:
            control.close()
            raise NotRunning(f"its supervisor does not take a program: {error.strerror}") from None
    except BaseException:
        for descriptor in set(near) - {-1}:
            os.close(descriptor)
        raise
    finally:
        for descriptor in set(far):
            os.close(descriptor)
    return ProcessExecution(control, *near, terminal=bool(asked.terminal))


def set_size(descriptor: int, columns: int, rows: int) -> None:
    """Of a terminal; numbers that are none a terminal can have are left out."""
    if 0 < columns < 2**16 and 0 < rows < 2**16:
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _connected(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.settimeout(_SECONDS)
    try:
        with unix_socket.short(path) as address:
            made.connect(address)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        made.close()
        raise NotRunning(
            "its program has not started yet or has ended; or an older version of Cumulus started it, and nothing can "
            "be started beside it"
        ) from None
    except OSError as error:
        made.close()
        raise BackendError(f"its supervisor does not answer: {error.strerror or 'time-out'}") from None
    return made


def _terminal(asked: ExecRequest) -> tuple[tuple[int, int, int], list[int]]:
    near, far = os.openpty()
    set_size(far, asked.columns, asked.rows)
    return (near, near, -1), [far]


def _pipes(*, stdin: bool) -> tuple[tuple[int, int, int], list[int]]:
    if stdin:
        read, write = os.pipe2(os.O_CLOEXEC)
    else:
        read, write = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1
    out, far_out = os.pipe2(os.O_CLOEXEC)
    err, far_err = os.pipe2(os.O_CLOEXEC)
    return (write, out, err), [read, far_out, far_err]
