"""`cumulus backup` and `cumulus restore`: the store as one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cumulus import daemon_lock, paths
from cumulus.errors import CumulusError


class Refused(CumulusError):
    """It would destroy something."""


def backup(file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; must not exist.")]) -> None:
    """Write all objects to one file, while the store is used. Jobs' files, logs and secrets are not in it.

    \b
    Examples:
      cumulus backup cumulus-2026-01-31.backup
    """
    directory = paths.store_dir(paths.home())
    if not directory.exists():
        raise Refused(f"there is no store in {paths.home()}", hint="set CUMULUS_HOME to the one to back up")
    from cumulus.store.backup import backup as write

    write(directory, Path(file))
    print(f"backed up to {file}")


def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file that `cumulus backup` wrote.")],
) -> None:
    """Put a backup in the store's place, while no daemon runs. What was there is kept beside it until the next time.

    \b
    Examples:
      cumulus --home /var/lib/cumulus restore cumulus-2026-01-31.backup
    """
    home = paths.home()
    pid = daemon_lock.daemon_pid(home)
    if pid is not None:
        raise Refused(f"a daemon runs on {home} (process {pid})", hint="stop it first")
    from cumulus.store.backup import restore as put

    put(Path(file), paths.store_dir(home))
    print(f"restored {file} into {home}")
