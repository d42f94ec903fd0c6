"""The checkpoints of jobs on the nodes where they ran, for the service."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cumulus import paths
from cumulus.answers.checkpoints import (
    CheckpointBytes,
    CheckpointCopied,
    CheckpointFile,
    CheckpointFound,
    CheckpointManifest,
    CheckpointPiece,
)
from cumulus.backends.rundir.uploading import Beyond, NoKeys
from cumulus.clock import SystemClock, short_timestamp
from cumulus.errors import BackendError, NotFound, UsageError
from cumulus.infrastructure.left_on_nodes import elsewhere, here, programs_of
from cumulus.infrastructure.node_files import LONGEST, Output, exactly, line_of, read_here, read_there, running
from cumulus.lib.printable import one_line
from cumulus.lib.unix_user import UnixUser
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.secrets import JobSecrets
from cumulus.uploader import __main__ as uploader
from cumulus.uploader.config import Config

if TYPE_CHECKING:
    from cumulus.backends.swarm.checkpoint_programs import CheckpointPrograms

_CHUNK = 256 * 2**10
_Ask = Callable[..., Output]
"""A verb and its words -> what the program for files says, until the block ends. Raises BackendError."""


class NodeCheckpoints:
    """See `service.infrastructure.CheckpointReader`. What it reads, another process reads as the job's user."""

    def __init__(self, path: str, ask: _Ask) -> None:
        self.path = path
        self._ask = ask

    def list(self) -> Sequence[CheckpointFound]:
        with self._ask("list", self.path) as said:
            return [*_found(said)]

    def copied(self) -> CheckpointCopied | None:
        with self._ask("copied", self.path) as said:
            line = line_of(said)
        return None if not line else CheckpointCopied(**{**line, "problem": one_line(str(line["problem"]))})

    def verify(self, step: int | None) -> Iterator[CheckpointFound]:
        with self._ask("verify", self.path, *_step(step)) as said:
            yield from _found(said)

    def send(self, step: int | None) -> Iterator[CheckpointPiece]:
        with self._ask("send", self.path, *_step(step)) as said:
            head = line_of(said)
            if head is None:
                return
            yield CheckpointManifest(int(head["step"]), exactly(said, int(head["size"])))
            while (file := line_of(said)) is not None:
                left = int(file["size"])
                yield CheckpointFile(str(file["path"]), left)
                while left:
                    data = exactly(said, min(_CHUNK, left))
                    left -= len(data)
                    yield CheckpointBytes(data)

    def prune(self, keep: int) -> Sequence[int]:
        with self._ask("prune", self.path, str(keep)) as said:
            return [int(step) for step in (line_of(said) or {"gone": ()})["gone"]]


class CheckpointsBeyond:
    """See `service.infrastructure.CheckpointReader`: of those that a job keeps beyond its nodes, read from this
    machine."""

    def __init__(self, config: Config, variables: Mapping[str, str]) -> None:
        self.path = config.uri
        self._config = config
        self._variables = variables

    def list(self) -> Sequence[CheckpointFound]:
        now = SystemClock().now()
        found = []
        for one in self._answer("list", "-")["checkpoints"]:
            committed = short_timestamp(now - timedelta(seconds=float(one["age"])))
            # Tokens are the numbers of attempts.
            found.append(CheckpointFound(int(one["step"]), committed, int(one["size"]), attempt=int(one["token"])))
        return found

    def copied(self) -> CheckpointCopied | None:
        return None

    def verify(self, step: int | None) -> Iterator[CheckpointFound]:
        with self._scratch() as scratch:
            for found in self.list():
                if step is not None and found.step != step:
                    continue
                try:
                    said = self._answer("verify", scratch, str(found.step))
                    yield replace(found, files=int(said["files"]))
                except BackendError as error:
                    yield replace(found, problem=str(error))

    def send(self, step: int | None) -> Iterator[CheckpointPiece]:
        # A place that is away, or has none, is told soon: what follows is tried again for minutes.
        self.list()
        with self._scratch() as scratch:
            yield from NodeCheckpoints(scratch, self._ask).send(step)

    def prune(self, keep: int) -> Sequence[int]:
        self.list()
        with self._scratch() as scratch:
            return [int(step) for step in self._answer("prune", scratch, str(keep))["gone"]]

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[str]:
        """A temporary directory for the files that are read; it belongs to the user who reads them."""
        with tempfile.TemporaryDirectory(prefix="cumulus-checkpoint-") as directory:
            user = self._config.user
            if user is not None and os.geteuid() == 0:
                os.chown(directory, user.uid, user.gid)
            yield directory

    def _answer(self, *words: str) -> dict[str, Any]:
        with self._ask(*words) as said:
            found = line_of(said)
        if found is None:
            raise BackendError(f"{self.path} does not answer")
        return found

    def _ask(self, *words: str) -> Output:
        command = [sys.executable, "-I", "-X", "utf8", uploader.__file__, *words]
        return running(command, self._config.encode(), LONGEST[words[0]], self._variables)


