"""Parking: a program waits in main memory, and its share of the GPU is free for others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cumulus.resources.fields import Duration, Model, Text, Time

PARK_FOR = "24h"
"""How long a program is kept in main memory where its job says nothing."""


class Idle(Model):
    """What happens to a job whose GPU does nothing."""

    after: Duration = Field(description="So long its GPU must have done nothing: 20m. A node looks every 10 seconds.")
    action: Literal["Park", "Release", "Report"] = Field(
        "Report",
        description="Park: keep its program in main memory and free the GPU, until `cumulus unpark` or `cumulus "
        "attach`. Release: end the job, after a checkpoint if it has one. Report: set the condition Idle.",
    )


class Turns(Model):
    """Jobs take turns on a GPU."""

    length: Duration = Field(
        description="How long a turn lasts at least: 10m. It is longer where parking a job and bringing it back would "
        "take more than a tenth of it. A turn ends only while somebody waits for the GPU."
    )


class ParkRequest(Model):
    """Set by the job controller: what waits in main memory, and since when it is to come back."""

    reason: str = Field(description="Why, in one word: Requested, Idle, LeaseOver, Preempted, TurnOver.")
    message: Text = Field("", description="Why, for people.")
    duration: Duration = Field(PARK_FOR, description="How long it is kept in main memory at most.")
    frozen: bool = Field(False, description="Whether its processes stand still too, not only its GPU.")
    back_since: Time | None = Field(
        None, description="Since when it is to come back: from then on it waits for its share of its GPU."
    )
    asked: str = Field(
        "",
        description="A digest of what the annotation `cumulus.dev/unpark-requested` of its job was then: another value "
        "ends it.",
    )


class Parked(Model):
    """A program that waits in main memory."""

    since: Time = Field(description="Since when its share is free.")
    until: Time | None = Field(None, description="When its node ends it, if it has not come back by then.")
    memory_bytes: int = Field(0, description="Main memory of its node that it takes, in bytes.")
    seconds: float = Field(0.0, description="How long it took to park.")
    unpark_seconds: float | None = Field(None, description="How long it took to come back, once it has.")
