"""Queue: who waits in line with whom, what they are sure of, and how much they may have. Queues form a tree."""

from __future__ import annotations

from datetime import time
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cumulus.resources.fields import (
    Delay,
    Duration,
    FieldError,
    Model,
    Name,
    Text,
    Time,
    TimeZone,
    all_fields,
    on_write,
    rule,
)
from cumulus.resources.meta import Resource
from cumulus.resources.parking import Idle, Turns
from cumulus.resources.placement import Placement

MOST_THOUSANDTHS = 10**9

Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
DAYS: tuple[Day, ...] = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _clock_time(value: str) -> str:
    clock_minutes(value)
    return value


def clock_minutes(value: str) -> int:
    """Minutes since midnight of 09:30; 24:00 is the day's end. Raises ValueError."""
    if value == "24:00":
        return 24 * 60
    try:
        found = time.fromisoformat(value) if len(value) == 5 else None
    except ValueError:
        found = None
    if found is None:
        raise ValueError(f"{value[:20]!r} is not a time of day; write 09:00, or 24:00 for the day's end")
    return found.hour * 60 + found.minute


ClockTime = Annotated[str, on_write(_clock_time)]


MIN_RUNTIME = "10m"
"""For so long a job keeps what it borrows where no queue says otherwise."""


class Amount(Model):
    """So much of one class of devices."""

    device: Text = Field("*", description="A glob on the device's name: *H100*. If left out: all devices.")
    devices: float = Field(
        gt=0,
        le=MOST_THOUSANDTHS / 1000,
        description="How many devices. A share counts as the larger part: 25% of the memory with half of the compute "
        "is 0.5.",
    )

    @property
    def thousandths(self) -> int:
        return round(self.devices * 1000)


class Submitters(Model):
    """Who may submit to a queue. One that matches is enough; with none given, everybody may."""

    users: tuple[Text, ...] = Field((), description="Names of users.")
    groups: tuple[Text, ...] = Field((), description="Groups: of the machine, or those of a token.")
    namespaces: tuple[Name, ...] = Field((), description="Namespaces of the jobs.")

    @property
    def everybody(self) -> bool:
        return not (self.users or self.groups or self.namespaces)


class PerUser(Model):
    """What one user may have of the queue at once."""

    limit: tuple[Amount, ...] = Field((), description="At most so much, for each class of devices.")
    max_jobs: int | None = Field(None, ge=1, description="At most so many jobs that hold shares.")


class Band(Model):
    """A range of priorities: from this one up to where the next band begins. A higher band goes first."""

    name: Text = Field(min_length=1, description="What people call it: urgent, normal, idle.")
    from_: int = Field(alias="from", ge=-(10**9), le=10**9, description="The lowest priority in it.")
    urgent: bool = Field(
        False, description="Its jobs go ahead of promises that were given. An event tells whose start moves by it."
    )


class Opening(Model):
    """When the queue's jobs may start, on some days of the week."""

    days: tuple[Day, ...] = Field(DAYS, description="Mon, Tue, … If left out: every day.")
    from_: ClockTime = Field("00:00", alias="from", description="From this time on, as 09:00.")
    to: ClockTime = Field("24:00", description="Until this time, as 17:00; 24:00 is the day's end.")

    @rule
    def _forwards(self) -> None:
        if clock_minutes(self.from_) >= clock_minutes(self.to):
            raise FieldError(("to",), f"must be after {self.from_}; write two openings for a night")


