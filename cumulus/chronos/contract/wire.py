"""The JSON of `chronos_cli --json`: what the node writes and the control plane reads.

It is a protocol: fields are added, never renamed or removed, while `PROTOCOL` stays the same. Who reads ignores fields
that it does not know; `read_*` raise KeyError, TypeError and ValueError where one is missing or of another form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cumulus import errors
from cumulus.chronos.contract.lease import EndReason, Lease, LeaseState, ParkRefusal
from cumulus.chronos.contract.node import Figures, Health, UnleasedProcess
from cumulus.chronos.contract.parking import Parking, Proof
from cumulus.clock import Clock, timestamp
from cumulus.errors import ChronosError, CumulusError, ParkRefused
from cumulus.resources.device import Device, Link
from cumulus.resources.enforcement import Enforcement, Overuse, Sharing

PROTOCOL = 1

_ERRORS: Mapping[str, type[CumulusError]] = {
    kind.__name__: kind
    for kind in (
        errors.NoSuchDevice,
        errors.InsufficientShare,
        errors.NoSuchLease,
        errors.StaleToken,
        errors.ParkRefused,
        errors.LedgerUnavailable,
        errors.LedgerFull,
        errors.LedgerReplaced,
        errors.UsageError,
    )
}


def document(clock: Clock, **fields: Any) -> dict[str, Any]:
    """What --json prints. `time` is the node's, so that who asks from elsewhere can tell the skew of their clocks."""
    return {"version": PROTOCOL, "time": timestamp(clock.now()), **fields}


def error_json(error: CumulusError) -> dict[str, Any]:
    reason = {"reason": error.reason} if isinstance(error, ParkRefused) else {}
    return {"kind": type(error).__name__, "message": str(error), "hint": error.hint, **reason}


def read_error(fields: Mapping[str, Any]) -> CumulusError:
    """The exception that was raised on the node; a `ChronosError` where its kind is not known here."""
    kind = _ERRORS.get(str(fields.get("kind")), ChronosError)
    if kind is ParkRefused:
        return ParkRefused(str(fields.get("message")), reason=str(fields.get("reason", "")), hint=fields.get("hint"))
    return kind(str(fields.get("message")), hint=fields.get("hint"))


def health_json(condition: Health) -> dict[str, Any]:
    return {
        "type": condition.type, "status": condition.status, "reason": condition.reason, "message": condition.message,
    }  # fmt: skip


def read_health(fields: Mapping[str, Any]) -> Health:
    return Health(fields["type"], bool(fields["status"]), fields["reason"], fields["message"])


def figures_json(figures: Figures) -> dict[str, Any]:
    return {
        "usedBytes": figures.used_bytes,
        "busy": figures.busy,
        "powerWatts": figures.power_watts,
        "temperature": figures.temperature,
        "throttling": list(figures.throttling),
        "eccCorrected": figures.ecc_corrected,
        "eccUncorrected": figures.ecc_uncorrected,
        "fault": figures.fault,
    }


def read_figures(fields: Mapping[str, Any]) -> Figures:
    return Figures(
        fields["usedBytes"], fields["busy"], fields["powerWatts"], fields["temperature"], tuple(fields["throttling"]),
        fields["eccCorrected"], fields["eccUncorrected"], fields["fault"],
    )  # fmt: skip


def unleased_json(process: UnleasedProcess) -> dict[str, Any]:
    return {
        "deviceId": process.device_id, "pid": process.pid, "uid": process.uid, "user": process.user,
        "program": process.program, "memoryBytes": process.memory_bytes,
    }  # fmt: skip


def read_unleased(fields: Mapping[str, Any]) -> UnleasedProcess:
    return UnleasedProcess(
        fields["deviceId"], int(fields["pid"]), int(fields["uid"]), str(fields["user"]), str(fields["program"]),
        int(fields["memoryBytes"]),
    )  # fmt: skip


