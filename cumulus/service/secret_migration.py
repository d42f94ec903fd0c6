"""Moves the secrets of a state directory, which once had no namespaces, to where they are used.

A secret is copied first, to every place, and goes from the old one then. So whatever was cut short is finished by the
next run, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus import paths
from cumulus.answers.secrets import SecretMove
from cumulus.daemon_lock import daemon_pid
from cumulus.errors import StoreInUse
from cumulus.resources.documents import lookup
from cumulus.resources.kinds import gpujob, gpunode
from cumulus.resources.query import Query
from cumulus.resources.submitter import SUBMITTER, SUBMITTER_ADMIN
from cumulus.secrets import JobSecrets, SecretStore, SecretUnavailable
from cumulus.store.base import Store


def unmoved(home: Path) -> Sequence[str]:
    """The names of the secrets that have yet to move. Raises SecretUnavailable."""
    return sorted({name for name, _ in SecretStore(paths.old_secrets_dir(home)).list()})


def check_moved(home: Path) -> None:
    """Raises SecretUnavailable where secrets have yet to move: jobs and nodes would not find theirs."""
    if names := unmoved(home):
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise SecretUnavailable(
            f"{paths.old_secrets_dir(home)} holds secrets from before secrets had namespaces: {shown}",
            hint=f"see where they go: cumulus --home {home} secret migrate --dry-run; then run it without --dry-run",
        )


def planned(store: Store, home: Path, unused: str) -> Sequence[SecretMove]:
    """Each goes to the namespaces whose jobs name it, and to the daemon's own where a node does; to the namespace
    `unused` where nobody names it.

    A job counts where an admin made it, or where it is older than submitters: nobody else gets a secret by naming it.
    """
    places: dict[str, set[str]] = {name: set() for name in unmoved(home)}
    for node in store.list(Query(gpunode.KIND.name)).items:
        places.get(lookup(node, "spec.ssh.keySecret") or "", set()).add("")
    for job in store.list(Query(gpujob.KIND.name)).items:
        annotations = job["metadata"].get("annotations") or {}
        if SUBMITTER in annotations and annotations.get(SUBMITTER_ADMIN) != "true":
            continue
        for variable in lookup(job, "spec.env") or ():
            name = lookup(variable, "valueFrom.secretKeyRef.name") or ""
            places.get(name, set()).add(job["metadata"]["namespace"])
    return [SecretMove(name, tuple(sorted(found or {unused}))) for name, found in places.items()]


def move(home: Path, moves: Sequence[SecretMove]) -> None:
    """Raises SecretUnavailable, also where another value is at the new place already: then the old one stays;
    StoreInUse where a daemon runs, which may be reading them."""
    if pid := daemon_pid(home):
        raise StoreInUse(f"a daemon runs on {home} (process {pid})", hint="stop it first")
    old, jobs = SecretStore(paths.old_secrets_dir(home)), JobSecrets(paths.job_secrets_dir(home))
    system = SecretStore(paths.system_secrets_dir(home))
    wanted = [(name, key, planned) for planned in moves for name, key in old.list() if name == planned.name]
    for name, key, planned in wanted:
        for namespace in planned.to:
            _copy(old, jobs.of(namespace) if namespace else system, name, key)
        old.delete(name, key)


def _copy(old: SecretStore, new: SecretStore, name: str, key: str) -> None:
    value = old.read(name, key)
    if (name, key) in new.list():
        if new.read(name, key) != value:
            raise SecretUnavailable(
                f"secret {name}, key {key} is in {new.root} already, with another value",
                hint="delete the one of the two that is wrong, and run it again",
            )
        return
    new.write(name, key, value)
