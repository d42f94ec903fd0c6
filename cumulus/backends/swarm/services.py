"""The services of runs in the Swarm: created once, told to end, removed with their secrets and networks. Services of
others are never touched."""

from __future__ import annotations

import base64
import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cumulus.backends.base import LeaseRef, Workload
from cumulus.backends.logs import LogRetention
from cumulus.backends.redactor import Redactor
from cumulus.backends.swarm import programs, spec
from cumulus.backends.swarm.confinement import confinement
from cumulus.backends.swarm.endpoint import registry_auth
from cumulus.backends.swarm.engine import Engine, NameTaken
from cumulus.backends.swarm.members import Members
from cumulus.backends.swarm.networks import Networks
from cumulus.backends.swarm.records import END, SERVICE, Record, Records
from cumulus.chronos.contract import variables
from cumulus.clock import Clock, timestamp
from cumulus.errors import BackendError, BackendRefused, ChronosError, NodeUnreachable
from cumulus.secrets import JobSecrets, SecretUnavailable

PrepareLease = Callable[[str, LeaseRef], Mapping[str, str]]
"""Node and lease -> the variables by which the node's Chronos holds a job to it. Raises `ChronosError`."""


class Services:
    """`instance` names this control plane, or raises `BackendError`. Services with another instance are left alone."""

    def __init__(
        self, engine: Engine, members: Members, secrets: JobSecrets, instance: Callable[[], str], prepare: PrepareLease,
        clock: Clock, retention: LogRetention, mounts: tuple[str, ...], node_env: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._engine = engine
        self._members = members
        self._secrets = secrets
        self._instance = instance
        self._prepare = prepare
        self._clock = clock
        self._retention = retention
        self._mounts = mounts
        self._networks = Networks(engine, instance)
        self._node_env = node_env

    def labels(self, job_uid: str = "") -> list[str]:
        """The labels of all services of ours, or of those of one job."""
        ours = f"{spec.INSTANCE}={self._instance()}"
        return [ours, f"{spec.OWNER}={job_uid}"] if job_uid else [ours]

    def make(self, record: Record, workload: Workload, binds: Mapping[str, str] | None = None) -> None:
        """Create the run's service, or find the one that is there. For `binds` see `spec.service`.

        Raises `NodeUnreachable` where its node does not answer the manager, `BackendRefused` where its name is taken,
        nothing holds it to all of its leases, or its submitter may not have what it asks for."""
        program = programs.user_of(workload) if programs.is_program(workload) else None
        confined = None if program is not None else confinement(workload, self._mounts)
        member = self._members.named(workload.node)
        if not member.answers:
            raise NodeUnreachable(f"{member.name} is {member.state} in the Swarm: {member.message}".rstrip(": "))
        prepared = [self._prepare(workload.node, lease) for lease in workload.leases]
        image = self._engine.digest(workload.image) if program is None else programs.image_id(member.architecture)
        body = spec.service(
            workload, instance=self._instance(), node_id=member.id, image=image,
            confined=confined, secrets=self._make_secrets(workload), prepared=_joined(prepared),
            retention=self._retention, binds=binds, parts=self._networks.make(workload), program=program,
            node_env=self._node_env,
        )  # fmt: skip
        auth = registry_auth(workload.image) if program is None else ""
        with contextlib.suppress(NameTaken):
            self._created(record, self._engine.create_service(body, auth))
            return
        if not self.known(record):
            raise BackendRefused(f"the name {body['Name']} is taken by a service that is not ours")

    def known(self, record: Record) -> bool:
        """Whether its service was created: also by a start that was cut short before it was recorded."""
        if record.has(SERVICE):
            return True
        service = self._engine.service(spec.service_name(record.name))
        if service is None or not self._is_of(service, record):
            return False
        self._created(record, service["ID"])
        return True

    def id(self, record: Record) -> str:
        return str((record.read(SERVICE) or {})["id"])

    def is_there(self, record: Record) -> bool:
        return self._engine.service(self.id(record)) is not None

    def end(self, record: Record) -> None:
        """Let Swarm end whatever runs of it, and start nothing of it any more."""
        self._engine.update_service(self.id(record), spec.stopped)

    def unscale(self, record: Record) -> None:
        self._engine.update_service(self.id(record), spec.unscaled)

    def remove(self, record: Record) -> None:
        """Remove the run's service, if it is ours, and its secrets."""
        service = self._engine.service(spec.service_name(record.name))
        if service is not None and self._is_of(service, record):
            self._engine.remove_service(service["ID"])
        if record.start["secrets"]:
            for secret in self._secrets_of(record.name):
                self._engine.remove_secret(secret["ID"])
        if record.start.get("gang"):
            self._networks.remove(record.start["job_uid"], record.start["attempt"])

    def adopt(self, records: Records, job_uid: str = "") -> Sequence[Record]:
        """Records for services of ours, or of one job, that this disk does not know; those of removed runs go. A
        removal may have been cut short, a state directory lost."""
        adopted = []
        for service in self._engine.services(self.labels(job_uid)):
            labels = service["Spec"]["Labels"]
            if records.find(labels.get(spec.WORKLOAD, "")) is not None:
                continue
            record = records.adopt(labels, service["ID"])
            if record is None:
                self._engine.remove_service(service["ID"])
            else:
                adopted.append(record)
        return adopted

    def collect(self, records: Records) -> None:
        """Remove secrets whose run is over, and networks whose gang is."""
        self._networks.collect(records)
        for secret in self._engine.secrets(self.labels()):
            record = records.find(secret["Spec"]["Labels"].get(spec.WORKLOAD, ""))
            if record is None or record.has(END):
                with contextlib.suppress(BackendError):
                    self._engine.remove_secret(secret["ID"])

    def secret_values(self, record: Record) -> Sequence[str]:
        """The values of the run's secrets, which must not be in a log."""
        values = []
        for _, name, key in record.start["secrets"]:
            with contextlib.suppress(SecretUnavailable):
                values.append(self._secrets.of(record.start["namespace"]).get(name, key))
        return values

    def without_secrets(self, record: Record, text: str) -> str:
        return Redactor(self.secret_values(record)).text(text)

    def _created(self, record: Record, id: str) -> None:
        record.write(SERVICE, {"id": id, "at": timestamp(self._clock.now())})

    def _is_of(self, service: Mapping[str, Any], record: Record) -> bool:
        labels = service["Spec"].get("Labels") or {}
        return labels.get(spec.INSTANCE) == self._instance() and labels.get(spec.WORKLOAD) == record.name

    def _make_secrets(self, workload: Workload) -> Sequence[spec.SecretFile]:
        made = []
        labels = spec.labels(workload, self._instance())
        for variable in (e for e in workload.env if e.secret):
            try:
                value = self._secrets.of(workload.namespace).get(variable.secret, variable.key)
            except SecretUnavailable as error:
                raise BackendError(str(error), hint=error.hint) from None
            name = spec.secret_name(workload.name, variable.name)
            data = base64.b64encode(value.encode()).decode()
            try:
                id = self._engine.create_secret(name, data, labels)
            except NameTaken:
                id = next(s["ID"] for s in self._secrets_of(workload.name) if s["Spec"]["Name"] == name)
            made.append(spec.SecretFile(variable.name, id, name))
        return made

    def _secrets_of(self, workload_name: str) -> Sequence[Mapping[str, Any]]:
        return self._engine.secrets([*self.labels(), f"{spec.WORKLOAD}={workload_name}"])


def _joined(prepared: Sequence[Mapping[str, str]]) -> dict[str, str]:
    try:
        return functools.reduce(variables.join, prepared, {})
    except ChronosError as error:
        raise BackendRefused(str(error), hint=error.hint) from error
