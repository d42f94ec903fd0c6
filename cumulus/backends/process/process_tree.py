"""Ends all processes under a supervisor.

The supervisor is their subreaper: whatever forks twice, calls setsid or changes its group becomes a child of
the supervisor when its parent ends, so the tree below the supervisor is complete as long as the supervisor lives.
Where there are cgroups, the job is in one of its own, which holds it without a supervisor too. Standard library only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

from cumulus.backends.process import layout
from cumulus.lib import cgroup
from cumulus.lib.processes import descendants, environment, pids, read

_LOOK_AGAIN = 0.05


def send(targets: Iterable[int], number: int) -> None:
    """Signal each one that is still there and may be signalled."""
    for pid in targets:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_all(pid: int, enclosure: str = "") -> bool:
    """SIGKILL everything in the cgroup and below `pid`, stopped first so that it cannot fork away.

    False: nothing was below `pid`."""
    cgroup.kill(enclosure)
    seen: set[int] = set()
    while fresh := [p for p in descendants(pid) if p not in seen]:
        send(fresh, signal.SIGSTOP)
        seen.update(fresh)
    send(list(seen), signal.SIGKILL)
    return bool(seen)


def end_children() -> None:
    """Kill and reap everything below this process. Returns when none is left."""
    while True:
        kill_all(os.getpid())
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_LOOK_AGAIN)


def end_orphans(mark: str, session: int, grace: float, enclosure: str) -> None:
    """End what lost its supervisor: SIGTERM, `grace` seconds, SIGKILL. Returns when none is left.

    That is every process in the job's cgroup `enclosure`, if it had one, every one whose environment holds `mark`,
    those still in the supervisor's `session`, and what is below them. While a session has members, its number is not
    used for another process."""
    deadline = time.monotonic() + grace
    terminated: set[int] = set()
    while left := _with_descendants([*cgroup.members(enclosure), *marked(mark), *in_session(session)]):
        layout.show_progress()
        if time.monotonic() >= deadline:
            cgroup.kill(enclosure)
            send(left, signal.SIGKILL)
        else:
            send([pid for pid in left if pid not in terminated], signal.SIGTERM)
            terminated.update(left)
        time.sleep(_LOOK_AGAIN)


def marked(mark: str) -> list[int]:
    """The live processes whose environment at exec holds the entry `mark`, as far as it may be read."""
    entry = mark.encode()
    return [pid for pid in pids() if pid != os.getpid() and entry in environment(pid)]


def in_session(session: int) -> list[int]:
    """The processes of a session whose leader has ended; none where there is a leader, which is another's then.

    0 is the session of all whose leader is outside this pid namespace, and what a damaged file may well hold: on many
    machines that is everything."""
    if type(session) is not int or session <= 1 or os.path.exists(f"/proc/{session}"):
        return []
    return [pid for pid in pids() if (process := read(pid)) is not None and process.session == session]


def _with_descendants(found: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(pid for top in found for pid in (top, *descendants(top))))
