"""The node's devices and leases in Prometheus' text format: what `chronos_cli metrics` prints.

Format: prometheus.io/docs/instrumenting/exposition_formats. Base units, as its naming rules ask: bytes, seconds,
ratios. For a node exporter's textfile collector, or any program that serves the output.
"""

from __future__ import annotations

from collections.abc import Sequence

from cumulus.chronos.contract import FULL_COMPUTE, Device, LeasedTotal
from cumulus.chronos.usage import LeaseUsage, NodeUsage

_Labels = dict[str, str]
_Sample = tuple[_Labels, float | None]
_Family = tuple[str, str, list[_Sample]]


def exposition(rows: Sequence[tuple[Device, LeasedTotal, int]], use: NodeUsage) -> str:
    """`rows` are devices with what of them is leased, by how many leases. What is not known is left out."""
    families = [*_of_devices(rows, use), *_of_leases(use.leases)]
    return "".join(_written(f"chronos_{name}", text, samples) for name, text, samples in families)


def _of_devices(rows: Sequence[tuple[Device, LeasedTotal, int]], use: NodeUsage) -> list[_Family]:
    devices = [({"device": str(d.index), "id": d.id, "name": d.name}, d, leased, count) for d, leased, count in rows]
    held = {id: whole.memory_bytes for id, whole in use.devices.items()}
    busy = {id: whole.compute for id, whole in use.devices.items()}
    return [
        ("device_memory_bytes", "Memory of the device.", [(x, d.memory_bytes) for x, d, _, _ in devices]),
        ("device_leased_memory_bytes", "Memory leased.", [(x, leased.memory_bytes) for x, _, leased, _ in devices]),
        ("device_used_memory_bytes", "Memory in use.", [(x, held.get(d.id)) for x, d, _, _ in devices]),
        ("device_leased_compute_ratio", "Compute leased.", [(x, _ratio(u.compute)) for x, _, u, _ in devices]),
        ("device_busy_ratio", "Part of the time with work.", [(x, _ratio(busy.get(d.id))) for x, d, _, _ in devices]),
        ("device_leases", "Live leases.", [(x, count) for x, _, _, count in devices]),
    ]


def _of_leases(uses: Sequence[LeaseUsage]) -> list[_Family]:
    leases = [(_labels(one), one) for one in uses]
    return [
        ("lease_memory_bytes", "Memory leased.", [(x, one.lease.memory_bytes) for x, one in leases]),
        ("lease_used_memory_bytes", "Memory that its processes hold.", [(x, one.memory_bytes) for x, one in leases]),
        ("lease_idle_memory_bytes", "Leased, not used.", [(x, one.idle_memory_bytes) for x, one in leases]),
        ("lease_compute_ratio", "Compute leased.", [(x, _ratio(one.lease.compute)) for x, one in leases]),
        ("lease_busy_ratio", "Part of the time with work.", [(x, _ratio(one.compute)) for x, one in leases]),
        ("lease_idle_compute_ratio", "Leased, not used.", [(x, _ratio(one.idle_compute)) for x, one in leases]),
        ("lease_over", "1 where it holds more memory than it leased.", [(x, one.over) for x, one in leases]),
        (
            "lease_over_compute",
            "1 where it uses more compute than it leased.",
            [(x, one.over_compute) for x, one in leases],
        ),
        ("lease_remaining_seconds", "Until it ends.", [(x, max(0.0, one.lease.expires_in)) for x, one in leases]),
    ]


def _labels(one: LeaseUsage) -> _Labels:
    lease = one.lease
    return {"partition": lease.id, "device": str(lease.device), "user": lease.user, "owner": lease.owner}


def _written(name: str, text: str, samples: Sequence[_Sample]) -> str:
    known = [f"{name}{_braces(labels)} {float(value):.16g}\n" for labels, value in samples if value is not None]
    return "".join([f"# HELP {name} {text}\n# TYPE {name} gauge\n", *known]) if known else ""


def _braces(labels: _Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _ratio(thousandths: int | None) -> float | None:
    return None if thousandths is None else thousandths / FULL_COMPUTE