def beyond(home: Path, job: Document, uri: str, variables: Mapping[str, str]) -> CheckpointsBeyond:
    """See `service.infrastructure.Infrastructure.checkpoints_beyond`. `variables`: this process's environment."""
    namespace, uid = job["metadata"].get("namespace") or "", job["metadata"]["uid"]
    asked = lookup(job, "spec.checkpoint") or {}
    user = None
    if uri.startswith("file://"):
        if lookup(job, "spec.image"):
            raise UsageError(
                f"{uri} is a directory of the nodes, which this machine may not have",
                hint="look there, or at the job's node: leave --beyond out",
            )
        place = here(home, lambda backend: backend.checkpoint_place(uid))
        if place is None:
            raise _not_here(job)
        user = place[1]
    place_of_job = Beyond(
        namespace, uid, uri, str(asked.get("credentials") or ""), 1, "", "",
        JobSecrets(paths.job_secrets_dir(home)).of(namespace), variables, user,
    )  # fmt: skip
    try:
        return CheckpointsBeyond(place_of_job.own(), variables)
    except NoKeys as error:
        raise UsageError(str(error)) from None


def reader(home: Path, job: Document, nodes: Callable[[str], Document | None]) -> NodeCheckpoints:
    """See `service.infrastructure.Infrastructure.checkpoint_reader`."""
    uid = job["metadata"]["uid"]
    there = elsewhere(home, lambda backend: backend.checkpoint_place(uid))
    if there is None and lookup(job, "spec.image"):
        raise UsageError(
            f"gpujob/{job['metadata']['name']} keeps its checkpoints in its container alone, or has not run yet",
            hint="name a directory on one of spec.mounts in checkpoint.path",
        )
    at_home = None if lookup(job, "spec.image") else here(home, lambda backend: backend.checkpoint_place(uid))
    attempts = [attempt for attempt in lookup(job, "status.attempts") or () if attempt.get("node")]
    if there is not None and (at_home is None or attempts[-1:] == [] or attempts[-1]["node"] == there[0]):
        name, path, whose = there
        return on_node(path, programs_of(home, nodes, name, "the checkpoints are"), whose)
    if at_home is None:
        raise _not_here(job)
    path, user = at_home
    return NodeCheckpoints(path, partial(read_here, user))


def _not_here(job: Document) -> NotFound:
    return NotFound(f"gpujob/{job['metadata']['name']} has no checkpoints here", hint="it has not run yet")


def on_node(path: str, programs: CheckpointPrograms, user: UnixUser | None) -> NodeCheckpoints:
    """The checkpoints in a directory of another node."""
    return NodeCheckpoints(path, partial(read_there, programs, user))


def _found(said: IO[bytes]) -> Iterator[CheckpointFound]:
    while (line := line_of(said)) is not None:
        yield CheckpointFound(**line)


def _step(step: int | None) -> Sequence[str]:
    return () if step is None else (str(step),)
