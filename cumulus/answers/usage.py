"""What is leased and used now, device by device and job by job."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """One device. What its driver does not tell is None. Compute and `busy` are in thousandths."""

    node: str
    index: int
    name: str
    state: str
    """Ready, or why not."""
    memory_bytes: int
    leased_bytes: int
    leased_compute: int
    used_bytes: int | None = None
    """By all processes."""
    over_bytes: int = 0
    """What leases hold beyond their size."""
    unleased_bytes: int = 0
    """What processes hold without any lease."""
    busy: int | None = None
    power_watts: float | None = None
    temperature_celsius: int | None = None

    @property
    def idle_bytes(self) -> int | None:
        """What is leased and not used."""
        return None if self.used_bytes is None else max(0, self.leased_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class ShareUse:
    """What one job, or a partition of no job, holds. `until`: when its first lease ends (RFC 3339), "" where none was
    granted yet."""

    namespace: str
    name: str
    user: str
    nodes: tuple[str, ...]
    devices: int
    memory_bytes: int
    compute: int
    until: str
    over: bool = False
    """Whether it holds more than it leased, as far as the viewer may see that."""


@dataclass(frozen=True, slots=True)
class UsageNow:
    """At `time` (RFC 3339)."""

    time: str
    devices: tuple[DeviceUse, ...]
    shares: tuple[ShareUse, ...]
