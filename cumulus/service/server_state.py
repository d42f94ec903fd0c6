"""Whether a daemon keeps the objects of a state directory up to date, and which."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cumulus import paths
from cumulus.answers.server import ServerState
from cumulus.clock import Clock, parse_timestamp
from cumulus.daemon_lock import daemon_pid
from cumulus.lib import process_identity, unix_socket
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kinds import lease
from cumulus.resources.query import Query
from cumulus.service.readiness import leader_problem
from cumulus.store.base import Store

_API_SECONDS = 10.0
"""How long a new leader's API is waited for. One that could not open it in that time leads without."""


def server_state(store: Store, home: Path, clock: Clock) -> ServerState:
    # The leader wrote that time by the clock of this same machine.
    leases = store.list(Query(lease.KIND.name)).items
    renewed = max((lookup(lease, "spec.renewTime") or "" for lease in leases), default="")
    now, pid = clock.now(), daemon_pid(home)
    silent = (now - parse_timestamp(renewed)).total_seconds() if renewed else None
    led = next((lease for lease in leases if pid is not None and _leads(lease, home, now)), {})
    return ServerState(str(home), pid, silent, lookup(led, "spec.token"))


def _leads(lease: Document, home: Path, now: datetime) -> bool:
    """Whether its holder lives, and answers at the API's socket, from which clients are about to be asked for."""
    if leader_problem(lease, now) or process_identity.is_gone(lookup(lease, "spec.holderProcess") or ""):
        return False
    try:
        answers = unix_socket.answers(str(paths.api_socket(home)))
    except OSError:
        return True
    begun = lookup(lease, "spec.acquireTime")
    return bool(answers) or not begun or (now - parse_timestamp(begun)).total_seconds() > _API_SECONDS
