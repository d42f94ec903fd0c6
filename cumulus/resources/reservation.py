"""Reservation: devices that are held for some users or queues for a time, once or again and again; or for nobody, so
that a node can be looked after."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cumulus.resources.fields import (
    Duration,
    FieldError,
    Model,
    Name,
    Text,
    Time,
    TimeZone,
    all_fields,
    check_zone,
    on_write,
    rule,
)
from cumulus.resources.meta import Resource
from cumulus.resources.schedule import check_schedule


class Beneficiaries(Model):
    """Whose jobs may have what is held. One that matches is enough; with none given, nobody's."""

    users: tuple[Text, ...] = Field((), description="Names of users.")
    queues: tuple[Name, ...] = Field((), description="Queues, each with those below it.")


class ReservationSpec(Model):
    """What is held, when, for whom."""

    for_: Beneficiaries = Field(
        default_factory=Beneficiaries,
        alias="for",
        description="Whose jobs may have it. If left out: nobody's, as for the maintenance of a node.",
    )
    devices: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="How many devices. If left out: all that match, of the nodes that are named.",
    )
    device: Text = Field("*", description="A glob on the devices' names: *H100*. If left out: all devices.")
    nodes: tuple[Name, ...] = Field((), description="Only on these nodes. If left out: on any.")
    start: Annotated[Time, on_write(check_zone)] | None = Field(
        None, description="When it begins, for one that is held once: 2030-01-31T09:00:00Z."
    )
    schedule: Annotated[Text, on_write(check_schedule)] | None = Field(
        None, description="When it begins, for one that is held again and again: 0 9 * * TUE, as in a crontab."
    )
    time_zone: TimeZone = Field("UTC", description="That of the schedule: Europe/Berlin.")
    duration: Duration = Field(description="How long it is held each time: 8h.")

    @rule
    def _once_or_again(self) -> None:
        if (self.start is None) == (self.schedule is None):
            raise FieldError(("start",), "is given for one that is held once, and schedule for one that is held again")

    @rule
    def _says_which(self) -> None:
        if self.devices is None and not self.nodes:
            raise FieldError(("devices",), "says how many; it can be left out only where nodes are named")


class ReservedDevice(Model):
    """A device that is held."""

    node: str = Field(description="Its node.")
    device: int = Field(description="Its index there.")


class ReservationStatus(Model):
    """What the scheduler chose."""

    start: Time | None = Field(None, description="When it is held the next time, or since when it is now.")
    end: Time | None = Field(None, description="Until when that is.")
    devices: tuple[ReservedDevice, ...] = Field((), description="What is held then.")
    missing: int = Field(0, description="How many devices more were asked for than there are.")


class Reservation(Resource):
    """Devices that are held for a time."""

    KIND: ClassVar[str] = "Reservation"
    NAMESPACED: ClassVar[bool] = False
    MUTABLE: ClassVar[frozenset[str]] = all_fields(ReservationSpec)

    kind: Literal["Reservation"] = Field("Reservation", description="Always Reservation.")
    spec: ReservationSpec = Field(description="What is held, when, for whom.")
    status: ReservationStatus = Field(
        default_factory=ReservationStatus, description="What the scheduler chose. A manifest cannot set it."
    )

    @property
    def drains(self) -> bool:
        """Whether it holds all devices of the nodes that it names for nobody."""
        spec = self.spec
        return spec.devices is None and spec.device == "*" and not (spec.for_.users or spec.for_.queues)
