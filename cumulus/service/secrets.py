"""Secrets of this node that jobs may use. Values can be written, and are never returned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus import paths
from cumulus.answers.secrets import SecretKey
from cumulus.errors import NotFound
from cumulus.secrets import SecretStore
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity


class Secrets:
    """Every method raises SecretUnavailable, Forbidden."""

    def __init__(self, home: Path, access: Access) -> None:
        self._access = access
        self._secrets = SecretStore(paths.secrets_dir(home))

    def set(self, identity: Identity, name: str, key: str, value: str) -> None:
        """Write one key, whole or not at all."""
        self._access.check(identity, "create", "secrets")
        self._secrets.set(name, key, value)

    def list(self, identity: Identity) -> Sequence[SecretKey]:
        """Every key of every secret, sorted."""
        self._access.check(identity, "list", "secrets")
        return [SecretKey(name, key) for name, key in self._secrets.list()]

    def delete(self, identity: Identity, name: str, key: str = "") -> None:
        """Delete one key, or all of the secret. Raises NotFound."""
        self._access.check(identity, "delete", "secrets")
        keys = [k for n, k in self._secrets.list() if n == name and key in ("", k)]
        if not keys:
            raise NotFound(f"there is no secret {name}" + (f" with a key {key}" if key else ""))
        for each in keys:
            self._secrets.delete(name, each)
