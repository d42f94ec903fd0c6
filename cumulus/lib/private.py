"""Directories that nobody else may change. Standard library only."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path


def why_not_private(directory: Path, holds: str, variable: str) -> tuple[str, str] | None:
    """Why others could replace what the directory holds, and how to mend that; None where they could not.

    `holds` names what is in it, `variable` chooses another directory. Raises OSError."""
    found = directory.stat()
    mode, quoted = stat.S_IMODE(found.st_mode), shlex.quote(str(directory))
    if found.st_uid not in (0, os.geteuid()):
        return (
            f"{directory} belongs to another user ({found.st_uid}), who could replace the {holds}",
            f"run this as that user, or: chown -R {os.geteuid()} {quoted}, or set {variable} to another directory",
        )
    if not mode & stat.S_IWOTH:
        return None
    return (
        f"{directory} can be written by everybody (mode {mode:04o}): anybody could replace the {holds}",
        f"run: chmod go-w {quoted}, or set {variable} to a directory of your own",
    )
