"""The checkpoints of jobs that run as processes of this machine, for the service."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from cumulus import paths
from cumulus.answers.checkpoints import (
    CheckpointBytes,
    CheckpointCopied,
    CheckpointFile,
    CheckpointFound,
    CheckpointManifest,
    CheckpointPiece,
)
from cumulus.backends.process.backend import ProcessBackend
from cumulus.errors import BackendError, NotFound
from cumulus.infrastructure import checkpoint_files
from cumulus.lib.printable import one_line
from cumulus.lib.unix_user import UnixUser
from cumulus.resources.key import Document
from cumulus.secrets import JobSecrets

_CHUNK = 256 * 2**10
_LONGEST_LINE = 64 * 2**10
_LONGEST = {"list": 30.0, "copied": 30.0, "prune": 300.0, "verify": 3600.0, "send": 6 * 3600.0}
"""Seconds that it may take."""


class CheckpointFiles:
    """See `service.infrastructure.CheckpointReader`. What it reads, it reads as the job's user, in another process."""

    def __init__(self, home: Path, job: Document, node: str) -> None:
        directory = paths.process_dir(home)
        place = None
        if directory.exists():
            backend = ProcessBackend(directory, node, JobSecrets(paths.job_secrets_dir(home)))
            place = backend.checkpoint_place(job["metadata"]["uid"])
            backend.close()
        if place is None:
            raise NotFound(f"gpujob/{job['metadata']['name']} has no checkpoints here", hint="it has not run yet")
        self.path, self._user = place

    def list(self) -> Sequence[CheckpointFound]:
        with _reading(self._user, "list", self.path) as said:
            return [*_found(said)]

    def copied(self) -> CheckpointCopied | None:
        with _reading(self._user, "copied", self.path) as said:
            line = _line(said)
        return None if not line else CheckpointCopied(**{**line, "problem": one_line(str(line["problem"]))})

    def verify(self, step: int | None) -> Iterator[CheckpointFound]:
        with _reading(self._user, "verify", self.path, *_step(step)) as said:
            yield from _found(said)

    def send(self, step: int | None) -> Iterator[CheckpointPiece]:
        with _reading(self._user, "send", self.path, *_step(step)) as said:
            head = _line(said)
            if head is None:
                return
            yield CheckpointManifest(int(head["step"]), _exactly(said, int(head["size"])))
            while (file := _line(said)) is not None:
                left = int(file["size"])
                yield CheckpointFile(str(file["path"]), left)
                while left:
                    data = _exactly(said, min(_CHUNK, left))
                    left -= len(data)
                    yield CheckpointBytes(data)

    def prune(self, keep: int) -> Sequence[int]:
        with _reading(self._user, "prune", self.path, str(keep)) as said:
            return [int(step) for step in (_line(said) or {"gone": ()})["gone"]]


@contextlib.contextmanager
def _reading(user: UnixUser | None, *words: str) -> Iterator[IO[bytes]]:
    """What the program of `checkpoint_files` says; it ends with the block. Raises BackendError where it fails."""
    command = [sys.executable, "-I", "-S", checkpoint_files.__file__, *words]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, close_fds=True
    )
    # The job may have put its files where nobody answers.
    patience = threading.Timer(_LONGEST[words[0]], process.kill)
    patience.daemon = True
    patience.start()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(user).encode() + b"\n")
            process.stdin.close()
        yield process.stdout
    finally:
        patience.cancel()
        process.kill()
        process.stdout.close()
        process.wait()


def _line(said: IO[bytes]) -> dict[str, Any] | None:
    """The next line; None at the end. Raises BackendError where it says what is wrong, or is none."""
    line = said.readline(_LONGEST_LINE)
    if not line:
        return None
    try:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError
    except ValueError:
        raise BackendError("the checkpoints cannot be read: what reads them makes no sense") from None
    if "error" in document:
        raise BackendError(one_line(str(document["error"])))
    return document


def _exactly(said: IO[bytes], size: int) -> bytes:
    data = said.read(size)
    if len(data) != size:
        raise BackendError("the checkpoint changed while it was read", hint="ask again")
    return data


def _found(said: IO[bytes]) -> Iterator[CheckpointFound]:
    while (line := _line(said)) is not None:
        yield CheckpointFound(**line)


def _step(step: int | None) -> Sequence[str]:
    return () if step is None else (str(step),)