def parking_json(parking: Parking) -> dict[str, Any]:
    return {
        "limitBytes": parking.limit_bytes,
        "usedBytes": parking.used_bytes,
        "proofs": [
            {
                "device": proof.device, "driver": proof.driver, "framework": proof.framework, "holds": proof.holds,
                "message": proof.message, "testedAt": proof.tested_at,
            }
            for proof in parking.proofs
        ],
    }  # fmt: skip


def read_parking(fields: Mapping[str, Any]) -> Parking:
    proofs = tuple(
        Proof(each["device"], each["driver"], each["framework"], bool(each["holds"]), each["message"], each["testedAt"])
        for each in fields["proofs"]
    )
    return Parking(int(fields["limitBytes"]), int(fields["usedBytes"]), proofs)


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
        "nextMemoryBytes": device.next_memory_bytes,
        "platformIndex": device.platform_index,
        "deviceIndex": device.device_index,
        "links": [[link.value, list(devices)] for link, devices in device.links],
        **({"parent": device.parent} if device.parent else {}),
    }


def read_device(fields: Mapping[str, Any]) -> Device:
    return Device(
        index=fields["index"], id=fields["id"], name=fields["name"], vendor=fields["vendor"], type=fields["type"],
        memory_bytes=fields["memoryBytes"], driver=fields["driver"], enforcement=Enforcement(fields["enforcement"]),
        platform_index=fields["platformIndex"], device_index=fields["deviceIndex"],
        next_memory_bytes=fields.get("nextMemoryBytes", 0),
        links=tuple((Link(link), tuple(devices)) for link, devices in fields.get("links", ())),
        parent=fields.get("parent", ""),
    )  # fmt: skip


def lease_json(lease: Lease) -> dict[str, Any]:
    """`computePercent` is for people, `compute` the exact thousandths; `expiresIn` and `movedIn` are in seconds. The
    end of a lease that is Parked is its parking's."""
    refused = lease.park_refused
    return {
        "partitionId": lease.id,
        "device": lease.device,
        "deviceId": lease.device_id,
        "memoryBytes": lease.memory_bytes,
        "compute": lease.compute,
        "computePercent": lease.compute / 10,
        "user": lease.user,
        "owner": lease.owner,
        "name": lease.name,
        "grace": lease.grace,
        "token": lease.token,
        "state": lease.state.value,
        "grantedAt": lease.granted_at,
        "expiresAt": lease.expires_at,
        "expiresIn": round(lease.expires_in, 6),
        "endReason": lease.end_reason.value if lease.end_reason else None,
        "endedAt": lease.ended_at or None,
        "overuse": lease.overuse.value,
        "heldBytes": lease.held_bytes,
        "sharing": lease.sharing.value,
        "parkedBytes": lease.parked_bytes,
        "parkedAt": lease.parked_at or None,
        "movedIn": round(lease.moved_in, 6),
        "parkRefused": refused and {"reason": refused.reason, "message": refused.message},
    }


def read_lease(fields: Mapping[str, Any]) -> Lease:
    reason, refused = fields["endReason"], fields.get("parkRefused")
    return Lease(
        id=fields["partitionId"], device=fields["device"], device_id=fields["deviceId"],
        memory_bytes=fields["memoryBytes"], compute=fields["compute"], user=fields["user"], owner=fields["owner"],
        grace=fields["grace"], token=fields["token"], state=LeaseState(fields["state"]),
        granted_at=fields["grantedAt"], expires_at=fields["expiresAt"], expires_in=fields["expiresIn"],
        end_reason=EndReason(reason) if reason else None, ended_at=fields["endedAt"] or "",
        name=fields.get("name", ""), overuse=Overuse(fields.get("overuse", Overuse.REPORT)),
        held_bytes=fields.get("heldBytes", 0), sharing=Sharing(fields.get("sharing", Sharing.CONCURRENT)),
        parked_bytes=fields.get("parkedBytes", 0), parked_at=fields.get("parkedAt") or "",
        moved_in=fields.get("movedIn", 0.0),
        park_refused=ParkRefusal(str(refused["reason"]), str(refused["message"])) if refused else None,
    )  # fmt: skip
