"""A program that is started beside a running job: what is asked for, and the near ends of its streams.

Standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import socket

MARK = "CUMULUS_EXEC"
"""The variable that each such program has: another text for each, by which what it has started is found too."""


ALONE_SECONDS = 60.0
"""For which a program at a terminal goes on with nobody attached to it."""
DETACH = b"\x10\x11"
"""What is typed to leave it alone: Ctrl-P Ctrl-Q, as in docker."""


class ExecRequest(NamedTuple):
    """What to start. With a `terminal`, the name of its kind as in TERM, all three streams are one terminal."""

    command: tuple[str, ...]
    stdin: bool = False
    """Without it, standard input is empty."""
    terminal: str = ""
    columns: int = 0
    rows: int = 0


class Exit(NamedTuple):
    """How a program ended: 128+N for signal N; None where it ended with what it ran beside, or nobody saw it."""

    code: int | None
    message: str = ""
    """Why it never started, or was ended."""


class Execution(Protocol):
    """A started program. The descriptors never block; -1 stands for one that there is not."""

    stdin: int
    stdout: int
    """With a terminal the same descriptor as `stdin`, or another of the same terminal."""
    stderr: int
    done: int
    """Becomes readable when the program has ended. What it wrote is in the streams then."""

    def exit(self) -> Exit:
        """How it ended; once `done` is readable."""
        ...

    def resize(self, columns: int, rows: int) -> None:
        """Of its terminal; without one nothing happens."""
        ...

    def close_stdin(self) -> None:
        """Nothing more comes: the program reads the end of its input."""
        ...

    def close(self) -> None:
        """Let go of the program. Where it runs it gets SIGHUP, and SIGKILL some seconds later."""
        ...


class Reach(Protocol):
    """The ways to a program of a job while it runs. Each raises `NotRunning` where it does not, and `BackendError`."""

    def exec(self, asked: ExecRequest) -> Execution:
        """Start a program beside it: where it is, as whom it runs, in its leases and its environment. That ends with
        it."""
        ...

    def attach(self, *, stdin: bool) -> Execution:
        """Join its terminal, where it has one, and type there with `stdin`. It goes on where the execution is
        closed."""
        ...

    def feed(self) -> Execution:
        """Give it its standard input, where it waits for one: once. It reads the end of it after `close_stdin`; where
        the execution is closed before that was all taken, it gets SIGHUP. `done` once it was taken."""
        ...

    def connect(self, port: int) -> socket.socket:
        """A connection to a TCP port at which one of its processes listens; to no other."""
        ...
