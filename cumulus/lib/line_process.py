"""A helper process that answers lines of JSON, as `line_answers` does: one that hangs is given up, and nothing else
hangs with it.

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

from cumulus.lib.readable import is_readable

_LONGEST_ANSWER = 2**22
_CLOSE_SECONDS = 0.2


class LineProcess:
    """`python -I -S PATH`, started by the first `ask`. For one thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The answer. Raises OSError, a TimeoutError where there is none in time, and ValueError: close it then."""
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", self._path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            )  # fmt: skip
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(request).encode() + b"\n")
        found: dict[str, Any] = json.loads(read_line(child.stdout, seconds, _LONGEST_ANSWER))
        return found

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        # One that hangs in its driver ends when that lets go of it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_CLOSE_SECONDS)


def read_line(stream: IO[bytes], seconds: float, longest: int) -> bytes:
    """The one line that comes, from a stream without a buffer. Raises TimeoutError where it does not end in time, or
    is longer."""
    line = b""
    deadline = time.monotonic() + seconds
    while not line.endswith(b"\n"):
        part = os.read(stream.fileno(), 65536) if is_readable(stream, deadline - time.monotonic()) else b""
        if not part or len(line) > longest:
            raise TimeoutError("the driver does not answer")
        line += part
    return line
