"""Which OpenCL loader programs get: one that supports layers (ocl-icd 2.3, Khronos' with layers) or one that does not.

CUDA's toolkit brings a loader that does not, and puts it first in the linker's cache.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

NAME = "libOpenCL.so.1"

REMEDY = "Install a loader that knows layers: apt install ocl-icd-libopencl1."

LINKERS_CACHE = "/etc/ld.so.cache"
"""The file of which ldconfig tells. It makes a new one whenever libraries come or go."""

_PATIENCE = 10.0
_known: dict[tuple[str, int, int, int], Sequence[Path]] = {}


def loaders() -> Sequence[Path]:
    """The system's loaders for this machine's programs, the one that programs get first.

    ldconfig is run again once the linker's cache is another file: the start of each job asks, and a supervisor knows
    what the process that forked it has been told."""
    path = f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin"
    try:
        found = os.stat(LINKERS_CACHE)
    except OSError:
        return _told(path) or ()
    now = path, found.st_ino, found.st_size, found.st_mtime_ns
    known = _known.get(now)
    if known is None:
        known = _told(path)
        if known is None:
            return ()
        _known.clear()
        _known[now] = known
    return known


def _told(path: str) -> Sequence[Path] | None:
    """What ldconfig says, None where it does not answer."""
    try:
        done = subprocess.run(
            ["ldconfig", "-p"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, timeout=_PATIENCE, check=False, env={"PATH": path},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    bits = struct.calcsize("P") * 8
    lines = [line.split(" => ") for line in done.stdout.splitlines() if line.strip().startswith(f"{NAME} (")]
    # "(libc6)" alone is a 32-bit library on a 64-bit x86 or Arm.
    return [Path(path) for what, path in lines if bits == 32 or "64" in what]


def knows_layers(loader: Path) -> bool:
    """Whether that loader looks at OPENCL_LAYERS."""
    try:
        return b"OPENCL_LAYERS" in loader.read_bytes()
    except OSError:
        return False


def better_loader(found: Sequence[Path]) -> Path | None:
    """A loader that knows layers, where programs get one that does not. None where none is there or needed."""
    if not found or knows_layers(found[0]):
        return None
    return next(filter(knows_layers, found), None)


def problem(found: Sequence[Path]) -> str:
    """Why programs are not held through the loaders there; "" where they are, or where there is no loader at all."""
    if found and not any(map(knows_layers, found)):
        return f"the OpenCL loader {found[0]} knows no layers"
    return ""
