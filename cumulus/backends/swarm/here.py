"""The daemon's own machine among the nodes: its processes are runs of another backend, and what they saved is on this
disk. So a checkpoint comes from there to a node, and from a node to there."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Protocol, cast

from cumulus.backends.swarm.checkpoint_programs import CheckpointPrograms
from cumulus.backends.swarm.records import UPLOADER, Record
from cumulus.errors import BackendError
from cumulus.uploader import files

Runs = Callable[[str], Sequence[tuple[str, Mapping[str, Any]]]]
"""The uid of a job -> directory and specification of each of its runs here (`process.specification`)."""

_CHUNK = 2**18
STALL_SECONDS = 120.0
"""How long a program may neither take nor give anything."""


class LocalRuns:
    """Runs on this machine. `node`: what it is called. `runs`: of the backend of its processes."""

    def __init__(self, node: str, runs: Runs) -> None:
        self.node = node
        self.checkpoints: CheckpointPrograms = _OwnPrograms(_OwnShell(), "")
        self._runs = runs

    def runs(self, job_uid: str) -> Sequence[Record]:
        """Those of the job here, as this backend's own."""
        found = []
        for directory, spec in self._runs(job_uid):
            # One that is damaged, or that an older version wrote.
            with contextlib.suppress(KeyError, TypeError, AttributeError):
                found.append(_Process(directory, _start(spec)))
        return found


class _Process(Record):
    def read(self, file: str) -> dict[str, Any] | None:
        """Of a run's files here, only what says whether it was copied is looked at."""
        copied = file == UPLOADER and self.start.get("checkpoint", {}).get("uri")
        return {"error": "", "user": None} if copied else None


def _start(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a service would say."""
    asked = spec.get("checkpoint") or {}
    kept = {"place": asked["path"], "user": spec.get("user"), "uri": asked.get("uri", "")} if asked.get("path") else {}
    fields = ("name", "job_uid", "namespace", "job", "attempt", "replica", "node")
    return {**{field: spec[field] for field in fields}, "checkpoint": kept}


class _OwnPrograms(CheckpointPrograms):
    """Those of this installation."""

    def _command(self, words: Sequence[str]) -> str:
        program, *more = words
        assert program == "files"
        return shlex.join([sys.executable, "-I", "-S", files.__file__, *more])


class _OwnShell:
    """`Feeds` and `Streams` without a node."""

    def run(self, command: str, seconds: float) -> tuple[int, str, str]:
        done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=seconds, check=False, env={})
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def feed(self, command: str, chunks: Iterable[bytes]) -> tuple[int, str, str]:
        with _started(command) as (process, errors, moves):
            try:
                for chunk in chunks:
                    left = memoryview(chunk)
                    while left:
                        with moves:
                            left = left[process.stdin.write(left) :]
            except BrokenPipeError:
                pass  # It has ended, and says why.
            except BaseException:
                # Its input is cut off: it keeps nothing of it.
                process.stdin.close()
                with moves:
                    process.wait()
                raise
            process.stdin.close()
            with moves:
                output = process.stdout.read()
            code = process.wait()
            moves.check()
            errors.seek(0)
            return code, output.decode(errors="replace"), errors.read(2**16).decode(errors="replace")

    def read(self, command: str, given: bytes) -> Iterator[bytes]:
        with _started(command) as (process, _, moves):
            # One that has ended already says why.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(given)  # A line, which a pipe has room for.
            process.stdin.close()
            while True:
                with moves:
                    chunk = process.stdout.read(_CHUNK)
                if not chunk:
                    moves.check()
                    return
                yield chunk


class _Moves:
    """Kills a program that neither takes nor gives anything for long: the job may have put its files where nobody
    answers. Entered while something is expected of it."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill = kill
        self._turns = 0
        """Odd while something is expected."""
        self._over = threading.Event()
        self._killed = False
        self._thread = threading.Thread(target=self._watch, name="own-files", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        self._turns += 1

    def __exit__(self, *_: object) -> None:
        self._turns += 1

    def check(self) -> None:
        if self._killed:
            raise BackendError(f"what reads and writes checkpoints here did nothing for {STALL_SECONDS:.0f}s")

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        seen = 0
        while not self._over.wait(STALL_SECONDS):
            if self._turns % 2 and self._turns == seen:
                self._killed = True
                self._kill()
                return
            seen = self._turns


class _Pipes(Protocol):
    """A process with both pipes, unbuffered: what is written has gone, and what is there is read."""

    stdin: IO[bytes]
    stdout: IO[bytes]

    def wait(self) -> int: ...


@contextlib.contextmanager
def _started(command: str) -> Iterator[tuple[_Pipes, IO[bytes], _Moves]]:
    """A program that ends with the block, its errors, and who watches it. Raises BackendError."""
    with contextlib.ExitStack() as stack:
        try:
            errors = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                cwd="/", env={}, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            raise BackendError(f"no checkpoints can be read or written here: {error.strerror}") from None
        stack.enter_context(process)
        moves = _Moves(process.kill)
        stack.callback(process.kill)
        stack.callback(moves.close)
        yield cast(_Pipes, process), errors, moves
