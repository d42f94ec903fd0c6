"""Finds the lease that a person means: by its id, its name, or an unambiguous beginning of one.

For people alone. A program names leases by their whole ids: what it asks twice must never come to mean another lease.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from cumulus.chronos.contract import Lease
from cumulus.chronos.ledger import Ledger
from cumulus.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,316}")
_SHOWN = 5


def check(name: str) -> str:
    """Raises ValueError where it cannot be the name of a lease."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name; use letters, digits, '.', '_', '-' and '/'")
    return name


def meant(ledger: Ledger, text: str, *, ended: bool = False) -> str:
    """The id of the lease that `text` means, of live ones first, then, where asked for, of ended ones. `text` itself
    where it means none. Raises UsageError where it may mean several."""
    if not text or ledger.get(text) is not None:
        return text
    for leases in (ledger.list(), ledger.list(ended=True) if ended else ()):
        if found := _matching(leases, text):
            return found.id
    return text


def _matching(leases: Sequence[Lease], text: str) -> Lease | None:
    def begins(lease: Lease) -> bool:
        return lease.id.startswith(text) or lease.name.startswith(text)

    rules: Sequence[Callable[[Lease], bool]] = (lambda lease: lease.name == text, begins)
    for rule in rules:
        found = [lease for lease in leases if rule(lease)]
        active = [lease for lease in found if lease.state.goes_on]
        if len(found) == 1 or len(active) == 1:
            # One that ends makes room for the next of its name.
            return (active or found)[0]
        if found:
            shown = [f"{lease.id} ({lease.name})" if lease.name else lease.id for lease in found[:_SHOWN]]
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise UsageError(f"{text!r} may mean {', '.join(shown)}{more}", hint="write more of its id or name")
    return None
