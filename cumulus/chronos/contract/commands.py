"""Requests as command lines of `chronos_cli`: run as they are, or asked of a `chronos_cli serve` (see `session`)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from decimal import Decimal

from cumulus.chronos.contract.lease import LeaseRequest
from cumulus.chronos.contract.policy import PolicyChange
from cumulus.resources.enforcement import Sharing

DEVICES = ("devices", "--json")
STATS = ("stats", "--json")


def listing(ended: bool) -> Sequence[str]:
    return ("list", "--json", *(("--all",) if ended else ()))


def create(request: LeaseRequest, *, takes: Container[str]) -> Sequence[str]:
    """`takes`: what the Chronos there understands that not every version does."""
    within = (f"--start-within={_plain(request.start_within)}s",) if request.start_within else ()
    name = (f"--name={request.name}",) if "name" in takes and request.name else ()
    overuse = (f"--overuse={request.overuse}",) if "overuse" in takes and request.overuse else ()
    sharing = (f"--sharing={request.sharing}",) if "sharing" in takes and request.sharing != Sharing.CONCURRENT else ()
    return (
        "create", "--json", *within, *name, *overuse, *sharing, f"--id={request.id}", f"--owner={request.owner}",
        f"--user={request.user}", f"--grace={_plain(request.grace)}s", f"--compute={Decimal(request.compute) / 10:f}%",
        str(request.device), f"{Decimal(request.memory_bytes) / 1000:f}k", f"{_plain(request.seconds)}s",
    )  # fmt: skip


def get(id: str) -> Sequence[str]:
    return ("get", "--json", id)


def begin(id: str) -> Sequence[str]:
    return ("begin", "--json", id)


def renew(id: str, seconds: float, token: int | None) -> Sequence[str]:
    return ("renew", "--json", *_token(token), id, f"{_plain(seconds)}s")


def release(id: str, token: int | None) -> Sequence[str]:
    return ("release", "--json", *_token(token), id)


def prepare(id: str) -> Sequence[str]:
    return ("prepare", "--json", id)


def park(id: str, park_for: float, freeze: bool, token: int | None) -> Sequence[str]:
    frozen = ("--freeze",) if freeze else ()
    return ("park", "--json", *_token(token), *frozen, f"--for={_plain(park_for)}s", id)


def unpark(id: str, seconds: float, token: int | None) -> Sequence[str]:
    return ("unpark", "--json", *_token(token), id, f"{_plain(seconds)}s")


def policy(change: PolicyChange) -> Sequence[str]:
    return (
        "policy", "--json",
        *((f"--overuse={change.overuse}",) if change.overuse else ()),
        *((f"--unleased={change.unleased}",) if change.unleased else ()),
        *((f"--except={','.join(change.exceptions)}",) if change.exceptions is not None else ()),
        *((f"--parking-memory={change.parking_memory}",) if change.parking_memory is not None else ()),
    )  # fmt: skip


def _token(token: int | None) -> Sequence[str]:
    return () if token is None else (f"--token={token}",)


def _plain(seconds: float) -> str:
    """Without an exponent, exact to the nanosecond."""
    return f"{Decimal(seconds):.9f}"
