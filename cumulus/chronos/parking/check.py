"""Whether a lease can be parked, by what is known of its processes before any of them is touched. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cumulus.chronos.contract import Device, ParkRefusal, Proof
from cumulus.chronos.enforce.account import Allocates
from cumulus.errors import ParkRefused
from cumulus.lib.processes import ProcessIdentity
from cumulus.resources.quantity import format_bytes
from cumulus.resources.reasons import ParkingReason

SELF_TEST = "prove it on this node with: chronos_cli park-test"


@dataclass(frozen=True, slots=True)
class ProcessEvidence:
    """What is known of one process of a lease."""

    process: ProcessIdentity
    cuda: bool
    """Whether the driver can lock it."""
    held_bytes: int = 0
    """Of the lease's device."""
    elsewhere_bytes: int = 0
    """Of other devices."""
    mps_client: bool = False
    leases: frozenset[str] = frozenset()
    frameworks: frozenset[str] = frozenset()
    allocates: Allocates | None = None
    """How, as the counting library noted it; None where that does not know the process."""


def check_device(device: Device | None, proofs: Sequence[Proof], limit: int, *, unproven: bool = False) -> None:
    """Raises ParkRefused where no lease of that device can be parked."""
    if device is None or device.type != "gpu" or "nvidia" not in device.vendor.lower():
        what = "the device is gone" if device is None else f"{device.name} is not NVIDIA's GPU"
        raise ParkRefused(f"no lease of it can be parked: {what}", reason=ParkingReason.NOT_SUPPORTED)
    if limit == 0:
        raise ParkRefused(
            "this node sets no main memory aside for parked leases", reason=ParkingReason.NO_MEMORY,
            hint="chronos_cli policy --parking-memory 64Gi",
        )  # fmt: skip
    if not unproven and not any(proof.holds and proof.device == device.name for proof in proofs):
        raise ParkRefused(
            f"nothing was shown to come back from main memory on {device.name} here", reason=ParkingReason.NOT_PROVEN,
            hint=SELF_TEST,
        )  # fmt: skip


def refusal(
    processes: Iterable[ProcessEvidence],
    device: Device,
    driver: str,
    proofs: Sequence[Proof],
    *,
    unproven: bool = False,
) -> ParkRefusal | None:
    """Why the lease is not parked; None where all of its processes can be. `driver`: the version that runs now."""
    known = {proof.framework: proof for proof in proofs if (proof.device, proof.driver) == (device.name, driver)}
    for each in processes:
        if not (each.cuda or each.held_bytes or each.elsewhere_bytes):
            continue
        found = _of_process(each) or (None if unproven else _of_proofs(each, known, device, driver))
        if found is not None:
            return ParkRefusal(found[0], f"process {each.process.pid} {found[1]}")
    return None


def check_room(need: int, limit: int, used: int, free: int, own: int | None) -> ParkRefusal | None:
    """Whether so many bytes can be set aside: of the node's `limit`, of which `used` are, of what is `free`, and of
    what the job itself may take (`own`)."""
    if used + need > limit:
        left = f"{format_bytes(max(0, limit - used))} of its {format_bytes(limit)} for parked leases"
        return ParkRefusal(ParkingReason.NO_MEMORY, f"{format_bytes(need)} are needed, and the node has {left} left")
    if need > free:
        text = f"{format_bytes(need)} are needed, and {format_bytes(free)} of main memory are free for it"
        return ParkRefusal(ParkingReason.NO_MEMORY, text)
    if own is not None and need > own:
        text = f"{format_bytes(need)} are needed, and the job may take {format_bytes(own)} more of main memory"
        return ParkRefusal(ParkingReason.MEMORY_LIMIT, text)
    return None


def _of_process(each: ProcessEvidence) -> tuple[ParkingReason, str] | None:
    if each.mps_client:
        return ParkingReason.MPS_CLIENT, "is a client of MPS: ask for sharing: Parkable"
    if len(each.leases) > 1 or each.elsewhere_bytes:
        return ParkingReason.SEVERAL_DEVICES, "uses several devices"
    if not each.cuda:
        return ParkingReason.NOT_CUDA, "holds the GPU otherwise than through CUDA"
    if each.allocates is None:
        if each.held_bytes == 0:
            return None
        return ParkingReason.NOT_COUNTED, "is not known to the counting library: how it allocates, nobody knows"
    for flag, reason, text in _FLAGS:
        if each.allocates & flag:
            return reason, text
    return None


_FLAGS = (
    (Allocates.MANAGED, ParkingReason.MANAGED_MEMORY, "has managed memory, which the driver does not move"),
    (Allocates.SHARED, ParkingReason.SHARED_MEMORY, "shares GPU memory with another process (CUDA IPC)"),
    (Allocates.PEER, ParkingReason.PEER_ACCESS, "reaches the memory of another GPU"),
)


def _of_proofs(
    each: ProcessEvidence, known: dict[str, Proof], device: Device, driver: str
) -> tuple[ParkingReason, str] | None:
    for framework in sorted(each.frameworks):
        proof = known.get(framework)
        on = f"{device.name} with driver {driver or 'unknown'}"
        if proof is None:
            text = f"uses {framework}, which was not shown to come back on {on}: {SELF_TEST}"
            return ParkingReason.NOT_PROVEN, text
        if not proof.holds:
            return ParkingReason.FAILED_BEFORE, f"uses {framework}, which did not come back on {on}: {proof.message}"
    return None
