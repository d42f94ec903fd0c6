"""Connections to ports at which processes of a run listen, and to no others."""

from __future__ import annotations

import contextlib
import os
import socket

from cumulus.backends.process import layout
from cumulus.backends.process.run import Run
from cumulus.backends.rundir.documents import read_document
from cumulus.lib import cgroup, listeners, processes


def connected(run: Run, port: int) -> socket.socket:
    """A connection to the port. Raises NotRunning where no process of the run listens there."""
    return listeners.connected(lambda: _pids(run), port)


def _pids(run: Run) -> set[int]:
    pids = set(cgroup.members(layout.enclosure(_started(run))))
    if supervisor := run.supervisor():
        pids.update(processes.descendants(supervisor))
    return pids


def _started(run: Run) -> dict[str, object] | None:
    with contextlib.suppress(OSError, ValueError):
        return read_document(os.path.join(run.directory, layout.STARTED))
    return None
