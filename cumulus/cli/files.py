"""The files that jobs leave in directories of their own, which go with the job: where they are, and saying so."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cumulus import paths
from cumulus.backends.process import layout
from cumulus.backends.rundir.layout import JOBS
from cumulus.cli import terminal
from cumulus.resources.key import Document

_RUN = re.compile(r"a(\d+)-r(\d+)")
_NAMED = 5


def directory(job: Document) -> Path:
    """Below it is all that goes with the job: working directories, logs, checkpoints at relative paths."""
    return paths.process_dir(paths.home()) / JOBS / str(job["metadata"].get("uid"))


def working_directories(job: Document) -> list[Path]:
    """Those that were made for the job's replicas and are there, by attempt and replica."""
    found = [(int(match[1]), int(match[2]), path) for match, path in _runs(directory(job)) if match]
    return [work for *_, path in sorted(found) if (work := path / layout.WORK).is_dir()]


def tell_of_loss(jobs: Sequence[Document]) -> None:
    """Say on stderr which of these jobs, which are being deleted, take files with them, and when."""
    losing = [job for job in jobs if _has_files(job)]
    if not losing:
        return
    when = "once their processes have ended" if len(losing) > 1 else "once its processes have ended"
    if len(losing) == 1:
        terminal.note(f"The files in {directory(losing[0])} go with job {losing[0]['metadata']['name']}, {when}.")
        return
    names = [str(job["metadata"]["name"]) for job in losing[:_NAMED]]
    more = [f"{len(losing) - _NAMED} more"] if len(losing) > _NAMED else []
    of = ", ".join([*names, *more])
    terminal.note(f"The files of {len(losing)} jobs in {directory(losing[0]).parent} go with them, {when}: {of}.")


def _has_files(job: Document) -> bool:
    """Whether a program wrote any. Its log does not count."""
    kept = directory(job) / layout.CHECKPOINT
    return any(_is_filled(place) for place in (*working_directories(job), kept))


def _is_filled(place: Path) -> bool:
    try:
        with os.scandir(place) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _runs(place: Path) -> Iterator[tuple[re.Match[str] | None, Path]]:
    try:
        names = os.listdir(place)
    except OSError:
        # Of another user, or of a job whose processes run elsewhere.
        return
    for name in names:
        yield _RUN.fullmatch(name), place / name
