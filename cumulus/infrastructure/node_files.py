"""Files of jobs on the nodes where they ran, read by a process that is the job's user: here, or on another node."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from cumulus.errors import BackendError
from cumulus.lib.printable import one_line
from cumulus.lib.unix_user import UnixUser
from cumulus.uploader import files

if TYPE_CHECKING:
    from cumulus.backends.swarm.checkpoint_programs import CheckpointPrograms

_LONGEST_LINE = 64 * 2**10
LONGEST = {
    "list": 30.0, "copied": 30.0, "prune": 300.0, "verify": 3600.0, "send": 6 * 3600.0, "changed": 3600.0
}  # fmt: skip
"""Seconds that it may take."""

Output = contextlib.AbstractContextManager[IO[bytes]]


@contextlib.contextmanager
def read_there(programs: CheckpointPrograms, user: UnixUser | None, *words: str) -> Iterator[IO[bytes]]:
    """On another node."""
    with contextlib.closing(programs.read(user, *words)) as chunks:
        yield io.BufferedReader(_Chunks(chunks))


class _Chunks(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            try:
                self._left = next(self._chunks)
            except StopIteration:
                return 0
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def read_here(user: UnixUser | None, *words: str) -> Output:
    """On this machine."""
    command = [sys.executable, "-I", "-S", files.__file__, *words]
    return running(command, json.dumps(user).encode() + b"\n", LONGEST[words[0]], {})


@contextlib.contextmanager
def running(
    command: Sequence[str], given: bytes, longest: float, environment: Mapping[str, str]
) -> Iterator[IO[bytes]]:
    """What a program says that reads `given`; it ends with the block."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        close_fds=True,
    )  # fmt: skip
    # The job may have put its files where nobody answers.
    patience = threading.Timer(longest, process.kill)
    patience.daemon = True
    patience.start()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(given)
            process.stdin.close()
        yield process.stdout
    finally:
        patience.cancel()
        process.kill()
        process.stdout.close()
        process.wait()


def line_of(said: IO[bytes]) -> dict[str, Any] | None:
    """The next line; None at the end. Raises BackendError where it says what is wrong, or is none."""
    line = said.readline(_LONGEST_LINE)
    if not line:
        return None
    try:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError
    except ValueError:
        raise BackendError("the job's files cannot be read: what reads them makes no sense") from None
    if "error" in document:
        raise BackendError(one_line(str(document["error"])))
    return document


def exactly(said: IO[bytes], size: int) -> bytes:
    data = said.read(size)
    if len(data) != size:
        raise BackendError("what was sent changed while it was read", hint="ask again")
    return data
