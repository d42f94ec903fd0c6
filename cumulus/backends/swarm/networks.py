"""The networks of gangs in the Swarm: an overlay network for each attempt of a job with several replicas, in which they
find each other by name; and the file of their hosts, a Swarm config. Both go with the attempt.

A network is made before the services that use it, and has one name: whoever is killed between any two lines is
continued by the next. What nobody removed is collected.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cumulus.backends import gang
from cumulus.backends.base import Workload
from cumulus.backends.swarm import spec
from cumulus.backends.swarm.engine import Engine, NameTaken
from cumulus.backends.swarm.records import END, REMOVED, Records
from cumulus.errors import BackendError, BackendRefused

_DIGITS = 20


class Networks:
    """`instance` names this control plane, or raises `BackendError`. What has another instance is left alone."""

    def __init__(self, engine: Engine, instance: Callable[[], str]) -> None:
        self._engine = engine
        self._instance = instance

    def make(self, workload: Workload) -> spec.GangParts | None:
        """Those of the workload's gang, made now or before. None where it has none. Raises `BackendRefused` where their
        name is somebody else's."""
        if not workload.gang:
            return None
        name = _name(self._instance(), workload.job_uid, workload.attempt)
        labels = {
            spec.INSTANCE: self._instance(), spec.OWNER: workload.job_uid, spec.ATTEMPT: str(workload.attempt),
            spec.NAMESPACE: workload.namespace, spec.JOB: workload.job,
        }  # fmt: skip
        engine = self._engine
        network = ""
        if not workload.host_network:
            try:
                network = engine.create_network(name, labels)
            except NameTaken:
                network = self._mine(engine.networks(self._labels()), "Name", "Id", name)
        try:
            hostfile = engine.create_config(name, gang.hostfile(workload, spec.hosts(workload)), labels)
        except NameTaken:
            hostfile = self._mine([{**c, **c["Spec"]} for c in engine.configs(self._labels())], "Name", "ID", name)
        return spec.GangParts(network, hostfile, name)

    def remove(self, job_uid: str, attempt: int) -> None:
        """Remove what the gang had, as far as none of its services is left: the engine refuses the rest, which is
        collected later."""
        name = _name(self._instance(), job_uid, attempt)
        labels = [*self._labels(), f"{spec.OWNER}={job_uid}"]
        self._remove([n["Id"] for n in self._engine.networks(labels) if n["Name"] == name], self._engine.remove_network)
        found = [c["ID"] for c in self._engine.configs(labels) if c["Spec"]["Name"] == name]
        self._remove(found, self._engine.remove_config)

    def collect(self, records: Records) -> None:
        """Remove what is left of gangs that are over."""
        networks = [(n["Id"], n.get("Labels") or {}) for n in self._engine.networks(self._labels())]
        configs = [(c["ID"], c["Spec"].get("Labels") or {}) for c in self._engine.configs(self._labels())]
        over = {labels: _is_over(records, *labels) for labels in {_attempt(found) for _, found in networks + configs}}
        self._remove([id for id, labels in networks if over[_attempt(labels)]], self._engine.remove_network)
        self._remove([id for id, labels in configs if over[_attempt(labels)]], self._engine.remove_config)

    def _remove(self, ids: Sequence[str], remove: Callable[[str], None]) -> None:
        for id in ids:
            with contextlib.suppress(BackendError, BackendRefused):
                remove(id)

    def _labels(self) -> list[str]:
        return [f"{spec.INSTANCE}={self._instance()}", spec.ATTEMPT]

    def _mine(self, found: Sequence[Mapping[str, Any]], named: str, id: str, name: str) -> str:
        mine = next((one[id] for one in found if one[named] == name), None)
        if mine is None:
            raise BackendRefused(f"the name {name} is taken in the Swarm by something that is not ours")
        return str(mine)


def _name(instance: str, job_uid: str, attempt: int) -> str:
    digest = hashlib.sha256(f"{instance}/{job_uid}/{attempt}".encode()).hexdigest()[:_DIGITS]
    return f"cumulus-gang-{digest}"


def _attempt(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get(spec.OWNER, ""), labels.get(spec.ATTEMPT, "")


def _is_over(records: Records, job_uid: str, attempt: str) -> bool:
    """Whether no run of it is alive, or on its way."""
    runs = [record for record in records.of_job(job_uid) if str(record.start["attempt"]) == attempt]
    return all(record.has(END) or record.has(REMOVED) for record in runs)
