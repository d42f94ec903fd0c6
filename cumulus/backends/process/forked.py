"""How a fork of `fork_server` begins. Standard library only."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping


def become(name: str, environment: Mapping[str, str]) -> None:
    """In the child: go by this name, with these variables alone, and reap as any process does."""
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
