"""The port at which the replicas of a gang meet: chosen for each attempt by whoever starts the first of them.

ROOT/ports/JOB_UID.aN     a link whose target is the port; several processes may use one root at once
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections.abc import Iterator

from cumulus.backends.gang import FIRST_PORT, PORTS
from cumulus.backends.rundir.layout import JOBS
from cumulus.errors import BackendError

DIRECTORY = "ports"
_TRIES = 200


class GangPorts:
    """The ports of the gangs below the backend's `root`: `count` of them, from `first` on."""

    def __init__(self, root: str, first: int = FIRST_PORT, count: int = PORTS) -> None:
        self._root = root
        self._first = first
        self._count = count
        self._directory = os.path.join(root, DIRECTORY)
        os.makedirs(self._directory, mode=0o700, exist_ok=True)

    def of(self, job_uid: str, attempt: int) -> int:
        """The port of that attempt, the same for all its replicas. It was free on this machine when it was chosen, and
        no other gang here has it. Raises `BackendError` where none is free."""
        link = os.path.join(self._directory, f"{job_uid}.a{attempt}")
        taken = set(self._others())
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                return int(os.readlink(link))
            port = self._first + random.randrange(self._count)
            if port not in taken and is_free(port):
                with contextlib.suppress(FileExistsError):
                    os.symlink(str(port), link)
        last = self._first + self._count - 1
        raise BackendError(f"no port from {self._first} to {last} is free for the gang to meet at")

    def forget(self, job_uid: str) -> None:
        """Those of all attempts of the job."""
        for name in os.listdir(self._directory):
            if name.rpartition(".")[0] == job_uid:
                self._unlink(name)

    def _others(self) -> Iterator[int]:
        """Ports of all gangs. Those of jobs that were purged are forgotten."""
        for name in os.listdir(self._directory):
            if not os.path.isdir(os.path.join(self._root, JOBS, name.rpartition(".")[0])):
                self._unlink(name)
                continue
            with contextlib.suppress(FileNotFoundError):
                yield int(os.readlink(os.path.join(self._directory, name)))

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, name))


def is_free(port: int) -> bool:
    """Whether nobody listens there on any address of this machine."""
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((host, port))
        except OSError as error:
            # A machine without IPv6 has nobody who listens there.
            if error.errno == errno.EADDRINUSE:
                return False
    return True
