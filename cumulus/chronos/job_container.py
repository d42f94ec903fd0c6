"""The container of a job on this node, for who reaches into it: its processes, its end, marks and signals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from signal import SIGCONT, SIGHUP, SIGKILL
from typing import Any

from cumulus.chronos.engine_api import EngineApi
from cumulus.chronos.runtime import SLOT_VARIABLE
from cumulus.errors import BackendError, NotRunning
from cumulus.lib import processes
from cumulus.lib.execution import MARK

START_SECONDS = 20.0
"""For the engine to say that something has begun, or how it ended."""
LOOK = 0.02
_MARK = re.compile(rb"(\d{1,10})-(\d{1,20})-[0-9a-f]{16}")


class JobContainer:
    """The container of a slot, which has a label too. Raises NotRunning where none runs."""

    def __init__(self, engine: EngineApi, slot: str, label: str) -> None:
        self.engine = engine
        found = []
        for each in engine.get("/containers/json", filters=json.dumps({"label": [label]})):
            # One that has just ended is none of them.
            with contextlib.suppress(NotRunning):
                found.append(engine.get("/containers/{0}/json", each["Id"]))
        # A label may be the image's, and so of whoever made that.
        ours = [each for each in found if f"{SLOT_VARIABLE}={slot}" in (each["Config"].get("Env") or ())]
        if not ours:
            raise NotRunning("its program has not started yet, or has ended")
        self.id: str = ours[0]["Id"]
        self.leader: int = ours[0]["State"]["Pid"]
        self.namespace = processes.pid_namespace(self.leader)
        if not self.namespace:
            if processes.is_gone(self.leader):
                raise NotRunning("its program has ended")
            raise BackendError("the node is not entered as root: programs beside its containers take that")
        if self.namespace == processes.pid_namespace(os.getpid()):
            raise BackendError("its container has no PID namespace of its own")

    def pids(self) -> set[int]:
        """Of the processes in it."""
        return {pid for pid in processes.pids() if processes.pid_namespace(pid) == self.namespace}

    def end_abandoned(self) -> None:
        """Kill what was started by a process like this one that was killed."""
        # A mark that the container's own program has was given to it by its job, or by its image.
        own = _mark_of(self.leader)
        for process in processes.living(self.pids()):
            if (mark := _mark_of(process.pid)) != own and _is_abandoned(mark):
                send({process}, SIGKILL)


def new_mark() -> str:
    """It names the process that is to end what has it."""
    me = processes.read(os.getpid())
    return f"{os.getpid()}-{me.start if me else 0}-{os.urandom(8).hex()}"


def _mark_of(pid: int) -> bytes:
    entries = processes.environment(pid)
    return next((each.partition(b"=")[2] for each in entries if each.startswith(f"{MARK}=".encode())), b"")


def _is_abandoned(mark: bytes) -> bool:
    found = _MARK.fullmatch(mark)
    return found is not None and not processes.is_alive(processes.ProcessIdentity(int(found[1]), int(found[2])))


def hang_up(reached: JobContainer) -> None:
    """SIGHUP to the program, as when its terminal is closed.

    What that does by default would end the program. The kernel keeps it from the first process of a container, so
    that one which has only just begun would go on as if nothing had been (pid_namespaces(7)): it is killed instead.
    Later the first is an init that hands signals on. It waits for them, in which time it does not seem to block any."""
    first = processes.read(reached.leader)
    if first is not None and reached.pids() == {first.pid} and processes.takes_default(first.pid, SIGHUP):
        send({processes.ProcessIdentity(first.pid, first.start)}, SIGKILL)
        return
    for number in (SIGHUP, SIGCONT):
        send(_session_of(reached), number)


def _session_of(reached: JobContainer) -> set[processes.ProcessIdentity]:
    """Those that a terminal tells when it is closed: who leads its session, and all of that."""
    found = (processes.read(pid) for pid in reached.pids())
    leader = processes.read(reached.leader)
    sessions = {reached.leader} | ({leader.session} if leader is not None else set())
    return {processes.ProcessIdentity(each.pid, each.start) for each in found if each and each.session in sessions}


def exit_code(state: Callable[[], Mapping[str, Any]]) -> int | None:
    """Of what is ending, by what the engine says of it. None where that does not tell: once a container is deleted, the
    engine knows nothing of what ran in it."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            now = state()
        except (BackendError, NotRunning):
            return None
        if not now["Running"]:
            return None if now["ExitCode"] is None else int(now["ExitCode"])
        time.sleep(LOOK)
    return None


def send(members: set[processes.ProcessIdentity], number: int) -> None:
    """To parents before their children: one that heard of its child's end first could go on as if that were all."""
    parents = {each.pid: proc.parent for each in members if (proc := processes.read(each.pid)) is not None}
    for each in sorted(members, key=lambda member: _depth(member.pid, parents)):
        with contextlib.suppress(PermissionError):
            processes.send(each, number)


def _depth(pid: int, parents: Mapping[int, int]) -> int:
    """How many ancestors of the process `parents` tells, which is of one moment nearly: no longer than it is long."""
    depth = 0
    while depth < len(parents) and pid in parents:
        pid, depth = parents[pid], depth + 1
    return depth
