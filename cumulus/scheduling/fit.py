"""Whether a device matches, apart from what is free on it, and how large a demand's share of it is.

The one place that says so: placement asks for a yes or no, `explain` for the words.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import NamedTuple

from cumulus.resources.device import FULL_COMPUTE, Device, amounts_of
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.node import HostJobs
from cumulus.resources.quantity import format_bytes
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling.claim import Demand, Filter
from cumulus.scheduling.snapshot import Node

# OpenCL names AMD in full; people write the short name.
_VENDOR_ALIASES = {"amd": ("amd", "advanced micro devices")}


class Reason(NamedTuple):
    """Why something does not fit: one CamelCase word, and a sentence part for people."""

    code: str
    message: str


def utc(moment: datetime) -> str:
    """The time as messages show it: 2030-01-31T12:00:00Z."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def unavailable(node: Node) -> Reason | None:
    """Why this node takes nothing new now."""
    if not node.ready:
        return Reason(SchedulingReason.NODE_NOT_READY, f"the node is not ready: {node.not_ready}")
    if node.cordoned:
        return Reason(SchedulingReason.CORDONED, "the node is cordoned")
    return None


def node_mismatch(wanted: Filter, node: Node) -> Reason | None:
    """Why this node will never do, whatever its devices."""
    if wanted.node and node.name != wanted.node:
        return Reason(SchedulingReason.OTHER_NODE, f"is asked of the node {wanted.node}")
    if wanted.runtime and wanted.runtime not in node.runtimes:
        offered = ", ".join(node.runtimes) or "none"
        why = f": {node.host_jobs.message}" if wanted.user and node.host_jobs is not None else ""
        return Reason(
            SchedulingReason.RUNTIME_MISSING, f"needs the runtime {wanted.runtime}, the node offers {offered}{why}"
        )
    if wanted.user and node.host_jobs is not None and (problem := _not_on_node(wanted, node.name, node.host_jobs)):
        return Reason(SchedulingReason.NOT_ON_NODE, problem)
    if wanted.saved_alone and wanted.saved_on != node.name and wanted.saved_on not in node.reached:
        return Reason(
            SchedulingReason.CHECKPOINT_AWAY,
            f"the job's checkpoint is on {wanted.saved_on} alone, which does not answer",
        )
    places = node.checkpoint_places
    if wanted.checkpoint_place and places is not None and wanted.checkpoint_place not in places:
        return Reason(
            SchedulingReason.NO_UPLOADER,
            f"copies no checkpoints to {wanted.checkpoint_place}://: it has no boto3 (cumulus node setup {node.name}, "
            "or pip install 'cumulus-chronos[s3]' there)",
        )
    for key, value in wanted.node_labels:
        if node.labels.get(key) != value:
            there = f"{key}={node.labels[key]}" if key in node.labels else f"no label {key}"
            return Reason(SchedulingReason.LABEL_MISMATCH, f"needs the label {key}={value}, the node has {there}")
    return None


def _not_on_node(wanted: Filter, name: str, there: HostJobs) -> str:
    """Why a program without an image does not run on this node, which is not the daemon's own machine."""
    if wanted.only_here:
        return f"{wanted.only_here} runs on the daemon's own machine alone"
    problem = there.problem_of(wanted.user)
    if problem is None:
        return f"the node has not yet said whether it knows the user {wanted.user.rpartition(':')[0]}"
    if problem:
        return problem
    if wanted.directory and name not in wanted.same_on and not there.shares(wanted.directory):
        return f"the directory {wanted.directory} is not known to be the same there"
    if wanted.python and not there.shares(wanted.python):
        return f"the Python {wanted.python} is not known to be the same there"
    return ""


def device_mismatch(wanted: Filter, device: Device) -> Reason | None:
    """Why this device will never do, however empty it is."""
    if wanted.device >= 0 and device.index != wanted.device:
        return Reason(
            SchedulingReason.NO_MATCHING_DEVICE, f"needs device {wanted.device}, this is device {device.index}"
        )
    if device.index in wanted.avoid:
        return Reason(
            SchedulingReason.NO_MATCHING_DEVICE, f"device {device.index} holds another share of the same replica"
        )
    if any(fnmatchcase(device.name, glob) for glob in wanted.without):
        return Reason(SchedulingReason.QUEUE_LIMIT, f"its queue may have no more of {device.name}")
    if wanted.type and device.type != wanted.type:
        return Reason(SchedulingReason.NO_MATCHING_DEVICE, f"selector type {wanted.type} does not match {device.type}")
    if wanted.vendor and not _is_vendor(wanted.vendor, device.vendor):
        return Reason(
            SchedulingReason.NO_MATCHING_DEVICE, f"selector vendor {wanted.vendor} does not match {device.vendor!r}"
        )
    if wanted.name and not fnmatchcase(device.name, wanted.name):
        return Reason(
            SchedulingReason.NO_MATCHING_DEVICE, f"selector name {wanted.name} does not match {device.name!r}"
        )
    if device.memory_bytes < wanted.min_memory:
        return Reason(
            SchedulingReason.NO_MATCHING_DEVICE,
            f"selector minMemory {format_bytes(wanted.min_memory)} is more than {format_bytes(device.memory_bytes)}",
        )
    if not device.enforcement.satisfies(wanted.min_enforcement):
        return Reason(
            SchedulingReason.ENFORCEMENT_TOO_WEAK,
            f"needs enforcement {wanted.min_enforcement}, device {device.index} offers {device.enforcement}",
        )
    return None


def too_large(demand: Demand, device: Device) -> Reason | None:
    """Why the share is more than the whole device."""
    memory, _ = share_of(demand, device.memory_bytes)
    if memory > device.memory_bytes:
        return Reason(
            SchedulingReason.TOO_LARGE,
            f"needs {format_bytes(memory)}, device {device.index} has {format_bytes(device.memory_bytes)} in all",
        )
    return None


def share_of(demand: Demand, capacity: int) -> tuple[int, int]:
    """Bytes and thousandths of compute that the demand takes of a device with `capacity` bytes. A demand for hard
    enforcement takes all of it: hardware keeps devices apart, and not what shares one."""
    amounts = amounts_of(capacity, demand.memory, demand.compute)
    if demand.filter.min_enforcement is Enforcement.HARD and amounts[0] <= capacity:
        return capacity, FULL_COMPUTE
    return amounts


def _is_vendor(wanted: str, vendor: str) -> bool:
    there = vendor.lower()
    return any(name in there for name in _VENDOR_ALIASES.get(wanted, (wanted,)))
