"""The contract between the runner and a reconciler.

A reconcile takes a key only. It reads what it needs, plans, acts, writes status if it changed. It must be right
when it runs once, twice, late, on stale data, or after a crash between any two lines. It returns `Done` or
`RequeueAfter`, or raises `Retry` or `Permanent`; store `Conflict` and other errors are the runner's to back off from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cumulus.errors import CumulusError


class Request(NamedTuple):
    """What to look at: a namespace ("" for cluster-scoped) and a name."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to do until something changes."""


@dataclass(frozen=True, slots=True)
class RequeueAfter:
    """Look again in `seconds`, sooner if something changes."""

    seconds: float


Result = Done | RequeueAfter


class Retry(CumulusError):
    """Try again with back-off: a passing fault."""


class Permanent(CumulusError):
    """Trying again does not help until the object changes."""


class Reconciler(Protocol):
    """What one controller does with a key."""

    def reconcile(self, request: Request) -> Result: ...
