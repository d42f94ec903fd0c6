"""Opens stores. No other product code does, so that admission checks every write.

Only a restore goes round it: it puts a whole file in the store's place.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cumulus.admission import door

if TYPE_CHECKING:
    from cumulus.store.base import Store


def open_store(directory: Path) -> Store:
    """The store in `directory`, which is made where it is missing. Raises OSError, StoreUnavailable."""
    from cumulus.store.sqlite import SqliteStore

    return SqliteStore(directory, admission=door.check)


def empty_store() -> Store:
    """A store in memory, for where there is none yet."""
    from cumulus.store.memory import MemoryStore

    return MemoryStore(admission=door.check)
