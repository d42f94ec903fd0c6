"""Whether the work is being done: what `/readyz` answers, and `cumulus doctor` says of the daemon."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cumulus import paths
from cumulus.clock import Clock, parse_timestamp
from cumulus.errors import CumulusError, NotFound
from cumulus.lib import unix_socket
from cumulus.resources.condition_types import LeaderCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds.lease import KIND, LEADER
from cumulus.store.base import Store

RENEWED_SECONDS = 20.0
"""A leader renews every 2 s. One that did not for so long does not lead, also where clocks of machines differ."""


class Check(NamedTuple):
    """One thing that must be so. `problem`: why it is not; "" where it is."""

    name: str
    problem: str = ""


def checks(store: Store, clock: Clock) -> list[Check]:
    """The store can be read, a daemon leads, and its controllers make progress."""
    try:
        lease = store.get(Key(KIND.name, "", LEADER))
    except NotFound:
        lease = {}
    except CumulusError as error:
        return [Check("store", str(error)), *(Check(name, "not known") for name in ("leader", "controllers"))]
    leader = leader_problem(lease, clock.now())
    return [
        Check("store"),
        Check("leader", leader),
        Check("controllers", progress_problem(lease) if not leader else "no daemon leads"),
    ]


def grpc_check(home: Path) -> Check:
    """The gRPC server answers at its socket."""
    return Check("grpc", grpc_problem(home))


def grpc_problem(home: Path) -> str:
    """Why the gRPC server does not answer; "" where it does."""
    try:
        answers = unix_socket.answers(str(paths.grpc_socket(home)))
    except OSError as error:
        return f"the gRPC server cannot be asked: {error.strerror}"
    return "" if answers else "the gRPC server does not answer; the daemon starts it again, and its log says why"


def leader_problem(lease: Document, now: datetime) -> str:
    """Why no daemon leads, by the Lease of the leader, {} where none ever led; "" where one does."""
    holder, renewed = lookup(lease, "spec.holderIdentity"), lookup(lease, "spec.renewTime")
    if not holder or not renewed:
        return "no daemon leads"
    if is_late(renewed, now):
        return "no daemon leads: the last one has not renewed its lead"
    return ""


def is_late(renewed: str, now: datetime) -> bool:
    """Whether who leads should have renewed its lead since then."""
    return (now - parse_timestamp(renewed)).total_seconds() > RENEWED_SECONDS


def progress_problem(lease: Document) -> str:
    """What keeps the leader from its work; "" where nothing does."""
    progress = condition(lease, LeaderCondition.PROGRESSING)
    if progress.get("status") != "False":
        return ""
    return str(progress.get("message") or "the controllers make no progress")
