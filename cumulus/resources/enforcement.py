"""The three strengths of enforcement, how leases share a GPU, and what a node does about overuse. Standard library
only."""

from __future__ import annotations

import re
from enum import StrEnum


class Enforcement(StrEnum):
    """How strongly a node holds a job to its share, weakest first."""

    NONE = "none"
    GUARDED = "guarded"
    HARD = "hard"

    def satisfies(self, least: Enforcement) -> bool:
        """Whether this is at least as strong as `least`."""
        order = list(Enforcement)
        return order.index(self) >= order.index(least)


class Sharing(StrEnum):
    """How the programs of leases use a GPU that others lease too."""

    CONCURRENT = "Concurrent"
    """At the same time, through NVIDIA's MPS where the node has it. A client of MPS cannot be parked."""
    PARKABLE = "Parkable"
    """Without MPS: programs of several leases take turns on the GPU, and the counting library alone holds memory. The
    lease can be parked."""


class Overuse(StrEnum):
    """What a node does where the processes of a lease hold more than it, laxest first."""

    REPORT = "Report"
    END = "End"
    """They are killed at once, and the lease ends."""


class Unleased(StrEnum):
    """What a node does about processes that hold a GPU without any lease, laxest first."""

    IGNORE = "Ignore"
    REPORT = "Report"
    END = "End"
    """Those of people (uid 1000 and above) are ended, but for exceptions."""


_EXCEPTION = re.compile(r"(user|program):[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")


def unleased_exception(text: str) -> str:
    """The text, if it says whose processes are never ended for want of a lease. Raises ValueError."""
    if not _EXCEPTION.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no exception: write user:alice, user:1001 or program:Xorg")
    return text


def overuse_of(wanted: Overuse | None, floor: Overuse | None, *, whole: bool) -> Overuse:
    """What holds for a lease: the stricter of what it asks for and what its node does at least. Where nobody says,
    overuse ends it if others may have the rest of the device."""
    usual = Overuse.REPORT if whole else Overuse.END
    either = (wanted or usual, floor or usual)
    return Overuse.END if Overuse.END in either else Overuse.REPORT
