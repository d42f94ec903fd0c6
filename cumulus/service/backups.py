"""Backs the store up to one file, and restores it."""

from __future__ import annotations

from pathlib import Path

from cumulus import paths
from cumulus.daemon_lock import daemon_pid
from cumulus.errors import StoreInUse, StoreUnavailable
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity


class Backups:
    def __init__(self, home: Path, access: Access) -> None:
        self._access = access
        self._home = home

    def write(self, identity: Identity, file: Path) -> None:
        """Write all objects to the new file `file` of the server's machine, while the store is used. Raises UsageError
        where it is there already, StoreUnavailable, Forbidden."""
        self._access.check(identity, "create", "backups")
        directory = paths.store_dir(self._home)
        if not directory.exists():
            raise StoreUnavailable(f"there is no store in {self._home}", hint="set CUMULUS_HOME to the one to back up")
        from cumulus.store.backup import backup

        backup(directory, file)


def restore(home: Path, file: Path) -> None:
    """Put a backup in the place of a state directory's store, which no daemon may use. What was there is kept beside it
    until the next time. Raises StoreInUse, UsageError, StoreUnavailable."""
    pid = daemon_pid(home)
    if pid is not None:
        raise StoreInUse(f"a daemon runs on {home} (process {pid})", hint="stop it first")
    from cumulus.store.backup import restore as put

    put(file, paths.store_dir(home))
