"""Connections to ports at which processes of a run listen, and to no others."""

from __future__ import annotations

import contextlib
import os
import socket

from cumulus.backends.process import layout
from cumulus.backends.process.run import Run
from cumulus.backends.rundir.documents import read_document
from cumulus.errors import NotRunning
from cumulus.lib import cgroup, listeners, processes

_SECONDS = 10.0


def connected(run: Run, port: int) -> socket.socket:
    """A connection to the port. Raises NotRunning where no process of the run listens there.

    It is asked before and after: who listens may have changed meanwhile."""
    found = _address(run, port)
    if found is None:
        raise NotRunning(f"no process of the job listens on port {port}")
    family, address = found
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(_SECONDS)
        made.connect((address, port))
        if _address(run, port) != found:
            raise NotRunning(f"no process of the job listens on port {port} any more")
    except OSError as error:
        made.close()
        raise NotRunning(f"port {port} of the job takes no connection: {error.strerror or 'time-out'}") from None
    except BaseException:
        made.close()
        raise
    return made


def _address(run: Run, port: int) -> tuple[int, str] | None:
    pids = set(cgroup.members(layout.enclosure(_started(run))))
    if supervisor := run.supervisor():
        pids.update(processes.descendants(supervisor))
    return listeners.address_of(pids, port)


def _started(run: Run) -> dict[str, object] | None:
    with contextlib.suppress(OSError, ValueError):
        return read_document(os.path.join(run.directory, layout.STARTED))
    return None
