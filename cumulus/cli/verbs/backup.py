"""`cumulus backup` and `cumulus restore`: the store as one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cumulus import paths
from cumulus.cli import context


def backup(file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; must not exist.")]) -> None:
    """Write all objects to one file, while the store is used. Jobs' files, logs and secrets are not in it.

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
    """Put a backup in the store's place, while no daemon runs. What was there is kept beside it until the next time.

    \b
    Examples:
      cumulus --home /var/lib/cumulus restore cumulus-2026-01-31.backup
    """
    from cumulus.client import offline

    home = paths.home()
    offline.restore(home, Path(file))
    print(f"restored {file} into {home}")
