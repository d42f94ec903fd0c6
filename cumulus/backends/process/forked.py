"""How a fork of `fork_server` begins. Standard library only."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from cumulus.lib import spare_fork
from cumulus.lib.descriptors import close_all_but


def become(name: str, environment: Mapping[str, str]) -> None:
    """In the child: go by this name, with these variables alone, and reap as any process does."""
    spare_fork.called(name)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)


def let_go(*kept: int) -> None:
    """Hold no descriptor of the one that it was forked from but these: that one's channel to the backend must end with
    it."""
    os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), 0)
    close_all_but(*kept)
