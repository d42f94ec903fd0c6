"""Processes that hold a device without any lease: who they are, and what becomes of them where a node ends them.

Pure but for what it reads of a process; `police` looks, and signals.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cumulus.chronos.contract import UnleasedProcess
from cumulus.chronos.contract.policy import Policy
from cumulus.chronos.policing import ALLOWANCE_BYTES
from cumulus.lib import printable, processes
from cumulus.lib.processes import ProcessIdentity
from cumulus.lib.unix_user import name_of
from cumulus.resources.enforcement import Unleased

TOLD_SECONDS = 2.5
"""A process is told of once it has held a device for so long: many look what there is, and go."""

NOTICE_SECONDS = 10.0
"""A process that is to be ended gets SIGTERM after so long; `Partitioner`, say, asks for its lease within that."""

KILL_SECONDS = 5.0
"""And SIGKILL so much later."""

FIRST_PERSON = 1000
"""Users from this number on are people; those below are the system's own."""

_MOST = 64
_MPS = "nvidia-cuda-mps"


@dataclass(slots=True)
class UnleasedProcesses:
    """Remembers since when each process has held which device."""

    _since: dict[tuple[str, ProcessIdentity], float] = field(default_factory=dict)

    def look(self, found: Mapping[tuple[str, ProcessIdentity], int], looked: Iterable[str], now: float) -> None:
        """What processes without a lease hold of the devices that were `looked` at."""
        seen = set(looked)
        kept = {key: since for key, since in self._since.items() if key[0] not in seen or key in found}
        self._since = {**dict.fromkeys(found, now), **kept}

    def for_so_long(self, seconds: float, now: float) -> set[tuple[str, ProcessIdentity]]:
        return {key for key, since in self._since.items() if now - since >= seconds}


def told(held: Mapping[tuple[str, ProcessIdentity], int]) -> tuple[UnleasedProcess, ...]:
    """Who they are, the largest first; without those of a device that together hold less than one context needs."""
    by_device: dict[str, int] = {}
    for (device, _), size in held.items():
        by_device[device] = by_device.get(device, 0) + size
    found = []
    for (device, process), size in sorted(held.items(), key=lambda item: -item[1])[:_MOST]:
        if by_device[device] > ALLOWANCE_BYTES and (who := describe(device, process, size)) is not None:
            found.append(who)
    return tuple(found)


def describe(device: str, process: ProcessIdentity, size: int) -> UnleasedProcess | None:
    """None where it is gone."""
    uid = processes.user(process.pid)
    if uid is None:
        return None
    program = printable.one_line(processes.name(process.pid)) or "?"
    return UnleasedProcess(device, process.pid, uid, printable.one_line(name_of(uid)), program, size)


def is_ours(process: ProcessIdentity) -> bool:
    """Whether it is MPS's own server, which holds a little for all leases. By its user too: a name is anybody's."""
    return processes.user(process.pid) in (0, os.geteuid()) and processes.name(process.pid).startswith(_MPS)


def may_end(process: UnleasedProcess, policy: Policy) -> bool:
    """Whether the node's rule ends it: a person's, and no exception."""
    if policy.unleased is not Unleased.END or process.uid < FIRST_PERSON:
        return False
    excepted = {f"user:{process.user}", f"user:{process.uid}", f"program:{_system_program(process.pid)}"}
    return excepted.isdisjoint(policy.exceptions)


def _system_program(pid: int) -> str:
    """The name of the program's file, if it is root's; "" else. What a process calls itself may be any program's."""
    try:
        path = os.readlink(f"/proc/{pid}/exe")
        return os.path.basename(path) if os.stat(f"/proc/{pid}/exe").st_uid == 0 else ""
    except OSError:
        return ""
