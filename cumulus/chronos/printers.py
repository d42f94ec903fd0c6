"""What `chronos_cli` prints of leases and devices: tables for people, and the JSON of `stats`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from cumulus.chronos.contract import FULL_COMPUTE, Device, Figures, Lease, LeasedTotal, Parking, Proof, wire
from cumulus.clock import to_the_second
from cumulus.lib.table import Heading, Table
from cumulus.resources.quantity import format_bytes, format_duration

if TYPE_CHECKING:
    from cumulus.chronos.nvml import Utilization
    from cumulus.chronos.usage import LeaseUsage


def usage_json(device: Device, usage: LeasedTotal, count: int, used: Utilization | None) -> dict[str, Any]:
    """A device with what of it is leased, by how many leases, and what is used of it where the driver tells."""
    return {
        **wire.device_json(device),
        "leases": count,
        "leasedMemoryBytes": usage.memory_bytes,
        "freeMemoryBytes": device.memory_bytes - usage.memory_bytes,
        "leasedCompute": usage.compute,
        "freeCompute": FULL_COMPUTE - usage.compute,
        "usedMemoryBytes": used.memory_bytes if used else None,
        "usedCompute": used.compute if used else None,
    }


def lease_usage_json(use: LeaseUsage) -> dict[str, Any]:
    """What a lease uses: null where nobody knows. `source` says who does, `over` flags more memory than leased, and
    `overCompute` more compute."""
    return {
        "partitionId": use.lease.id,
        "device": use.lease.device,
        "memoryBytes": use.lease.memory_bytes,
        "usedMemoryBytes": use.memory_bytes,
        "idleMemoryBytes": use.idle_memory_bytes,
        "compute": use.lease.compute,
        "usedCompute": use.compute,
        "idleCompute": use.idle_compute,
        "source": use.source or None,
        "over": use.over,
        "overCompute": use.over_compute,
        "parkedBytes": use.lease.parked_bytes,
    }


def size_notes(devices: Sequence[Device]) -> list[str]:
    """A line for each device that has another size than what counts as long as leases live there."""
    return [
        f"device {d.index} has {format_bytes(d.next_memory_bytes)} of memory now: {format_bytes(d.memory_bytes)} count"
        " until its leases have ended"
        for d in devices
        if d.next_memory_bytes
    ]


def devices_table(devices: Sequence[Device], out: TextIO) -> None:
    headings = (
        Heading("DEVICE"), Heading("NAME"), Heading("TYPE", "whole", 4), Heading("MEMORY", "whole", 1),
        Heading("ENFORCEMENT", "whole", 2), Heading("DRIVER", "cut", 5), Heading("ID", "whole", 3),
    )  # fmt: skip
    Table(headings, out).write(
        [
            (str(d.index), d.name, d.type, format_bytes(d.memory_bytes), d.enforcement.value, d.driver, d.id)
            for d in devices
        ]
    )


def usage_table(rows: Sequence[tuple[Device, LeasedTotal, int]], out: TextIO) -> None:
    headings = (
        Heading("DEVICE"), Heading("NAME", "cut", 1), Heading("TYPE", "whole", 5), Heading("MEMORY", "whole", 3),
        Heading("LEASED", "whole", 2), Heading("FREE", "whole"), Heading("COMPUTE FREE", "whole"),
        Heading("LEASES", "whole", 4),
    )  # fmt: skip
    Table(headings, out).write(
        [
            (
                str(device.index),
                device.name,
                device.type,
                format_bytes(device.memory_bytes),
                _percent(usage.memory_bytes, device.memory_bytes),
                format_bytes(device.memory_bytes - usage.memory_bytes),
                f"{(FULL_COMPUTE - usage.compute) / 10:g}%",
                str(count),
            )
            for device, usage, count in rows
        ]
    )


def figures_table(devices: Sequence[Device], figures: Mapping[str, Figures], out: TextIO) -> None:
    """How the devices are, of which a driver tells it."""
    headings = (
        Heading("DEVICE"), Heading("USED", "whole"), Heading("BUSY", "whole"), Heading("POWER", "whole", 3),
        Heading("TEMPERATURE", "whole", 4), Heading("THROTTLED", "whole", 2), Heading("ECC", "whole", 5),
        Heading("FAULT", "whole"),
    )  # fmt: skip
    Table(headings, out).write(
        [
            (
                str(device.index),
                "-" if found.used_bytes is None else format_bytes(found.used_bytes),
                "-" if found.busy is None else f"{found.busy / 10:g}%",
                "-" if found.power_watts is None else f"{found.power_watts:.0f} W",
                "-" if found.temperature is None else f"{found.temperature} C",
                ", ".join(found.throttling) or "-",
                "-" if found.ecc_uncorrected is None else f"{found.ecc_uncorrected} uncorrected",
                found.fault or "-",
            )
            for device in devices
            if (found := figures.get(device.id)) is not None
        ]
    )


def lease_usage_table(uses: Sequence[LeaseUsage], out: TextIO) -> None:
    headings = (
        Heading("PARTITION", "whole"), Heading("DEVICE", "whole", 5), Heading("MEMORY", "whole", 1),
        Heading("USED", "whole"), Heading("IDLE", "whole", 3), Heading("COMPUTE", "whole", 2), Heading("BUSY", "whole"),
        Heading("IDLE", "whole", 4), Heading("", "whole"),
    )  # fmt: skip
    Table(headings, out).write(
        [
            (
                use.lease.id,
                str(use.lease.device),
                format_bytes(use.lease.memory_bytes),
                "-" if use.memory_bytes is None else format_bytes(use.memory_bytes),
                "-" if use.idle_memory_bytes is None else format_bytes(use.idle_memory_bytes),
                f"{use.lease.compute / 10:g}%",
                "-" if use.compute is None else f"{use.compute / 10:g}%",
                "-" if use.idle_compute is None else f"{use.idle_compute / 10:g}%",
                _note(use),
            )
            for use in uses
        ]
    )


def _note(use: LeaseUsage) -> str:
    if use.lease.parked_bytes:
        return f"{use.lease.state.lower()}: {format_bytes(use.lease.parked_bytes)} of main memory"
    return "over its lease" if use.over else "over its compute" if use.over_compute else ""


def parking_lines(parking: Parking) -> list[str]:
    """What of main memory is set aside for parked leases, where anything is, or anything is proven."""
    if not parking.used_bytes and not parking.proofs:
        return []
    used, most = format_bytes(parking.used_bytes), format_bytes(parking.limit_bytes)
    return [f"parked leases: {used} of {most} of main memory"]


def proofs_table(proofs: Sequence[Proof], out: TextIO) -> None:
    """What was shown to come back from main memory, and what was not."""
    headings = (
        Heading("DEVICE", "cut", 2), Heading("DRIVER", "whole"), Heading("FRAMEWORK", "whole"),
        Heading("PARKABLE", "whole"), Heading("TESTED", "whole", 4), Heading("", "cut", 1),
    )  # fmt: skip
    Table(headings, out).write(
        [
            (each.device, each.driver, each.framework, "yes" if each.holds else "no", to_the_second(each.tested_at),
             each.message)
            for each in proofs
        ]
    )  # fmt: skip


def leases_table(leases: Sequence[Lease], out: TextIO) -> None:
    named = any(lease.name for lease in leases)
    headings = (
        Heading("PARTITION", "whole"), *([Heading("NAME", "whole", 1)] if named else []), Heading("DEVICE", "whole", 3),
        Heading("USER", "cut", 2), Heading("MEMORY", "whole", 1), Heading("COMPUTE", "whole", 4),
        Heading("STATE", "whole"), Heading("ENDS IN", "whole"),
    )  # fmt: skip
    Table(headings, out).write(
        [
            (
                lease.id,
                *([lease.name or "-"] if named else []),
                str(lease.device),
                lease.user or "-",
                format_bytes(lease.memory_bytes),
                f"{lease.compute / 10:g}%",
                _state(lease),
                format_duration(lease.expires_in) if lease.state.goes_on else "-",
            )
            for lease in leases
        ]
    )


def _state(lease: Lease) -> str:
    return lease.state.value if lease.end_reason is None else f"{lease.state.value} ({lease.end_reason.value})"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if part in (0, whole) else f"{100 * part / whole:.1f}%"
