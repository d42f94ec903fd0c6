"""Secrets: those of each namespace for its jobs, and the daemon's own. Values are written, never returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cumulus import paths
from cumulus.answers.secrets import SecretKey
from cumulus.errors import AlreadyExists, NotFound, UsageError
from cumulus.lib.printable import one_line
from cumulus.secrets import JobSecrets, SecretStore
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity


class Secrets:
    """The namespace "" holds the daemon's own, for example nodes' SSH keys: no job can name them, and only admins may
    ask about them. Every method raises SecretUnavailable, Forbidden."""

    def __init__(self, home: Path, access: Access) -> None:
        self._access = access
        self._jobs = JobSecrets(paths.job_secrets_dir(home))
        self._system = SecretStore(paths.system_secrets_dir(home))

    def create(
        self, identity: Identity, namespace: str, name: str, values: Mapping[str, str], *,
        overwrite: bool = False, dry_run: bool = False,
    ) -> None:  # fmt: skip
        """Write the keys of a secret, each whole or not at all. With `overwrite` also of one that is there, whose other
        keys stay. Raises AlreadyExists. With `dry_run` nothing is written."""
        doing = [("create", "secrets" if namespace else "systemsecrets", namespace, name)]
        with self._access.audit.doing(identity, doing, dry_run=dry_run):
            self._create(identity, namespace, name, values, overwrite=overwrite, dry_run=dry_run)

    def _create(
        self,
        identity: Identity,
        namespace: str,
        name: str,
        values: Mapping[str, str],
        *,
        overwrite: bool,
        dry_run: bool,
    ) -> None:
        self._check(identity, "create", namespace, name)
        if overwrite:
            self._check(identity, "update", namespace, name)
        secrets = self._of(namespace)
        for key, value in values.items():
            secrets.check(name, key, value)
        if not overwrite and any(name == known for known, _ in secrets.list()):
            raise AlreadyExists(f"the secret {_said(name, namespace)} is there already", hint="give --overwrite")
        for key, value in () if dry_run else values.items():
            secrets.set(name, key, value)

    def list(self, identity: Identity, namespace: str | None) -> Sequence[SecretKey]:
        """Every key of every secret of the namespace, of all namespaces for None, sorted."""
        if namespace is None:
            self._access.check(identity, "list", "secrets")
            return [key for found in self._jobs.namespaces() for key in self._keys(found)]
        self._check(identity, "list", namespace)
        return self._keys(namespace)

    def keys(self, identity: Identity, namespace: str, name: str) -> Sequence[str]:
        """Those of one secret. Raises NotFound."""
        self._check(identity, "get" if namespace else "list", namespace, name)
        return self._there(namespace, name)

    def update(
        self, identity: Identity, namespace: str, name: str, values: Mapping[str, str | None], *,
        replace: bool = False, dry_run: bool = False,
    ) -> Sequence[str]:  # fmt: skip
        """Write keys of a secret that is there, and remove those whose value is None; with `replace` all others too,
        and at least one must stay. The keys that it has then. Raises NotFound, UsageError."""
        self._check(identity, "update", namespace, name)
        secrets, before = self._of(namespace), self._there(namespace, name)
        kept = {key: value for key, value in values.items() if value is not None}
        for key, value in kept.items():
            secrets.check(name, key, value)
        gone = [key for key in before if key not in kept and (replace or key in values)]
        after = sorted({*before, *kept} - set(gone))
        if not after:
            raise UsageError(f"the secret {_said(name, namespace)} would have no key left", hint="delete it")
        # First what is new: who reads meanwhile finds every key that stays.
        for key, value in () if dry_run else kept.items():
            secrets.set(name, key, value)
        for key in () if dry_run else gone:
            secrets.delete(name, key)
        return after

    def delete(self, identity: Identity, namespace: str, name: str, key: str = "", *, dry_run: bool = False) -> None:
        """Delete one key, or all of the secret. Raises NotFound."""
        doing = [("delete", "secrets" if namespace else "systemsecrets", namespace, name)]
        with self._access.audit.doing(identity, doing, dry_run=dry_run):
            self._delete(identity, namespace, name, key, dry_run=dry_run)

    def _delete(self, identity: Identity, namespace: str, name: str, key: str, *, dry_run: bool) -> None:
        self._check(identity, "delete", namespace, name)
        keys = [found.key for found in self._keys(namespace) if found.name == name and key in ("", found.key)]
        if not keys:
            with_key = f" with a key {one_line(key)}" if key else ""
            raise NotFound(f"there is no secret {_said(name, namespace)}{with_key}")
        for each in () if dry_run else keys:
            self._of(namespace).delete(name, each)

    def _check(self, identity: Identity, verb: str, namespace: str, name: str = "") -> None:
        resource, group = ("secrets", "") if namespace else ("systemsecrets", None)
        self._access.check(identity, verb, resource, namespace, name, group=group)

    def _there(self, namespace: str, name: str) -> Sequence[str]:
        found = [key for known, key in self._of(namespace).list() if known == name]
        if not found:
            raise NotFound(f"there is no secret {_said(name, namespace)}")
        return found

    def _of(self, namespace: str) -> SecretStore:
        return self._jobs.of(namespace) if namespace else self._system

    def _keys(self, namespace: str) -> Sequence[SecretKey]:
        return [SecretKey(namespace, name, key) for name, key in self._of(namespace).list()]


def _said(name: str, namespace: str) -> str:
    where = f"in the namespace {one_line(namespace)}" if namespace else "of the daemon's own"
    return f"{one_line(name)} {where}"
