"""Tells people that the directories of jobs are deleted with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cumulus.cli import terminal

if TYPE_CHECKING:
    from cumulus.client.base import Client

_NAMED = 5


def tell_of_loss(client: Client, names: Mapping[str, str]) -> None:
    """Say on stderr which of these jobs, which are being deleted, take files with them, and when. `names`: each job's
    by its uid."""
    if not names:
        return
    found = zip(names.values(), client.job_files(list(names)), strict=True)
    losing = [(name, files) for name, files in found if files.filled]
    if not losing:
        return
    when = "once their processes have ended" if len(losing) > 1 else "once its processes have ended"
    name, files = losing[0]
    if len(losing) == 1:
        terminal.note(f"The files in {files.directory} go with job {name}, {when}.")
        return
    more = [f"{len(losing) - _NAMED} more"] if len(losing) > _NAMED else []
    of = ", ".join([*(name for name, _ in losing[:_NAMED]), *more])
    terminal.note(f"The files of {len(losing)} jobs in {Path(files.directory).parent} go with them, {when}: {of}.")
