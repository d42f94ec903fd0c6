"""Ends containers that an engine started after their lease had ended.

An engine starts what it was told to start, and may do so long after: the manager's word takes its time, an image its
download. No supervisor of ours stands between it and the program, so the monitor looks for such containers now and
then. A container is told from other programs by its PID namespace; its lease is named in its environment.
"""

from __future__ import annotations

import os
import signal

from cumulus.chronos.snapshot import ProcessSnapshot
from cumulus.lib.processes import ProcessIdentity, pid_namespace, send

SECONDS = 900.0
"""For so long after the end of a lease its late containers are looked for."""


def end(ended: set[str], snapshot: ProcessSnapshot) -> set[ProcessIdentity]:
    """SIGKILL every process of a container that is in one of the ended leases. Returns who they were."""
    if not ended:
        return set()
    own = pid_namespace(os.getpid())
    seeds = {pid for id in ended for pid in snapshot.marked(id) if pid_namespace(pid) not in (own, "")}
    targets = snapshot.identities(seeds.union(*(snapshot.below(pid) for pid in seeds)))
    for target in targets:
        send(target, signal.SIGKILL)
    return targets
