"""What a node reports about itself, apart from its devices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """A condition of the node, as in Kubernetes: `type` and `reason` are CamelCase words, `message` a sentence."""

    type: str
    status: bool
    reason: str
    message: str


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
