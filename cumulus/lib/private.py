"""Directories that nobody else may change. Standard library only."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path


def why_not_private(directory: Path, holds: str, variable: str) -> tuple[str, str] | None:
    """Why others could replace what the directory holds, and how to mend that; None where they could not.

    `holds` names what is in it, `variable` chooses another directory. Raises OSError."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not mode & stat.S_IWOTH:
        return None
    return (
        f"{directory} can be written by everybody (mode {mode:04o}): anybody could replace the {holds}",
        f"run: chmod go-w {shlex.quote(str(directory))}, or set {variable} to a directory of your own",
    )