class QueueSpec(Model):
    """A place in the tree, and its rules."""

    parent: Name | None = Field(None, description="The queue that it is a part of. If left out, it is at the top.")
    submitters: Submitters = Field(
        default_factory=Submitters,
        description="Who may submit to it. A job that names no queue gets the one that lists its user, else one of the "
        "user's groups, else its namespace; else the queue named default.",
    )
    weight: int = Field(
        1, ge=1, le=10_000, description="Its part of what is shared, beside the other queues of its parent."
    )
    quota: tuple[Amount, ...] = Field(
        (),
        description="What it is sure of: as long as it holds less, its jobs go ahead of those of queues that hold more "
        "than theirs. What it does not use, others borrow: see minRuntime.",
    )
    min_runtime: Delay | None = Field(
        None,
        description="How long a job of this queue keeps at least what it borrows. After that it is asked to save and "
        "goes on later, where the queue whose quota that is has a job for it. If left out: as its parent; "
        f"{MIN_RUNTIME} at the top.",
    )
    limit: tuple[Amount, ...] = Field((), description="What it, with all queues below it, may hold at once at most.")
    max_jobs: int | None = Field(None, ge=1, description="At most so many jobs that hold shares.")
    per_user: PerUser = Field(default_factory=PerUser, description="What one user may have of it at once.")
    max_duration: Duration | None = Field(
        None, description="The longest lease that a job of it, or of a queue below it, may ask for."
    )
    default_priority: int = Field(0, ge=-(10**9), le=10**9, description="The priority of jobs that name none, or 0.")
    highest_priority: int | None = Field(
        None, ge=-(10**9), le=10**9, description="No job of it, or of a queue below it, may have a higher priority."
    )
    bands: tuple[Band, ...] = Field(
        (),
        description="Ranges of priority; within one, use decides who goes first. If left out, each priority is one.",
    )
    hours: tuple[Opening, ...] = Field((), description="When its jobs may start. If left out: always.")
    placement: Placement | None = Field(
        None,
        description="Where jobs of it go that say nothing themselves. Pack: to devices that are in use already. "
        "Spread: each replica to the node that is least loaded then. If left out: as its parent; Pack at the top.",
    )
    time_zone: TimeZone = Field("UTC", description="That of `hours`: Europe/Berlin.")
    idle: Idle | None = Field(
        None, description="What happens to jobs of it whose GPU does nothing, if they say nothing themselves."
    )
    turns: Turns | None = Field(
        None,
        description="Let its jobs take turns on a GPU, where more want one than fit: the one that had its turn is "
        "parked, and waits for its next. For jobs with one lease that their nodes can park; the others keep theirs.",
    )
    half_life: Duration = Field(
        "7d", description="The time after which what was used counts half, when it is decided who goes first."
    )

    @rule
    def _bands_once(self) -> None:
        seen: set[int] = set()
        for index, band in enumerate(self.bands):
            if band.from_ in seen:
                raise FieldError(("bands", index, "from"), f"is {band.from_} a second time; keep one")
            seen.add(band.from_)

    @rule
    def _default_within(self) -> None:
        if self.highest_priority is not None and self.default_priority > self.highest_priority:
            raise FieldError(("defaultPriority",), f"is more than highestPriority {self.highest_priority}")


class QueueStatus(Model):
    """What the queue controller counted, for the queue and those below it. Devices are counted as in `limit`."""

    held: float = Field(0, description="Devices that its jobs hold.")
    borrowed: float = Field(0, description="How much of that is more than its quota.")
    used: float = Field(0, description="Device-hours that count in who goes first: old ones count less.")
    waiting: int = Field(0, description="Jobs that wait.")
    next_promise: Time | None = Field(None, description="When the first of them starts at the latest.")


class Queue(Resource):
    """A line of jobs, with its share of the devices. Queues form a tree."""

    KIND: ClassVar[str] = "Queue"
    NAMESPACED: ClassVar[bool] = False
    MUTABLE: ClassVar[frozenset[str]] = all_fields(QueueSpec)

    kind: Literal["Queue"] = Field("Queue", description="Always Queue.")
    spec: QueueSpec = Field(default_factory=QueueSpec, description="Its place in the tree, and its rules.")
    status: QueueStatus = Field(
        default_factory=QueueStatus, description="What the queue controller counted. A manifest cannot set it."
    )
