"""Runs programs for a Source: as its submitter, with an environment of its own, and with limits on time and size.

run(["git", "version"], user=None, environment={}, limits=Limits(seconds=5)).output
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from cumulus.errors import CumulusError
from cumulus.lib.unix_user import LOGIN_PATH, UnixUser

_NOT_FOUND = 127
_MOST_SAID = 16 * 2**10
"""Kept of what a program says on stderr, in bytes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program and what it starts."""

    seconds: float = 60.0
    output: int = 64 * 2**20
    """Bytes of stdout."""
    file: int = 2**30
    """Bytes of each file that it writes."""


class FinishedProgram(NamedTuple):
    """`code` is negative where a signal ended it."""

    code: int
    output: bytes
    said: str


class OverLimit(CumulusError):
    """A program took longer, or wrote more, than it may. It was killed, with all that it started."""


def run(
    arguments: Sequence[str], *, user: UnixUser | None, environment: Mapping[str, str], limits: Limits = Limits(),
    given: bytes = b"",
) -> FinishedProgram:  # fmt: skip
    """Run a program to its end. `user`: whom it runs as, None for this process's own user. Nothing of this process's
    environment is handed on. Raises OverLimit, OSError where it cannot be started."""
    switch: dict[str, Any] = {}
    if user is not None and user.uid != os.geteuid():
        switch = {"user": user.uid, "group": user.gid, "extra_groups": list(user.groups), "umask": 0o077}
    # By a shell of the user's own: root of a container may not limit another user's process.
    limited = ["/bin/sh", "-c", 'ulimit -f "$0" 2>/dev/null; exec "$@"', str(limits.file // 512), *arguments]
    process = subprocess.Popen(
        limited, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
        env={"PATH": LOGIN_PATH, "LC_ALL": "C", **environment}, start_new_session=True, close_fds=True, **switch,
    )  # fmt: skip
    try:
        output, said = _talk(process, os.path.basename(arguments[0]), given, limits)
        code = process.wait(max(0.1, limits.seconds))
    except subprocess.TimeoutExpired:
        raise OverLimit(f"{os.path.basename(arguments[0])} took longer than {limits.seconds:g} s") from None
    finally:
        # Also what it left behind in its session.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
    if code == _NOT_FOUND and not output:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])
    if code == -signal.SIGXFSZ:
        raise OverLimit(f"{arguments[0]} would write a file of more than {limits.file // 2**20} MiB")
    return FinishedProgram(code, output, said.decode("utf-8", "replace").strip())


def _talk(process: subprocess.Popen[bytes], name: str, given: bytes, limits: Limits) -> tuple[bytes, bytes]:
    deadline = time.monotonic() + limits.seconds
    parts: dict[Any, list[bytes]] = {process.stdout: [], process.stderr: []}
    sizes = dict.fromkeys(parts, 0)
    left = memoryview(given)
    with selectors.DefaultSelector() as selector:
        for pipe in parts:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ)
        assert process.stdin is not None
        if left:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                raise OverLimit(f"{name} took longer than {limits.seconds:g} s")
            for key, _ in ready:
                ready_pipe: Any = key.fileobj
                if ready_pipe is process.stdin:
                    left = _fed(process.stdin, left)
                    if not left:
                        selector.unregister(ready_pipe)
                        with suppress(BrokenPipeError):
                            ready_pipe.close()
                    continue
                data = os.read(ready_pipe.fileno(), 2**20)
                if not data:
                    selector.unregister(ready_pipe)
                    continue
                sizes[ready_pipe] += len(data)
                if ready_pipe is process.stdout and sizes[ready_pipe] > limits.output:
                    raise OverLimit(f"{name} gave more than {limits.output // 2**20} MiB")
                if ready_pipe is process.stdout or sizes[ready_pipe] <= _MOST_SAID:
                    parts[ready_pipe].append(data)
    output, said = parts.values()
    return b"".join(output), b"".join(said)


def _fed(pipe: IO[bytes], left: memoryview) -> memoryview:
    try:
        return left[os.write(pipe.fileno(), left[: 2**16]) :]
    except BrokenPipeError:
        return left[:0]
