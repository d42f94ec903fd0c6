"""Whether a daemon keeps the objects of a state directory up to date, and which."""

from __future__ import annotations

from pathlib import Path

from cumulus.answers.server import ServerState
from cumulus.clock import Clock, parse_timestamp
from cumulus.daemon_lock import daemon_pid
from cumulus.resources.documents import lookup
from cumulus.resources.query import Query
from cumulus.store.base import Store


def server_state(store: Store, home: Path, clock: Clock) -> ServerState:
    # The leader wrote that time by the clock of this same machine.
    leases = store.list(Query("Lease")).items
    renewed = max((lookup(lease, "spec.renewTime") or "" for lease in leases), default="")
    silent = (clock.now() - parse_timestamp(renewed)).total_seconds() if renewed else None
    return ServerState(str(home), daemon_pid(home), silent)
