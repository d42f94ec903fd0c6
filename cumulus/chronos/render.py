"""Leases and devices for people (aligned tables) and for programs (the JSON that `chronos_cli --json` prints).

The JSON is a protocol: fields are added, never renamed or removed, while `PROTOCOL` stays the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cumulus.chronos.lease import FULL_COMPUTE, Device, Health, Lease, LeaseState, Usage
from cumulus.errors import CumulusError
from cumulus.resources.quantity import format_bytes, format_duration

if TYPE_CHECKING:
    from cumulus.chronos.nvml import Use
    from cumulus.chronos.use import LeaseUse

PROTOCOL = 1

_GAP = "  "


def error_json(error: CumulusError) -> dict[str, Any]:
    return {"kind": type(error).__name__, "message": str(error), "hint": error.hint}


def health_json(condition: Health) -> dict[str, Any]:
    return {
        "type": condition.type, "status": condition.status, "reason": condition.reason, "message": condition.message,
    }  # fmt: skip


def device_json(device: Device) -> dict[str, Any]:
    return {
        "index": device.index,
        "id": device.id,
        "name": device.name,
        "vendor": device.vendor,
        "type": device.type,
        "memoryBytes": device.memory_bytes,
        "driver": device.driver,
        "enforcement": device.enforcement.value,
        "platformIndex": device.platform_index,
        "deviceIndex": device.device_index,
    }


def lease_json(lease: Lease) -> dict[str, Any]:
    """`computePercent` is for people, `compute` the exact thousandths; `expiresIn` is in seconds."""
    return {
        "partitionId": lease.id,
        "device": lease.device,
        "deviceId": lease.device_id,
        "memoryBytes": lease.memory_bytes,
        "compute": lease.compute,
        "computePercent": lease.compute / 10,
        "user": lease.user,
        "owner": lease.owner,
        "grace": lease.grace,
        "token": lease.token,
        "state": lease.state.value,
        "grantedAt": lease.granted_at,
        "expiresAt": lease.expires_at,
        "expiresIn": round(lease.expires_in, 6),
        "endReason": lease.end_reason.value if lease.end_reason else None,
        "endedAt": lease.ended_at or None,
    }


def usage_json(device: Device, usage: Usage, count: int, used: Use | None) -> dict[str, Any]:
    """A device with what of it is leased, by how many leases, and what is used of it where the driver tells."""
    return {
        **device_json(device),
        "leases": count,
        "leasedMemoryBytes": usage.memory_bytes,
        "freeMemoryBytes": device.memory_bytes - usage.memory_bytes,
        "leasedCompute": usage.compute,
        "freeCompute": FULL_COMPUTE - usage.compute,
        "usedMemoryBytes": used.memory_bytes if used else None,
        "usedCompute": used.compute if used else None,
    }


def use_json(use: LeaseUse) -> dict[str, Any]:
    """What a lease uses: null where nobody knows. `source` says who does, `over` flags more memory than leased."""
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
    }


def devices_table(devices: Sequence[Device]) -> str:
    header = ("DEVICE", "NAME", "TYPE", "MEMORY", "ENFORCEMENT", "DRIVER", "ID")
    return _table(
        header,
        [
            (str(d.index), d.name, d.type, format_bytes(d.memory_bytes), d.enforcement.value, d.driver, d.id)
            for d in devices
        ],
    )


def usage_table(rows: Sequence[tuple[Device, Usage, int]]) -> str:
    header = ("DEVICE", "NAME", "TYPE", "MEMORY", "LEASED", "FREE", "COMPUTE FREE", "LEASES")
    return _table(
        header,
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
        ],
    )


def use_table(uses: Sequence[LeaseUse]) -> str:
    header = ("PARTITION", "DEVICE", "MEMORY", "USED", "IDLE", "COMPUTE", "BUSY", "IDLE", "")
    return _table(
        header,
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
                "over its lease" if use.over else "",
            )
            for use in uses
        ],
    )


def leases_table(leases: Sequence[Lease]) -> str:
    header = ("PARTITION", "DEVICE", "USER", "MEMORY", "COMPUTE", "STATE", "ENDS IN")
    return _table(
        header,
        [
            (
                lease.id,
                str(lease.device),
                lease.user or "-",
                format_bytes(lease.memory_bytes),
                f"{lease.compute / 10:g}%",
                _state(lease),
                format_duration(lease.expires_in) if lease.state is LeaseState.ACTIVE else "-",
            )
            for lease in leases
        ],
    )


def _state(lease: Lease) -> str:
    return lease.state.value if lease.end_reason is None else f"{lease.state.value} ({lease.end_reason.value})"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if part in (0, whole) else f"{100 * part / whole:.1f}%"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side. On a terminal too narrow for them, the widest one is cut; a pipe gets everything."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if sys.stdout.isatty():
        room = os.get_terminal_size(sys.stdout.fileno()).columns
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
        widest = widths.index(max(widths))
        if excess > 0:
            widths[widest] = max(len(header[widest]), widths[widest] - excess)
    lines = []
    for row in (header, *rows):
        cells = [_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines)


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + "…"
