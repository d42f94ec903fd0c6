"""Whose a process is that holds a GPU: the leases that it runs in, told by what it cannot change about itself first.

These tell: the cgroup of a lease; the container that `chronos-runtime` gave a start slot; processes of leases that it
descends from; sessions that leases made. Where they tell nothing, the environment that it was started with does. That
is a program's own word, so that it counts only where it blames nobody else: for processes of the same user as the
lease's, and where none of those is known, of the user that the lease was made for, of Chronos' own, and of containers.

What was found of a process holds for its life: one that leaves its cgroup and loses its parents is still known. It may
lease more later.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.runtime import SLOTS, TAKEN
from cumulus.chronos.snapshot import leases_of
from cumulus.lib import cgroup, processes
from cumulus.lib.processes import ProcessIdentity
from cumulus.lib.unix_user import name_of

_CONTAINER = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MOST_ANCESTORS = 64


class ProcessOwners:
    """`of` is asked for each process that a driver lists, several times a second."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._leases: Sequence[LeaseProcesses] = ()
        self._attached: dict[ProcessIdentity, set[str]] = {}
        self._sessions: dict[ProcessIdentity, set[str]] = {}
        self._told: dict[ProcessIdentity, frozenset[str]] = {}
        self._said: dict[ProcessIdentity, frozenset[str]] = {}
        """What its environment said of a process of which nothing else told: never more than that, later either."""
        self._looked: set[ProcessIdentity] = set()
        """Those that were looked at since the ledger said something new."""
        self._containers: dict[str, frozenset[str]] = {}

    def learn(self, leases: Sequence[LeaseProcesses]) -> None:
        """The live leases, as the ledger has them now."""
        self._leases = leases
        self._attached, self._sessions = {}, {}
        for lease in leases:
            for process in lease.attached:
                self._attached.setdefault(ProcessIdentity(process.pid, process.start), set()).add(lease.id)
            for session in lease.sessions:
                self._sessions.setdefault(session, set()).add(lease.id)
        live = frozenset(lease.id for lease in leases)
        self._told, self._said = _still(self._told, live), _still(self._said, live)
        self._looked.clear()
        self._containers.clear()

    def of(self, pid: int) -> frozenset[str] | None:
        """The leases of the living process, none where it is in no lease; None where no such process lives here."""
        proc = processes.read(pid)
        if proc is None or not proc.alive:
            return None
        who = ProcessIdentity(pid, proc.start)
        if not self._known(who) or who not in self._looked:
            self._look(who)
            self._looked.add(who)
        return self._known(who)

    def _known(self, who: ProcessIdentity) -> frozenset[str]:
        return self._told.get(who) or self._said.get(who) or frozenset()

    def _look(self, who: ProcessIdentity) -> None:
        told = self._told.get(who, frozenset())
        told |= self._by_cgroup(who) | self._by_container(who) | self._by_ancestors(who)
        self._told[who] = told
        if not told:
            self._said[who] = self._said.get(who, frozenset()) | self._by_environment(who)

    def _by_cgroup(self, who: ProcessIdentity) -> frozenset[str]:
        # The whole path counts: in a part that is delegated to them, users make cgroups of any name.
        place = cgroup.directory_of(who.pid) if any(lease.cgroups for lease in self._leases) else None
        if place is None:
            return frozenset()
        return frozenset(
            lease.id
            for lease in self._leases
            if any(f"{place}/".startswith(f"{directory}/") for directory in lease.cgroups)
        )

    def _by_container(self, who: ProcessIdentity) -> frozenset[str]:
        found: set[str] = set()
        for container in _containers(who.pid):
            if container not in self._containers:
                self._containers[container] = self._leases_of_container(container)
            found |= self._containers[container]
        return frozenset(found) & {lease.id for lease in self._leases}

    def _leases_of_container(self, container: str) -> frozenset[str]:
        for note in self._notes():
            if note.get("container") == container:
                return frozenset(map(str, _leases(note)))
        return frozenset()

    def _notes(self) -> Iterable[dict[str, object]]:
        for path in (self._home / SLOTS / TAKEN).glob("[!.]*"):
            with suppress(OSError, ValueError):
                note = json.loads(path.read_text())
                if isinstance(note, dict) and isinstance(note.get("leases"), list):
                    yield note

    def _by_ancestors(self, who: ProcessIdentity) -> frozenset[str]:
        pid, found = who.pid, set[str]()
        for _ in range(_MOST_ANCESTORS):
            proc = processes.read(pid)
            if proc is None or pid <= 1:
                break
            found |= self._attached.get(ProcessIdentity(pid, proc.start), set()) | self._in_session(proc.session)
            pid = proc.parent
        return frozenset(found)

    def _in_session(self, leader: int) -> set[str]:
        if not self._sessions:
            return set()
        proc = processes.read(leader)
        ids = (id for session, leases in self._sessions.items() if session.pid == leader for id in leases)
        # The leader may be gone, and its pid not be used again as long as its session has members.
        return set(ids) if proc is None or ProcessIdentity(leader, proc.start) in self._sessions else set()

    def _by_environment(self, who: ProcessIdentity) -> frozenset[str]:
        named = set(leases_of(who.pid, self._home))
        return frozenset(lease.id for lease in self._leases if lease.id in named and self._may_say(who, lease))

    def _may_say(self, who: ProcessIdentity, lease: LeaseProcesses) -> bool:
        known = [
            process.pid for process in lease.attached if processes.is_alive(ProcessIdentity(process.pid, process.start))
        ]
        user = processes.user(who.pid)
        if known:
            return user is not None and user in set(map(processes.user, known))
        if lease.cgroups or any(lease.id in map(str, _leases(note)) for note in self._notes()):
            return False
        # It may not have begun, and the program be another user's who names it.
        if user is None:
            return False
        return user in (0, os.geteuid()) or name_of(user) == lease.user or bool(_containers(who.pid))


def _still(
    found: Mapping[ProcessIdentity, frozenset[str]], live: frozenset[str]
) -> dict[ProcessIdentity, frozenset[str]]:
    return {who: ids & live for who, ids in found.items() if ids & live and processes.is_alive(who)}


def _leases(note: dict[str, object]) -> list[object]:
    found = note.get("leases")
    return found if isinstance(found, list) else []


def _containers(pid: int) -> set[str]:
    """The containers that the process's cgroups are named after. In a part that is delegated to them, users make
    cgroups of any name: those tell nothing."""
    found = set[str]()
    for line in processes.content(f"/proc/{pid}/cgroup").decode(errors="replace").splitlines():
        _, hierarchy, path = line.split(":", 2)
        for match in _CONTAINER.finditer(path):
            above = path[: path.rfind("/", 0, match.start())] or "/"
            if match[0] not in found and cgroup.owner(above, hierarchy) in (None, 0, os.geteuid()):
                found.add(match[0])
    return found
