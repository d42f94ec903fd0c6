"""`cumulus backup` and `cumulus restore`: the store as one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cumulus import paths
from cumulus.cli import context


def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write; it must not exist yet.")],
) -> None:
    """Write all objects to one file. The store may be in use. Files, logs and secrets of jobs are not included.

    \b
    Examples:
      cumulus backup cumulus-2026-01-31.backup
    """
    with context.client(objects=False) as client:
        client.backup(Path(file))
    print(f"backed up to {file}")


def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file that `cumulus backup` wrote.")],
) -> None:
    """Replace the store by a backup. No daemon may run. The replaced store is kept beside the new one until the next
    restore.

    \b
    Examples:
      cumulus --home /var/lib/cumulus restore cumulus-2026-01-31.backup
    """
    from cumulus.client import offline

    home = paths.home()
    offline.restore(home, Path(file))
    print(f"restored {file} into {home}")
