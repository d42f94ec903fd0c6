"""The account of a lease on disk: Chronos writes its size and end, and in its processes the OpenCL layer and the
CUDA counter write what they use.

The layouts are those of common/account.h. The end is a CLOCK_BOOTTIME deadline in a file that they map
read-only, so that a renewal reaches running jobs, and a job of another user cannot move it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import urllib.parse
import uuid
from collections.abc import Iterator
from enum import IntFlag
from pathlib import Path

from cumulus.chronos.contract import Device, Lease, LeaseState
from cumulus.clock import Clock, SystemClock
from cumulus.errors import LedgerUnavailable
from cumulus.lib.files import replacing
from cumulus.lib.processes import ProcessIdentity, is_alive

_LIMITS = struct.Struct("=8sQQii16s")
_LIMITS_MAGIC = b"CHRLIM1\0"
_SHARES = struct.Struct("=QQ")
_SHARES_AT = 8

_USAGE_MAGIC = b"CHRUSE1\0"
_SLOTS_AT = 128
_SLOT = struct.Struct("=iIQQQQ")
_LARGEST = 2**20
_KNOWN = 15


class Allocates(IntFlag):
    """How a process allocates, as ALLOCATES_* of common/account.h."""

    MANAGED = 1
    SHARED = 2
    PEER = 4
    MAPPED = 8


_PRIVATE, _REACHABLE = "accounts", "accounts-of-users"
"""Directories of accounts: past the second every user of the node gets."""


def directory(home: Path, lease_id: str) -> Path:
    """Where the account of that lease is. Any id gives a safe name without colons, which separate accounts."""
    name = urllib.parse.quote(lease_id, safe="").replace(".", "%2E")
    reachable = home / _REACHABLE / name
    return reachable if reachable.is_dir() else home / _PRIVATE / name


def open_account(lease: Lease, device: Device, home: Path, clock: Clock | None = None, user: int | None = None) -> Path:
    """Make the lease's account, or bring it up to date, and return its directory. Raises `LedgerUnavailable`.

    A container's user is seldom Chronos' own, and may write its usage: the container is shown this directory, while
    nobody else on the node gets past the one above it. Of a lease of the node's user `user` all who know its id may
    read the size and the end, and that user alone can write the usage.
    """
    place = directory(home, lease.id)
    if user is not None:
        place = home / _REACHABLE / place.name
    try:
        place.parent.mkdir(mode=0o711 if user is not None else 0o700, parents=True, exist_ok=True)
        if user is not None:
            home.chmod(0o711)
            place.parent.chmod(0o711)
        place.mkdir(exist_ok=True)
        place.chmod(0o711 if user is not None else 0o755)
        usage = _open(place / "usage", os.O_RDWR | os.O_CREAT)
        if user is None:
            os.fchmod(usage, 0o666)
        else:
            os.fchown(usage, user, -1)
        os.close(usage)
        if not os.path.lexists(place / "limits"):
            shares = _shares(lease, clock)
            numbers = (device.platform_index, device.device_index)
            with replacing(str(place / "limits"), durable=False) as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(_LIMITS.pack(_LIMITS_MAGIC, *shares, *numbers, _uuid(device)))
    except OSError as error:
        raise LedgerUnavailable(f"{place}: {error.strerror}", hint="The lease's account could not be made.") from error
    update(lease, home, clock)
    return place


def _uuid(device: Device) -> bytes:
    """As cl_khr_device_uuid and cuDeviceGetUuid tell it; NVIDIA's devices go by it, other ids are none."""
    kind, _, text = device.id.partition("-")
    try:
        return uuid.UUID(text).bytes if kind in ("GPU", "MIG") else b""
    except ValueError:
        return b""


def update(lease: Lease, home: Path, clock: Clock | None = None) -> None:
    """Tell running jobs the lease's size and end, where it has an account. Raises `LedgerUnavailable`."""
    path = directory(home, lease.id) / "limits"
    try:
        # In place: they have the file mapped.
        with open(_open(path, os.O_RDWR), "r+b") as file:
            file.seek(_SHARES_AT)
            file.write(_SHARES.pack(*_shares(lease, clock)))
    except FileNotFoundError:
        return
    except OSError as error:
        raise LedgerUnavailable(f"{path}: {error.strerror}", hint="The lease's end could not be written.") from error


def close_account(lease_id: str, home: Path) -> None:
    """Remove the account of a lease whose processes are gone."""
    shutil.rmtree(directory(home, lease_id), ignore_errors=True)


def used(lease_id: str, home: Path) -> dict[int, int]:
    """Bytes of OpenCL and CUDA memory that each living process of the lease holds. Empty where none took any."""
    found: dict[int, int] = {}
    for pid, _, start, namespace, _, size in _slots(lease_id, home):
        # What a process of another PID namespace (a container) is called here is not known: it is taken at its word.
        if namespace != _namespace() or is_alive(ProcessIdentity(pid, start)):
            found[pid] = found.get(pid, 0) + size
    return found


def noted(lease_id: str, home: Path) -> dict[tuple[int, int], Allocates]:
    """How each process of the lease allocates that ever took memory, by its number in its PID namespace, and the number
    of that. A process is known by both: ones that have ended may be among them."""
    found: dict[tuple[int, int], Allocates] = {}
    for pid, notes, _, namespace, _, _ in _slots(lease_id, home):
        found[pid, namespace] = found.get((pid, namespace), Allocates(0)) | Allocates(notes & _KNOWN)
    return found


def _slots(lease_id: str, home: Path) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Those in use: pid, notes, start, namespace, image, bytes."""
    try:
        # A program of the lease may have made it as large as it likes.
        with open(_open(directory(home, lease_id) / "usage", os.O_RDONLY), "rb") as file:
            content = file.read(_LARGEST)
    except OSError:
        return
    if not content.startswith(_USAGE_MAGIC):
        return
    (slots,) = struct.unpack_from("=I", content, len(_USAGE_MAGIC))
    for at in range(_SLOTS_AT, min(_SLOTS_AT + slots * _SLOT.size, len(content) - _SLOT.size + 1), _SLOT.size):
        slot = _SLOT.unpack_from(content, at)
        if slot[0]:
            yield slot


def _open(path: Path, flags: int) -> int:
    """The file itself, as a descriptor: a container whose user is root is shown the directory, and may put a link to
    another of the node's files there, or a pipe that nobody writes to. Raises OSError."""
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    raise OSError(errno.EINVAL, "not a file")


def _shares(lease: Lease, clock: Clock | None) -> tuple[int, int]:
    """Bytes, and nanoseconds of the clock at which the lease ends: now, where it is ending."""
    left = lease.expires_in if lease.state.goes_on else min(lease.expires_in, 0.0)
    deadline = (clock or SystemClock()).monotonic() + left
    # What is parked has nothing of the GPU: a new process of it gets none either.
    size = 0 if lease.state is LeaseState.PARKED else lease.memory_bytes
    return size, max(int(deadline * 1e9), 1)


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
