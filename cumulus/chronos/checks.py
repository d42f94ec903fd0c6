"""Checks requests for leases, and words the refusals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from cumulus.chronos.contract import FULL_COMPUTE, Device, Lease, LeaseRequest, LeaseState
from cumulus.chronos.device_records import LeasedShare
from cumulus.errors import ChronosError, InsufficientShare, NoSuchDevice, StaleToken, UsageError
from cumulus.lib import printable
from cumulus.resources.quantity import format_bytes

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_MAX_TEXT = 253
_MAX_SECONDS = 100 * 365 * 86400.0


def check_token(lease: Lease, token: int | None) -> None:
    if token is not None and token != lease.token:
        raise StaleToken(f"token {token} is not that of lease {lease.id}, which is {lease.token}")


def check_same(lease: Lease, request: LeaseRequest) -> None:
    if lease.state is LeaseState.ENDED:
        return
    asked = (request.device, request.memory_bytes, request.compute)
    if asked != (lease.device, lease.memory_bytes, lease.compute):
        raise ChronosError(
            f"lease {lease.id} lives with another share: device {lease.device}, {format_bytes(lease.memory_bytes)},"
            f" {lease.compute / 10:g}% compute",
            hint="ask with another id, or release that lease first",
        )


def check_fits(request: LeaseRequest | Lease, share: LeasedShare) -> None:
    free = share.memory_bytes - share.used_memory
    if request.memory_bytes > free:
        raise InsufficientShare(
            f"device {request.device} has {format_bytes(free)} of {format_bytes(share.memory_bytes)} memory free;"
            f" {format_bytes(request.memory_bytes)} asked for",
            hint="see who holds it, and until when, with: chronos_cli list",
        )
    if request.compute > FULL_COMPUTE - share.used_compute:
        raise InsufficientShare(
            f"device {request.device} has {(FULL_COMPUTE - share.used_compute) / 10:g}% compute free;"
            f" {request.compute / 10:g}% asked for",
            hint="see who holds it, and until when, with: chronos_cli list",
        )


def failed_device(index: int, fault: str) -> InsufficientShare:
    return InsufficientShare(
        f"device {index} has failed: {fault}",
        hint="take another one; after a reset of this one, root says: chronos_cli devices --refresh",
    )


def check_request(request: LeaseRequest) -> None:
    if not _ID.fullmatch(request.id):
        raise UsageError(f"{request.id!r} is not a lease id", hint="use up to 127 letters, digits, '.', '_' and '-'")
    for what, text in (("user", request.user), ("owner", request.owner)):
        if printable.harmful(text) is not None:
            raise UsageError(f"{text!r} cannot be the {what} of a lease: it holds control characters")
        if len(text) > _MAX_TEXT:
            raise UsageError(f"the {what} of a lease has {len(text)} characters; at most {_MAX_TEXT} are kept")
    if request.memory_bytes < 1:
        raise UsageError(f"{request.memory_bytes} bytes of memory is not a share; ask for at least 1")
    if not 1 <= request.compute <= FULL_COMPUTE:
        raise UsageError(f"{request.compute / 10:g}% compute is out of range; ask for 0.1% to 100%")
    if not (math.isfinite(request.grace) and 0 <= request.grace <= _MAX_SECONDS):
        raise UsageError(f"a grace period of {request.grace}s is out of range; it is at least 0s")
    if not (math.isfinite(request.start_within) and 0 <= request.start_within <= _MAX_SECONDS):
        raise UsageError(f"a start within {request.start_within}s is out of range; it is at least 0s")
    check_seconds(request.seconds)


def check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and 0 < seconds <= _MAX_SECONDS):
        raise UsageError(f"a lease of {seconds}s is out of range; it lasts more than 0s and at most 100 years")


def no_device(index: int, offered: Sequence[Device]) -> NoSuchDevice:
    if not offered:
        return NoSuchDevice(
            "this machine offers no device",
            hint="install a GPU driver with OpenCL, or try without a GPU: pip install 'pyopencl[pocl]'",
        )
    there = ", ".join(f"{d.index} ({d.name})" for d in offered)
    return NoSuchDevice(f"there is no device {index}; there is {there}", hint="see them with: chronos_cli devices")
