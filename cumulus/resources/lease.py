"""Lease: which daemon leads. Its token fences the writes of a former leader."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cumulus.resources.fields import Model, Time, all_fields
from cumulus.resources.meta import Condition, Resource


class LeaseSpec(Model):
    """`token` grows by one with each change of holder; `renew_time` is wall-clock, for people: a standby
    trusts only its own clock's measure of how long the object did not change."""

    holder_identity: str = Field("", description="The daemon that leads.")
    holder_process: str = Field(
        "", description="Its process. Daemons on the same machine see when it is dead, and need not wait."
    )
    lease_duration_seconds: float = Field(description="How long it leads without a renewal, in seconds.")
    acquire_time: Time = Field(description="When it began to lead.")
    renew_time: Time = Field(description="When it renewed last, for people. A standby trusts only its own clock.")
    token: int = Field(description="Grows by one with each new leader. Writes with an older token are refused.")


class LeaseStatus(Model):
    """Whether the leader does its work."""

    conditions: tuple[Condition, ...] = Field(
        (), description="Progressing: False if a part of the leader is stuck; the message says which."
    )


class Lease(Resource):
    """Which daemon leads."""

    KIND: ClassVar[str] = "Lease"
    MUTABLE: ClassVar[frozenset[str]] = all_fields(LeaseSpec)
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["Lease"] = Field("Lease", description="Always Lease.")
    spec: LeaseSpec = Field(description="Which daemon leads, and since when.")
    status: LeaseStatus = Field(
        default_factory=LeaseStatus, description="Whether the leader does its work. A manifest cannot set it."
    )
