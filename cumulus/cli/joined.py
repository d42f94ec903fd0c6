"""A program on a node, joined to this command's standard streams or to its terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext

from cumulus.cli import log_output, raw_terminal
from cumulus.client.programs import RemoteProgram, Streams
from cumulus.errors import UsageError
from cumulus.lib import safe_output


def check_terminal() -> None:
    """Raises UsageError where there is none that could be joined to a program."""
    if sys.platform == "win32":
        raise UsageError("-t takes a terminal of Unix", hint="leave -t out; -i alone passes input on")
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("-t needs a terminal, and standard input is none", hint="leave -t out")


class DetachKeys:
    """Hears whether the keys were typed at which the other side lets go: Ctrl-P Ctrl-Q, as in docker."""

    _KEYS = b"\x10\x11"

    def __init__(self) -> None:
        self._last = b""
        self.seen = False

    def __call__(self, data: bytes) -> None:
        data = self._last + data
        self.seen = self.seen or self._KEYS in data
        self._last = data[-1:]


def join(program: RemoteProgram, *, stdin: bool, tty: bool, typed: Callable[[bytes], None] = lambda data: None) -> int:
    """Until the program has ended: its exit code. A terminal gets what it writes as it is with `tty`, as from ssh; else
    as from a log."""
    given = sys.stdin.fileno() if stdin else None
    if tty:
        screen = safe_output.raw(sys.stdout).buffer

        def show(data: bytes) -> None:
            screen.write(data)
            screen.flush()

        streams = Streams(show, show, given, raw_terminal.size, typed)
        with raw_terminal.raw() if stdin else nullcontext():
            return program.run(streams)
    out, error = log_output.LogOutput(sys.stdout), log_output.LogOutput(sys.stderr)
    try:
        return program.run(Streams(out.write, error.write, given))
    finally:
        out.end()
        error.end()
