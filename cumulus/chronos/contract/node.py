"""What a node reports about itself, apart from its devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

from cumulus.chronos.contract.parking import Parking

CHECKPOINT_PLACES = ("file", "s3")
"""Schemes of places to which an uploader can copy checkpoints."""


@dataclass(frozen=True, slots=True)
class Health:
    """A condition of the node, as in Kubernetes: `type` and `reason` are CamelCase words, `message` a sentence."""

    type: str
    status: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Figures:
    """How a device is now; None where its driver does not tell."""

    used_bytes: int | None = None
    busy: int | None = None
    """The part of the last moment in which it had work, in thousandths."""
    power_watts: float | None = None
    temperature: int | None = None
    """Degrees Celsius."""
    throttling: tuple[str, ...] = ()
    """Why it runs slower than it could: PowerCap, Thermal, PowerBrake, Hardware."""
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    """Memory errors since the driver was started, or the device was reset."""
    fault: str = ""
    """Why nothing new may be placed there: the device has failed."""


@dataclass(frozen=True, slots=True)
class UnleasedProcess:
    """A process that holds memory of a device without any lease."""

    device_id: str
    pid: int
    uid: int
    user: str
    """Their name, or their number where they have none here."""
    program: str
    """What it calls itself, harmless to show."""
    memory_bytes: int

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program}) of {self.user}"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says of itself beside its devices; empty where it is not known."""

    hostname: str = ""
    boot_id: str = ""
    chronos_version: str = ""
    clock_skew: float | None = None
    """Seconds by which its wall clock is ahead of ours, None where it is the same clock or was not measured."""
    conditions: tuple[Health, ...] = ()
    """Of what holds its jobs to their leases, as its monitor found it last."""
    figures: Mapping[str, Figures] = field(default_factory=dict)
    """By device id."""
    unleased: tuple[UnleasedProcess, ...] = ()
    parking: Parking | None = None
    """None where its Chronos cannot park."""
    checkpoint_places: tuple[str, ...] | None = None
    """To which of CHECKPOINT_PLACES its uploader copies; None where it does not say."""


def checkpoint_places() -> tuple[str, ...]:
    """Those of CHECKPOINT_PLACES to which the uploader of this installation copies."""
    return CHECKPOINT_PLACES if find_spec("boto3") is not None else CHECKPOINT_PLACES[:1]


def read_checkpoint_places(said: object) -> tuple[str, ...] | None:
    """What a node says of its own; what this version does not know is left out."""
    return tuple(place for place in CHECKPOINT_PLACES if place in said) if isinstance(said, list) else None
