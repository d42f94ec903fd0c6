"""Follows a job to its end: its input goes there meanwhile, and the directory that it carried comes back."""

from __future__ import annotations

from pathlib import Path

from cumulus.cli import attached, feeding, terminal
from cumulus.errors import CumulusError
from cumulus.resources.key import Key


def most(sync_limit: str) -> int:
    """How many bytes of a directory may be carried. Raises UsageError, also where none can be."""
    from cumulus.cli import carried

    carried.check_here()
    return carried.limit(sync_limit)


def bring_back(code: int, key: Key, directory: Path, most: int) -> int:
    """Bring back what the job changed; `code` is how it ended. Raises CumulusError where that says of no failure."""
    from cumulus.cli import carried

    try:
        carried.bring_back(key, directory, most)
    except CumulusError as error:
        if code == 0:
            raise
        terminal.warning(f"{error}; {error.hint}" if error.hint else str(error))
    return code


def follow(key: Key, uid: str, feeder: feeding.Feeder | None, *, tail: int | None = None) -> int:
    """With a `feeder` the job is given its input meanwhile."""
    if feeder is None:
        return attached.attach(key, uid, tail=tail)
    feeder.start()
    return attached.attach(key, uid, tail=tail, leaving=feeder.leaving)
