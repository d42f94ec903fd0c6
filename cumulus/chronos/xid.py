"""Errors of NVIDIA's driver (Xid) after which a GPU is not to be used: which they are, and those in the kernel's log.

Numbers and meanings: docs.nvidia.com/deploy/xid-errors. Most Xids are a program's own fault (13, 31, 43, 45) and say
nothing of the GPU. Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

FATAL = {
    48: "an uncorrectable memory error",
    64: "its memory cannot be repaired by remapping rows",
    79: "it has fallen off the bus",
    95: "an uncontained memory error",
    119: "its firmware (GSP) does not answer",
    120: "its firmware (GSP) failed",
    140: "an unrecovered memory error",
    154: "its driver asks for a reset",
}

OFF_THE_BUS = 79

KERNEL_LOG = "/dev/kmsg"
# Priorities from 8 on are of programs that write to the log, and none of the kernel's.
_RECORD = re.compile(r"[0-7],\d+,(\d+),[^;]*;NVRM: Xid \(PCI:([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2})[^)]*\): (\d+)", re.I)
_RECORD_BYTES = 8192
_MOST = 100_000


def fault(number: int) -> str:
    """What a fatal one means for its GPU, "" for all others."""
    return f"Xid {number}: {FATAL[number]}" if number in FATAL else ""


def in_kernel_log(since: float, path: str = KERNEL_LOG) -> Iterator[tuple[str, int]]:
    """PCI address and number of each Xid that the kernel's log has since so many seconds after the boot. Nothing where
    this user may not read it."""
    try:
        log = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for _ in range(_MOST):
            try:
                record = os.read(log, _RECORD_BYTES)
            except BrokenPipeError:
                # It was overwritten before it was read.
                continue
            if not record:
                return
            found = _RECORD.match(record.decode(errors="replace"))
            if found is not None and int(found[1]) / 1e6 > since:
                yield found[2].lower(), int(found[3])
    except OSError:
        return
    finally:
        os.close(log)
