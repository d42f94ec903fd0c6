"""Starts a program beside a run: the daemon's side of `execs`.

The supervisor starts it, so that it is where the run's own program is. The daemon makes the pipes or the terminal and
keeps their near ends: what the program reads and writes never passes through the supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket

from cumulus.backends.process import feeding, layout
from cumulus.errors import BackendError, NotRunning, UsageError
from cumulus.lib import terminals, unix_socket
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
        # From here on an event loop uses it. A supervisor that is slow misses a size of the terminal.
        control.setblocking(False)
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
            terminals.set_size(self.stdout, columns, rows)

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


class _Attached(ProcessExecution):
    """One who is attached to the terminal of the run's own program."""

    def resize(self, columns: int, rows: int) -> None:
        with contextlib.suppress(OSError):
            self._control.send(json.dumps([columns, rows]).encode())


def attach(directory: str, *, stdin: bool) -> ProcessExecution:
    """Join the terminal of the program that runs in that directory. Raises `NotRunning`, `BackendError`."""
    (keyboard, screen, errors), far = _pipes(stdin=stdin)
    os.close(errors)
    os.close(far.pop())
    streams = far if stdin else far[1:]
    try:
        control = _connected(os.path.join(directory, layout.EXECS))
        socket.send_fds(control, [json.dumps({"attach": True}).encode()], streams)
    except BaseException:
        for descriptor in {keyboard, screen} - {-1}:
            os.close(descriptor)
        raise
    finally:
        for descriptor in far:
            os.close(descriptor)
    return _Attached(control, keyboard, screen, -1, terminal=False)


class _Feeding(ProcessExecution):
    """One who gives the run's program its input: the end of its pipe is theirs, and says nothing of whether that was
    all."""

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            with contextlib.suppress(OSError):
                self._control.send(feeding.END)
            os.close(self.stdin)
            self.stdin = -1


def feed(directory: str) -> ProcessExecution:
    """Give the program that runs in that directory its input. Raises `NotRunning`, `BackendError`."""
    control = _connected(os.path.join(directory, layout.EXECS))
    try:
        control.send(json.dumps({"feed": True}).encode())
        said, descriptors, _, _ = socket.recv_fds(control, layout.MOST_ASKED, 1, socket.MSG_CMSG_CLOEXEC)
        if not descriptors:
            raise NotRunning(str(json.loads(said)[1]) if said else "its supervisor gives its program no input")
    except OSError as error:
        control.close()
        raise NotRunning(f"its supervisor gives its program no input: {error.strerror or 'time-out'}") from None
    except BaseException:
        control.close()
        raise
    return _Feeding(control, descriptors[0], -1, -1, terminal=False)


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
    terminals.set_size(far, asked.columns, asked.rows)
    return (near, near, -1), [far]


def _pipes(*, stdin: bool) -> tuple[tuple[int, int, int], list[int]]:
    if stdin:
        read, write = os.pipe2(os.O_CLOEXEC)
    else:
        read, write = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1
    out, far_out = os.pipe2(os.O_CLOEXEC)
    err, far_err = os.pipe2(os.O_CLOEXEC)
    return (write, out, err), [read, far_out, far_err]
