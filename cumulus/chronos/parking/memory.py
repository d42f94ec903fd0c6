"""How much main memory parked leases may take: what the node's setting allows, and never more than is free.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable

from cumulus.lib import cgroup, processes

_PART, _LEAST = 20, 2**30
"""That part of the main memory, and at least so many bytes, stay free: else the machine begins to swap."""


def limit(setting: int | None) -> int:
    """Bytes for all parked leases together: half of the main memory where nobody says."""
    total, _ = _main_memory()
    return total // 2 if setting is None else min(setting, total)


def free(not_moved_yet: int) -> int:
    """Bytes that may still be set aside. `not_moved_yet`: what was set aside and is still free."""
    return room(*_main_memory(), not_moved_yet)


def room(total: int, available: int, not_moved_yet: int) -> int:
    """The same, of a machine with so much."""
    return max(0, available - not_moved_yet - max(_LEAST, total // _PART))


def least_room(pids: Iterable[int]) -> int | None:
    """Bytes that the cgroups of these processes let them take beyond what they have; None where none has a limit."""
    places = {cgroup.directory_of(pid) for pid in pids}
    rooms = [cgroup.memory_room(place) for place in places if place is not None]
    return min((each for each in rooms if each is not None), default=None)


def _main_memory() -> tuple[int, int]:
    """All of it, and what is free without swapping."""
    said = dict(line.split(b":") for line in processes.content("/proc/meminfo").splitlines() if b":" in line)
    total, available = (int(said.get(key, b"0 kB").split()[0]) * 1024 for key in (b"MemTotal", b"MemAvailable"))
    return total, available
