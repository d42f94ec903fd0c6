"""One save of one step by all ranks: whole for all of them, or for none.

start:  all agree on the step; rank 0 makes the directory; each rank has its part of it
finish: each makes its part durable; rank 0 writes the one manifest and publishes
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any, Callable

from .groups import Group, RankFailed, RanksApart, agree
from .layout import CheckpointError, File, FilesManifest, rank_name, step_name, step_of
from .writing import CheckpointWriter, ManifestFacts, begin, seal


class Voided(CheckpointError):
    """Not all ranks could save this step: there is no checkpoint of it."""


class GangSave:
    """Make it on all ranks with the same step. Raises `Voided`, OSError."""

    def __init__(self, group: Group, path: str, step: int, *, shared: bool = False) -> None:
        """`shared`: all ranks write into one directory, each under names of its own."""
        self._group = group
        self._step = step
        self._shared = shared
        self._writer: CheckpointWriter | None = None
        self._mine = "" if group.world == 1 or shared else f"{rank_name(group.rank)}/"
        steps = sorted({*self._agree(lambda: step_of(step_name(step)))})
        if len(steps) != 1:
            raise Voided(f"ranks save different steps: {', '.join(map(str, steps))}")
        self._top = str(self._agree(lambda: self._begin(path) if group.rank == 0 else None)[0])
        self.directory = os.path.join(self._top, self._mine).rstrip("/")
        self._agree(self._enter)

    def finish(self, seconds: Callable[[], float], facts: ManifestFacts, known: Mapping[str, File]) -> FilesManifest:
        """Make it a checkpoint. Raises `Voided`, `Damaged`, OSError."""
        group = self._group
        if self._shared:
            self._agree(lambda: None)  # All have written.
        parts = self._agree(lambda: [[*_fields(file)] for file in self._seal(known)])
        files = [File(*fields) for part in parts for fields in part]

        def publish() -> list[Any] | None:
            if self._writer is None:
                return None
            manifest = self._writer.commit(files, seconds, facts)
            return [manifest.saved_at, manifest.seconds]

        saved_at, took = self._agree(publish)[0]
        return FilesManifest(self._step, saved_at, took, group.world, facts.attempt, facts.token, tuple(files))

    def void(self, error: BaseException) -> None:
        """This rank cannot save. Tells the others, unless the program ends."""
        if isinstance(error, Exception):
            # What the others hear in the round in which they tell of their parts. They may be gone, too.
            with contextlib.suppress(type(error), RankFailed, RanksApart):
                agree(self._group, lambda: _raise(error))
        self._abandon()

    def _begin(self, path: str) -> str:
        self._writer = begin(path, self._step)
        return self._writer.directory

    def _enter(self) -> None:
        if not os.path.isdir(self._top):
            raise FileNotFoundError(
                f"rank {self._group.rank} does not see {self._top}: the ranks of a gang need a checkpoint path that "
                "all their nodes share"
            )
        if self._mine:
            os.mkdir(self.directory, 0o700)

    def _seal(self, known: Mapping[str, File]) -> list[File]:
        if not self._shared:
            return seal(self.directory, self._step, self._mine, known=known)
        group = self._group
        return seal(self._top, self._step, part=lambda path: share(path, group.world) == group.rank)

    def _agree(self, act: Callable[[], Any]) -> list[Any]:
        """Do something on each rank, and hear what came of it everywhere. Raises this rank's own error, or `Voided`."""
        try:
            return agree(self._group, act)
        except RankFailed as failed:
            self._abandon()
            raise Voided(f"the checkpoint of step {self._step} is void: {failed}") from failed
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None


def _raise(error: BaseException) -> None:
    raise error


def _fields(file: File) -> tuple[str, int, str]:
    return file.path, file.size, file.sha256


def share(path: str, world: int) -> int:
    """Which rank reads a file, where ranks share that work."""
    return sum(path.encode("utf-8", "surrogateescape")) % world
