"""Opens the client of an endpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from cumulus import paths

if TYPE_CHECKING:
    from cumulus.client.base import Client
    from cumulus.client.endpoint import Endpoint


RESTART_SECONDS = 15.0
"""How long a daemon that died has to come back, before a command gives it up."""


def connect(found: Endpoint, *, create: bool = False, objects: bool = True) -> Client:
    """The client of an endpoint, to be used with `with`. It asks a server with its first call.

    Of a state directory the store is opened at once. Raises StoreUnavailable; StoreReplaced where a daemon has another
    store open. Without `create`, a store that is not there is not made, and there is no object then. Without `objects`
    it is opened, and these are raised, when an object is first asked for.
    """
    if found.kind != "embedded":
        from cumulus.client.http.client import HttpClient

        return HttpClient(found)
    from cumulus.client.embedded import EmbeddedClient

    client = EmbeddedClient.of(Path(found.address), create=create)
    if objects:
        client.open()
    return client


def has_store(home: Path) -> bool:
    """Whether anything was ever stored in this state directory."""
    return paths.store_dir(home).exists()


def is_abandoned(home: Path) -> bool:
    """Whether the store of a state directory says that processes of jobs run, and no daemon is there or comes to look
    after them. Raises StoreUnavailable."""
    from cumulus.client.embedded import EmbeddedClient
    from cumulus.daemon_lock import daemon_pid
    from cumulus.resources.documents import lookup
    from cumulus.resources.job_phase import RUNNING_PHASES, JobPhase
    from cumulus.resources.kinds import gpujob
    from cumulus.resources.query import Query

    with EmbeddedClient.of(home) as client:
        jobs = client.list(Query(gpujob.KIND.name)).items
    if not any(lookup(job, "status.phase") in (*RUNNING_PHASES, JobPhase.PARKED) for job in jobs):
        return False
    until = time.monotonic() + RESTART_SECONDS
    while daemon_pid(home) is None:
        if time.monotonic() > until:
            return True
        time.sleep(0.1)
    return False
