"""What every verb starts from: the state directory, its store, and whether a daemon is there to act."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cumulus import paths
from cumulus.cli import terminal
from cumulus.clock import Clock, parse_timestamp
from cumulus.daemon_lock import check_private, daemon_pid, refuse_unread
from cumulus.errors import StoreUnavailable
from cumulus.resources.quantity import format_duration
from cumulus.store.base import Query, Store

SILENT_SECONDS = 15.0
"""A leader renews every two seconds, and a lapsed one is followed by another within a few more."""


@contextmanager
def open_store(*, create: bool = False) -> Iterator[Store]:
    """The store of this CUMULUS_HOME. Without `create`, a state directory that is not there is not made:
    an empty store in memory answers instead, and stderr says so. Raises StoreUnavailable."""
    directory = paths.store_dir(paths.home())
    refuse_unread(paths.home())
    store: Store
    if not create and not directory.exists():
        from cumulus.store.memory import MemoryStore

        terminal.note(f"There is no store in {paths.home()} yet; `cumulus apply` or `cumulus serve` makes it.")
        store = MemoryStore()
    else:
        store = _sqlite(directory)
    try:
        yield store
    finally:
        store.close()


def _sqlite(directory: Path) -> Store:
    from cumulus.store.sqlite import SqliteStore

    try:
        # `mkdir -p` gives its mode to the last directory alone, and the state directory is its owner's too.
        directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_private(directory.parent)
        return SqliteStore(directory)
    except OSError as error:
        raise StoreUnavailable(
            f"the store in {directory} cannot be used: {error.strerror}",
            hint="set CUMULUS_HOME to a directory that you may write",
        ) from error


def note_if_no_daemon(then: str) -> None:
    """Say on stderr when nothing will act on what was just stored. `then`: what happens once a daemon runs."""
    if daemon_pid(paths.home()) is None:
        terminal.note(f"No daemon runs on {paths.home()}; {then} once `cumulus serve` is started.")


class Freshness:
    """Says once, on stderr, where nobody keeps what is shown up to date: no daemon runs, or none renews its lead.

    The leader wrote that time by the clock of this same machine.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._said = False

    def look(self) -> None:
        trouble = "" if self._said else self._trouble()
        if trouble:
            self._said = True
            terminal.note(trouble)

    def _trouble(self) -> str:
        moments = [(lease.get("spec") or {}).get("renewTime") or "" for lease in self._store.list(Query("Lease")).items]
        since = max(moments, default="")
        silent = (self._clock.now() - parse_timestamp(since)).total_seconds() if since else None
        home = paths.home()
        if daemon_pid(home) is None:
            if silent is None:
                return f"No daemon has ever run on {home}; things happen once `cumulus serve` is started."
            return f"No daemon runs on {home}: what is shown is as the last one left it, {_age(silent)} ago."
        if silent is not None and silent >= SILENT_SECONDS:
            return (
                f"The daemon on {home} has not said for {_age(silent)} that it leads: what is shown may be that old; "
                "see `cumulus doctor`."
            )
        return ""


def _age(seconds: float) -> str:
    return format_duration(max(0.0, seconds))
