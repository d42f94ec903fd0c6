"""Opens stores. No other product code does, so that admission checks every write.

Only a restore goes round it: it puts a whole file in the store's place.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cumulus import paths
from cumulus.admission import door
from cumulus.daemon_lock import check_private, refuse_unread
from cumulus.errors import StoreUnavailable

if TYPE_CHECKING:
    from cumulus.store.base import Store


def of_home(home: Path, *, create: bool = False) -> Store:
    """The store of a state directory. Without `create`, one that is not there is not made: an empty store in memory
    answers instead. Raises StoreUnavailable; StoreReplaced where a daemon has another store open."""
    refuse_unread(home)
    directory = paths.store_dir(home)
    try:
        if not create and not directory.exists():
            if home.exists() and not home.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            return empty_store()
        # `mkdir -p` gives its mode to the last directory alone, and the state directory is its owner's too.
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_private(home)
        return open_store(directory)
    except OSError as error:
        raise StoreUnavailable(
            f"the store in {directory} cannot be used: {error.strerror}",
            hint="set CUMULUS_HOME to a directory that you may write",
        ) from error


def open_store(directory: Path) -> Store:
    """The store in `directory`, which is made where it is missing. Raises OSError, StoreUnavailable."""
    from cumulus.store.sqlite import SqliteStore

    return SqliteStore(directory, admission=door.check)


def empty_store() -> Store:
    """A store in memory, for where there is none yet."""
    from cumulus.store.memory import MemoryStore

    return MemoryStore(admission=door.check)
