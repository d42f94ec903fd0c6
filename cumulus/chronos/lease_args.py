"""Turns what people write (device 0, memory 0.5, duration 1h) into a `LeaseRequest`, for `chronos_cli` and
`Partitioner`."""

from __future__ import annotations

import os
import pwd
import uuid
from collections.abc import Sequence

from cumulus.chronos.contract import Device, LeaseRequest
from cumulus.errors import NoSuchDevice, UsageError
from cumulus.resources.device import slice_of
from cumulus.resources.enforcement import Overuse, Sharing
from cumulus.resources.quantity import parse_duration, parse_millis, parse_share

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL, where nobody says."""


def request(
    device: Device,
    memory: float | str,
    duration: float | str,
    *,
    compute: float | str | None = None,
    grace: float | str = GRACE,
    user: str | None = None,
    id: str | None = None,
    owner: str = "",
    start_within: float = 0.0,
    name: str = "",
    overuse: Overuse | None = None,
    sharing: Sharing = Sharing.CONCURRENT,
) -> LeaseRequest:
    """`compute` None: as great a part as of memory. `id` None: a new one. Raises `UsageError`."""
    try:
        part = slice_of(device.memory_bytes, parse_share(memory), None if compute is None else parse_millis(compute))
        return LeaseRequest(
            id=id or str(uuid.uuid4()),
            device=device.index,
            memory_bytes=part.memory_bytes,
            compute=part.compute,
            seconds=parse_duration(duration),
            user=user or caller(),
            grace=parse_duration(grace),
            owner=owner,
            start_within=start_within,
            name=name,
            overuse=overuse,
            sharing=sharing,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def seconds(duration: float | str) -> float:
    """Raises `UsageError`."""
    try:
        return parse_duration(duration)
    except ValueError as error:
        raise UsageError(str(error)) from None


def choose(devices: Sequence[Device], wanted: int | str) -> Device:
    """The device of that index or id. Raises `NoSuchDevice`, which says why there is none at all."""
    for device in devices:
        if str(wanted) in (str(device.index), device.id):
            return device
    if not devices:
        raise none_offered()
    there = ", ".join(f"{d.index} ({d.name})" for d in devices)
    raise NoSuchDevice(f"there is no device {wanted}; there is {there}", hint="see them with: chronos_cli devices")


def none_offered() -> NoSuchDevice:
    """The error that says why this machine offers no device."""
    from cumulus.chronos.device import explain_none

    return NoSuchDevice("this machine offers no device", hint=explain_none())


def caller() -> str:
    """Who asks: behind sudo, the user who called it."""
    if os.geteuid() == 0 and (behind := os.environ.get("SUDO_USER")):
        return behind
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
