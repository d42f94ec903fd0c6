"""QueueUsage: what one user has used of one queue. The end of a lease and its entry here are one transaction."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Literal

from pydantic import Field

from cumulus.resources.fields import Model, Time
from cumulus.resources.meta import Resource

REMEMBERED_NAMES = 32
"""Names of jobs of which it is known how early their leases end."""


class QueueUsageSpec(Model):
    """Whose it is."""

    queue: str = Field(description="The queue.")
    user: str = Field(description="The user, as the submitter of the jobs.")


class Ending(Model):
    """How early the leases of jobs of one name have ended."""

    name: str = Field(description="The name of the job, without the random letters at its end; empty for all names.")
    leases: int = Field(description="How many leases that is from.")
    part: float = Field(description="The part of its lease that such a job held, the last ones counting most.")


class QueueUsageStatus(Model):
    """What was used."""

    leases: int = Field(0, description="Leases that have ended and are counted here, each once.")
    device_microseconds: int = Field(
        0, description="All that was ever held: devices times microseconds, with a share as its part of a device."
    )
    decayed: float = Field(0, description="Device-seconds that still count, as of `at`.")
    at: Time | None = Field(None, description="The moment for which `decayed` is right. It halves with each half-life.")
    endings: tuple[Ending, ...] = Field((), description="How early leases ended, by name; the last used first.")


class QueueUsage(Resource):
    """What one user has used of one queue."""

    KIND: ClassVar[str] = "QueueUsage"
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["QueueUsage"] = Field("QueueUsage", description="Always QueueUsage.")
    spec: QueueUsageSpec = Field(description="Whose it is.")
    status: QueueUsageStatus = Field(default_factory=QueueUsageStatus, description="What was used.")


def usage_name(queue: str, user: str) -> str:
    """The name of the object: users' names are no names of objects."""
    return f"{queue[:200]}.{hashlib.sha256(f'{queue}/{user}'.encode()).hexdigest()[:16]}"
