"""The daemon's own machine among the nodes: its processes are runs of another backend, and what they saved is on this
disk. So a checkpoint comes from there to a node, and from a node to there."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cumulus.backends.swarm.checkpoint_programs import CheckpointPrograms
from cumulus.backends.swarm.records import UPLOADER, Record
from cumulus.uploader import files

Runs = Callable[[str], Sequence[tuple[str, Mapping[str, Any]]]]
"""The uid of a job -> directory and specification of each of its runs here (`process.specification`)."""

_CHUNK = 2**18


class Here:
    """`node`: what this machine is called. `runs`: of the backend of its processes."""

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
        with tempfile.TemporaryFile() as errors, self._started(command, errors) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                for chunk in chunks:
                    process.stdin.write(chunk)
                    process.stdin.flush()
                process.stdin.close()
            except BrokenPipeError:
                pass  # It has ended, and says why.
            except BaseException:
                # Its input is cut off: it keeps nothing of it.
                process.stdin.close()
                process.wait()
                raise
            output = process.stdout.read()
            code = process.wait()
            errors.seek(0)
            return code, output.decode(errors="replace"), errors.read(2**16).decode(errors="replace")

    def read(self, command: str, given: bytes) -> Iterator[bytes]:
        with tempfile.TemporaryFile() as errors, self._started(command, errors) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(given)
                process.stdin.close()
                while chunk := process.stdout.read(_CHUNK):
                    yield chunk
            finally:
                # Nobody may want the rest.
                process.kill()

    def _started(self, command: str, errors: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            env={},
        )
