"""Gives a container the device nodes of the GPUs it leased: an OCI runtime before runc, for AMD, Intel and others.

    dockerd -> chronos-runtime create --bundle DIR ID -> (config.json gets the devices) -> runc

Docker's services take no --device, and the vendors' own runtimes exist for NVIDIA and AMD alone. As the engine's
default runtime this serves services and plain containers alike. A container says what it leased in CHRONOS_DEVICES:
device ids as `chronos_cli devices` shows them, separated by commas. Standard library only; other calls go to runc
untouched.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VARIABLE = "CHRONOS_DEVICES"
RUNC = "runc"

_PCI = re.compile(r"pci-([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")
_AMD = "0x1002"


def main(arguments: Sequence[str]) -> int:
    """Prepare the bundle where a container is made, then become runc. Returns only where that fails."""
    bundle = _bundle(arguments)
    if bundle is not None:
        try:
            prepare(bundle / "config.json")
        except (OSError, ValueError, KeyError) as error:
            print(f"chronos-runtime: {error}", file=sys.stderr)
            return 1
    runc = os.environ.get("CHRONOS_RUNC") or RUNC
    try:
        os.execvp(runc, [runc, *arguments])
    except OSError as error:
        print(f"chronos-runtime: {runc} cannot be run: {error.strerror}", file=sys.stderr)
    return 127


def prepare(path: Path, home: Path | None = None, sys: Path = Path("/sys"), dev: Path = Path("/dev")) -> None:
    """Add the leased devices to an OCI configuration (runtime-spec, config-linux.md). Raises OSError, ValueError."""
    config = json.loads(path.read_text())
    wanted = _wanted(config)
    if not wanted:
        return
    home = home or Path(os.environ.get("CHRONOS_HOME", "/var/lib/chronos"))
    linux = config.setdefault("linux", {})
    present = {device["path"] for device in linux.setdefault("devices", [])}
    rules = linux.setdefault("resources", {}).setdefault("devices", [])
    for id in wanted:
        nodes = device_nodes(id, home, sys, dev)
        if not nodes:
            raise ValueError(f"no device node of {id} is here; name them in {home}/devices.json")
        for node in nodes:
            device, rule = _entry(node)
            if device["path"] not in present:
                present.add(device["path"])
                linux["devices"].append(device)
            rules.append(rule)
    temporary = path.with_suffix(".chronos")
    temporary.write_text(json.dumps(config))
    temporary.rename(path)


def device_nodes(id: str, home: Path, sys: Path, dev: Path) -> Sequence[Path]:
    """The device nodes of a device: what `home`/devices.json says of it, else those of its PCI address."""
    try:
        named = json.loads((home / "devices.json").read_text()).get(id)
    except FileNotFoundError:
        named = None
    if named is not None:
        return [Path(path) for path in named]
    match = _PCI.fullmatch(id)
    if match is None:
        return []
    place = sys / "bus" / "pci" / "devices" / match[1]
    try:
        names = sorted(path.name for path in (place / "drm").iterdir() if re.fullmatch(r"(card|renderD)\d+", path.name))
        vendor = (place / "vendor").read_text().strip()
    except FileNotFoundError:
        return []
    nodes = [dev / "dri" / name for name in names]
    if vendor == _AMD and (dev / "kfd").exists():
        # ROCm's compute queues; which GPU they reach is limited by the render nodes that are there.
        nodes.append(dev / "kfd")
    return nodes


def _wanted(config: dict[str, Any]) -> Sequence[str]:
    for variable in (config.get("process") or {}).get("env") or ():
        name, _, value = variable.partition("=")
        if name == VARIABLE:
            return [id for id in value.split(",") if id]
    return []


def _entry(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A device and the cgroup's rule that allows it."""
    status = path.stat()
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise ValueError(f"{path} is no device")
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
    numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    device = {"path": str(path), "type": kind, "fileMode": 0o666, "uid": 0, "gid": 0, **numbers}
    return device, {"allow": True, "type": kind, "access": "rwm", **numbers}


def _bundle(arguments: Sequence[str]) -> Path | None:
    """The bundle of a call that makes a container; None for other calls."""
    if "create" not in arguments and "run" not in arguments:
        return None
    for index, word in enumerate(arguments):
        if word in ("--bundle", "-b") and index + 1 < len(arguments):
            return Path(arguments[index + 1])
        if word.startswith("--bundle="):
            return Path(word.partition("=")[2])
    return Path.cwd()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
