"""Lease: which daemon leads. Its token fences every write of a daemon that was deposed."""

from __future__ import annotations

from typing import ClassVar, Literal

from cumulus.resources.fields import Model
from cumulus.resources.meta import Resource

LEADER = "cumulus-controller"
"""Name of the one Lease."""


class LeaseSpec(Model):
    """`token` grows by one with each change of holder; `renew_time` is wall-clock, for people: a standby
    trusts only its own clock's measure of how long the object did not change."""

    holder_identity: str = ""
    lease_duration_seconds: float
    acquire_time: str
    renew_time: str
    token: int


class Lease(Resource):
    """Who leads."""

    KIND: ClassVar[str] = "Lease"
    MUTABLE: ClassVar[frozenset[str]] = frozenset(LeaseSpec.model_fields)
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["Lease"] = "Lease"
    spec: LeaseSpec
