"""The Swarm that the environment of a command names: for reading, and for `cumulus cluster`."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from cumulus import paths
from cumulus.backends.swarm.backend import SwarmBackend
from cumulus.backends.swarm.engine import Engine, from_settings
from cumulus.backends.swarm.settings import SwarmSettings
from cumulus.errors import BackendError, CumulusError
from cumulus.secrets import SecretStore
from cumulus.store.base import Store
from cumulus.store.leadership import store_id


def engine() -> Engine | None:
    """A way to ask the Swarm, None where none is named."""
    return from_settings(SwarmSettings())


def named_engine() -> Engine:
    """The same. Raises CumulusError where none is named."""
    return engine() or _missing()


def backend(home: Path, store: Store) -> SwarmBackend | None:
    """The backend for that state directory, None where no Swarm is named."""
    named = engine()
    if named is None:
        return None
    return SwarmBackend(
        str(paths.swarm_dir(home)), named, SecretStore(paths.secrets_dir(home)),
        store_id=lambda: store_id(store), instance=SwarmSettings().instance,
    )  # fmt: skip


def named_backend(home: Path, store: Store) -> SwarmBackend:
    """The same. Raises CumulusError where none is named."""
    return backend(home, store) or _missing()


def reader(home: Path) -> SwarmBackend:
    """For reading logs: those that are saved need no Swarm."""

    def nobody() -> str:
        raise BackendError("who only reads logs has no part in the Swarm")

    settings = SwarmSettings()
    return SwarmBackend(
        str(paths.swarm_dir(home)), from_settings(settings) or Engine([]), SecretStore(paths.secrets_dir(home)),
        store_id=nobody, instance=settings.instance,
    )  # fmt: skip


def _missing() -> NoReturn:
    raise CumulusError(
        "no Docker engine is named",
        hint="set SWARM_MANAGER to a manager: unix:///var/run/docker.sock, tcp://HOST:2376 or ssh://USER@HOST",
    )
