"""What a node does about overuse and about processes without a lease, and how much main memory parked leases may take:
its own setting, kept in its ledger.

`chronos_cli policy` writes it, and so does the controller whose GPUNode says it; the monitor acts by it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cumulus.resources.enforcement import Overuse, Unleased, unleased_exception

_MOST_EXCEPTIONS = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """`overuse` None: a lease of a part of a device ends, one of a whole device is reported."""

    overuse: Overuse | None = None
    unleased: Unleased = Unleased.REPORT
    exceptions: tuple[str, ...] = ()
    """`user:NAME`, `user:UID` or `program:NAME`: whose processes are never ended for want of a lease."""
    parking_memory: int | None = None
    """Bytes of main memory for parked leases; None: half of it, 0: none is parked."""


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What is to be set; None leaves a part as it is."""

    overuse: Overuse | None = None
    unleased: Unleased | None = None
    exceptions: tuple[str, ...] | None = None
    parking_memory: int | None = None

    def __bool__(self) -> bool:
        return self != PolicyChange()

    def applied(self, to: Policy) -> Policy:
        given = {
            "overuse": self.overuse,
            "unleased": self.unleased,
            "exceptions": self.exceptions,
            "parking_memory": self.parking_memory,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(to, **changes)


def to_json(policy: Policy) -> dict[str, Any]:
    return {
        "overuse": policy.overuse and policy.overuse.value,
        "unleasedProcesses": policy.unleased.value,
        "exceptions": list(policy.exceptions),
        "parkingMemory": policy.parking_memory,
    }


def from_json(said: Mapping[str, Any]) -> Policy:
    """Raises KeyError, TypeError, ValueError."""
    overuse, parking = said["overuse"], said.get("parkingMemory")
    return Policy(
        Overuse(overuse) if overuse else None,
        Unleased(said["unleasedProcesses"]),
        exceptions(*said["exceptions"]),
        None if parking is None else int(parking),
    )


def exceptions(*given: str) -> tuple[str, ...]:
    """The list, checked. Raises ValueError."""
    for each in given:
        unleased_exception(each)
    if len(given) > _MOST_EXCEPTIONS:
        raise ValueError(f"{len(given)} exceptions are too many; at most {_MOST_EXCEPTIONS} are kept")
    return tuple(dict.fromkeys(given))
