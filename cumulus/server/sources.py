"""What reads Sources in the daemon: the threads that ask git servers and watch directories."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from cumulus import paths
from cumulus.blob.base import BlobStore
from cumulus.clock import SystemClock
from cumulus.gitops.following import SourceFollowing
from cumulus.gitops.room import SourceRoom, credentials
from cumulus.secrets import JobSecrets
from cumulus.server.settings import DaemonSettings
from cumulus.service.on_behalf import OnBehalf
from cumulus.service.service import Service
from cumulus.store.base import Store

THREADS = 6
"""Servers that are asked at once."""


class SourceThreads:
    """From `start` to `close`."""

    def __init__(self, settings: DaemonSettings, store: Store, blobs: BlobStore) -> None:
        clock, home = SystemClock(), settings.home
        access = Service.of_daemon(store, home, system=settings.system, mounts=settings.containers.mounts).access
        secrets = JobSecrets(paths.job_secrets_dir(home))
        following = SourceFollowing(paths.sources_dir(home), clock, partial(credentials, secrets))
        self.room = SourceRoom(OnBehalf(store, clock, access, blobs=lambda: blobs), secrets, following)
        works: list[tuple[str, Callable[[], None]]] = [("directories", self.room.directories.run)]
        works += [(f"sources-{number}", following.run) for number in range(THREADS)]
        self._threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in works]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """What asks a server goes on to its end, and changes nothing any more."""
        self.room.following.close()
        self.room.directories.close()
