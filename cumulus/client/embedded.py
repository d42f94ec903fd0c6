"""The embedded transport: a service in this process, over the store of a state directory.

The default of the command line, which so works with no daemon running: whoever may write the store may change it.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cumulus.errors import CumulusError, UsageError
from cumulus.resources.field_managers import CUMULUS
from cumulus.service.identity import Identity
from cumulus.service.service import Service

if TYPE_CHECKING:
    from cumulus.answers.access import Allowed, UserInfo
    from cumulus.answers.carried import ChangePiece
    from cumulus.answers.certificates import RevokedCertificate
    from cumulus.answers.checkpoints import CheckpointFound, CheckpointPiece, JobCheckpoints
    from cumulus.answers.history import By, HeldOverTime, JobUse, LeaseRows, Report, Timeline
    from cumulus.answers.logs import LogPiece
    from cumulus.answers.nodes import (
        DirectoryOnNode,
        DrainPlanned,
        DrainStep,
        HostKey,
        NodeChange,
        RemoveStep,
        SetupStep,
        WorkerAddress,
        WorkerAnswer,
        WorkerFound,
    )
    from cumulus.answers.objects import (
        Applied,
        Description,
        Extended,
        JobFiles,
        PatchType,
        Propagation,
        WaitStep,
        Why,
    )
    from cumulus.answers.queue import Line
    from cumulus.answers.secrets import SecretKey
    from cumulus.answers.server import ApiAddress, ServerState
    from cumulus.answers.sessions import PageLink
    from cumulus.answers.sources import SourceDiff
    from cumulus.answers.swarm import (
        ImageStep,
        SwarmInvitation,
        SwarmMade,
        SwarmMark,
        SwarmOwnership,
        SwarmStatus,
    )
    from cumulus.answers.tickets import GrpcTicket
    from cumulus.answers.tokens import NewToken, TokenInfo
    from cumulus.answers.usage import UsageNow
    from cumulus.client.programs import RemoteProgram
    from cumulus.errors import InvalidObject
    from cumulus.lib.execution import ExecRequest
    from cumulus.manifest import Manifest
    from cumulus.resources.key import Document, Key
    from cumulus.resources.query import Page, Query, Watch
    from cumulus.store.base import Store


class EmbeddedClient:
    """See `client.base.Client`. Closing it closes the store."""

    def __init__(self, service: Service, identity: Identity) -> None:
        self._service = service
        self._identity = identity

    @classmethod
    def of(cls, home: Path, *, create: bool = False) -> Self:
        """Of a state directory, as the user of this process. For `create`, see `stores.of_home`."""
        from cumulus.infrastructure import LocalInfrastructure

        opening = partial(_opened, home, create)
        service = Service(opening, home, infrastructure=LocalInfrastructure(home))
        return cls(service, Identity.of_this_process())

    def open(self) -> None:
        """Open the store now, instead of when an object is first asked for. Raises what `stores.of_home` raises."""
        _ = self._service.store

    def get(self, key: Key) -> Document:
        return self._service.objects.get(self._identity, key)

    def list(self, query: Query) -> Page:
        return self._service.objects.list(self._identity, query)

    def watch(self, *, since: int, kinds: frozenset[str], namespace: str | None = None) -> Watch:
        return self._service.objects.watch(self._identity, since=since, kinds=kinds, namespace=namespace)

    def revision(self) -> int:
        return self._service.objects.revision(self._identity)

    def create(self, document: Document, *, dry_run: bool = False) -> Document:
        return self._service.objects.create(self._identity, document, dry_run=dry_run)

    def update(self, document: Document, *, dry_run: bool = False) -> Document:
        return self._service.objects.update(self._identity, document, dry_run=dry_run)

    def patch(
        self, key: Key, patch: object, *,
        type: PatchType = "merge", resource_version: str | None = None, dry_run: bool = False,
    ) -> Document:  # fmt: skip
        return self._service.objects.patch(
            self._identity, key, patch, type=type, resource_version=resource_version, dry_run=dry_run
        )

    def apply(
        self, manifests: Sequence[Manifest], *,
        dry_run: bool = False, prune: str = "", prune_limit: int | None = None, field_manager: str = CUMULUS,
        force_conflicts: bool = False, recreate: bool = False,
    ) -> Sequence[Applied]:  # fmt: skip
        return self._service.objects.apply(
            self._identity, manifests, dry_run=dry_run, prune=prune, prune_limit=prune_limit,
            field_manager=field_manager, force_conflicts=force_conflicts, recreate=recreate,
        )  # fmt: skip

    def source_diff(self, key: Key, manifests: Sequence[Manifest]) -> SourceDiff:
        return self._service.sources.diff(self._identity, key, manifests)

    def delete(
        self, key: Key, *, uid: str | None = None, resource_version: str | None = None,
        propagation: Propagation = "background", grace_seconds: int = 0, dry_run: bool = False,
    ) -> Document:  # fmt: skip
        return self._service.objects.delete(
            self._identity, key, uid=uid, resource_version=resource_version,
            propagation=propagation, grace_seconds=grace_seconds, dry_run=dry_run,
        )  # fmt: skip

    def set_labels(self, key: Key, changes: Mapping[str, str | None], *, overwrite: bool = False) -> bool:
        return self._service.objects.set_labels(self._identity, key, changes, overwrite=overwrite)

    def set_annotations(self, key: Key, changes: Mapping[str, str | None], *, overwrite: bool = False) -> bool:
        return self._service.objects.set_annotations(self._identity, key, changes, overwrite=overwrite)

    def delete_losses(self, key: Key) -> Sequence[str]:
        return self._service.descriptions.losses(self._identity, key)

    def describe(self, key: Key) -> Description:
        return self._service.descriptions.describe(self._identity, key)

    def wait(
        self, targets: Sequence[Key | Query], condition: str, *, seconds: float, uids: Mapping[Key, str] | None = None
    ) -> Iterator[WaitStep]:
        from cumulus.service.waits import wait

        return wait(self, targets, condition, seconds, self._service.clock, uids or {})

    def suspend(self, key: Key, *, suspended: bool, park: bool = False) -> bool:
        return self._service.jobs.suspend(self._identity, key, suspended=suspended, park=park)

    def park(self, key: Key, *, parked: bool, park_for: str = "") -> bool:
        return self._service.jobs.park(self._identity, key, parked=parked, park_for=park_for)

    def rerun(
        self, key: Key, *, changes: Document | None = None, from_checkpoint: bool = False, uid: str = ""
    ) -> Document:
        return self._service.reruns.rerun(
            self._identity, key, changes=changes, from_checkpoint=from_checkpoint, uid=uid
        )

    def extend(self, key: Key, seconds: float, *, dry_run: bool = False) -> Extended:
        return self._service.extensions.extend(self._identity, key, seconds, dry_run=dry_run)

    def why(self, key: Key) -> Why:
        return self._service.explanations.why(self._identity, key)

    def line(self, queue: str = "") -> Line:
        return self._service.explanations.line(self._identity, queue)

    def forecast(self, document: Document) -> str:
        return self._service.explanations.forecast(self._identity, document)

    def checkpoints(self, key: Key, *, beyond: bool = False) -> JobCheckpoints:
        return self._service.checkpoints.list(self._identity, key, beyond=beyond)

    def verify_checkpoints(
        self, key: Key, *, step: int | None = None, beyond: bool = False
    ) -> Iterator[CheckpointFound]:
        return self._service.checkpoints.verify(self._identity, key, step=step, beyond=beyond)

    def fetch_checkpoint(self, key: Key, *, step: int | None = None, beyond: bool = False) -> Iterator[CheckpointPiece]:
        return self._service.checkpoints.fetch(self._identity, key, step=step, beyond=beyond)

    def changes(self, key: Key, *, most: int) -> Iterator[ChangePiece]:
        return self._service.carried.changes(self._identity, key, most=most)

    def prune_checkpoints(self, key: Key, *, keep: int, beyond: bool = False) -> Sequence[int]:
        return self._service.checkpoints.prune(self._identity, key, keep=keep, beyond=beyond)

    def usage(self) -> UsageNow:
        return self._service.usage.now(self._identity)

    def timeline(self, start: int, end: int, *, pixels: int) -> Timeline:
        return self._service.history.timeline(self._identity, start, end, pixels)

    def job_use(self, key: Key) -> JobUse:
        return self._service.history.job_use(self._identity, key)

    def report(self, since: int, *, until: int = 0, by: By = "user") -> Report:
        return self._service.history.report(self._identity, since, until, by)

    def lease_rows(self, since: int, *, until: int = 0, after: int = 0) -> LeaseRows:
        return self._service.history.lease_rows(self._identity, since, until, after)

    def held_over_time(self, start: int, end: int, *, points: int = 100, by: By = "user") -> HeldOverTime:
        return self._service.history.held_over_time(self._identity, start, end, points, by)

    def same_directory(self, directory: str, word: str, *, namespace: str) -> Sequence[DirectoryOnNode]:
        return self._service.directories.same_on(self._identity, directory, word, namespace=namespace)

    def job_files(self, uids: Sequence[str]) -> Sequence[JobFiles]:
        return self._service.jobs.files(self._identity, uids)

    def logs(
        self, key: Key, *,
        attempt: int = 0, replica: int | None = None, follow: bool = False, tail: int | None = None,
        since: float | None = None, timestamps: bool = False, run: int = 0,
    ) -> Iterator[LogPiece]:  # fmt: skip
        return self._service.logs.read(
            self._identity, key, attempt=attempt, replica=replica, follow=follow, tail=tail, since=since,
            timestamps=timestamps, run=run,
        )  # fmt: skip

    def exec(self, key: Key, replica: int, asked: ExecRequest) -> RemoteProgram:
        raise CumulusError(
            "a program beside a job is started by the daemon, and none is asked", hint="run: cumulus serve"
        )

    def attach(self, key: Key, *, stdin: bool) -> RemoteProgram:
        raise CumulusError("a job's terminal is the daemon's to join, and none is asked", hint="run: cumulus serve")

    def forward(self, key: Key, replica: int, port: int, connection: socket.socket) -> None:
        raise CumulusError(
            "a port of a job is reached through the daemon, and none is asked", hint="run: cumulus serve"
        )

    def cordon(self, name: str, *, unschedulable: bool) -> bool:
        return self._service.nodes.cordon(self._identity, name, unschedulable=unschedulable)

    def find_worker(self, name: str, address: WorkerAddress, *, fingerprint: str = "") -> WorkerFound:
        return self._service.workers.find(self._identity, name, address, fingerprint=fingerprint)

    def add_worker(self, name: str, address: WorkerAddress, key: HostKey) -> NodeChange:
        return self._service.workers.add(self._identity, name, address, key)

    def ask_worker(self, name: str) -> WorkerAnswer:
        return self._service.workers.ask(self._identity, name)

    def setup_worker(
        self, name: str, *, prefix: str = "", python: str = "", dry_run: bool = False
    ) -> Iterator[SetupStep]:
        return self._service.workers.setup(self._identity, name, prefix=prefix, python=python, dry_run=dry_run)

    def drain_node(self, name: str, *, now: bool = False, seconds: float | None = None) -> Iterator[DrainStep]:
        return self._service.nodes.drain(self._identity, name, now=now, seconds=seconds)

    def plan_drain(self, name: str, *, at: str, duration: str = "") -> DrainPlanned:
        return self._service.planned_drains.plan(self._identity, name, at=at, duration=duration)

    def cancel_drain(self, name: str) -> bool:
        return self._service.planned_drains.cancel(self._identity, name)

    def end_drain(self, name: str) -> str:
        return self._service.planned_drains.end(self._identity, name)

    def remove_node(self, name: str, *, force: bool = False) -> Iterator[RemoveStep]:
        return self._service.nodes.remove(self._identity, name, force=force)

    def init_swarm(self, *, advertise: str = "", listen: str = "") -> SwarmMade:
        return self._service.swarm.initialise(self._identity, advertise=advertise, listen=listen)

    def swarm_invitation(self) -> SwarmInvitation:
        return self._service.swarm.invitation(self._identity)

    def swarm_status(self) -> SwarmStatus:
        return self._service.swarm.status(self._identity)

    def swarm_ownership(self) -> SwarmOwnership:
        return self._service.swarm.ownership(self._identity)

    def adopt_swarm(self, mark: SwarmMark | None) -> None:
        self._service.swarm.adopt(self._identity, mark)

    def push_image(self, name: str, nodes: Sequence[str], *, every: float) -> Generator[ImageStep]:
        return self._service.swarm.push_image(self._identity, name, nodes, every=every)

    def server_state(self) -> ServerState:
        return self._service.server_state(self._identity)

    def find_damaged(self, document: Document | None = None) -> InvalidObject | None:
        return self._service.find_damaged(self._identity, document)

    def backup(self, file: Path) -> None:
        self._service.backups.write(self._identity, file)

    def create_secret(self, namespace: str, name: str, values: Mapping[str, str], *, overwrite: bool = False) -> None:
        self._service.secrets.create(self._identity, namespace, name, values, overwrite=overwrite)

    def secrets(self, namespace: str | None) -> Sequence[SecretKey]:
        return self._service.secrets.list(self._identity, namespace)

    def create_token(
        self, name: str = "", *, user: str = "", groups: Sequence[str] = (), seconds: float | None = None
    ) -> NewToken:
        return self._service.tokens.create(self._identity, name, user=user, groups=groups, seconds=seconds)

    def tokens(self, *, everybody: bool = False) -> Sequence[TokenInfo]:
        return self._service.tokens.list(self._identity, everybody=everybody)

    def revoke_token(self, name: str, *, user: str = "") -> TokenInfo:
        return self._service.tokens.revoke(self._identity, name, user=user)

    def revoke_certificate(self, serial: str) -> RevokedCertificate:
        return self._service.certificates.revoke(self._identity, serial)

    def revoked_certificates(self) -> Sequence[RevokedCertificate]:
        return self._service.certificates.revoked(self._identity)

    def api_address(self) -> ApiAddress:
        return self._service.api_address(self._identity)

    def grpc_ticket(self) -> GrpcTicket:
        return self._service.tickets.issue(self._identity)

    def page_link(self) -> PageLink:
        return self._service.sessions.link(self._identity)

    def who_am_i(self) -> UserInfo:
        return self._service.who_am_i(self._identity)

    def may(self, verb: str, resource: str, *, namespace: str = "", name: str = "") -> Allowed:
        return self._service.may(self._identity, verb, resource, namespace=namespace, name=name)

    def raw(self, path: str) -> bytes:
        raise UsageError("there is no server to ask", hint="start one: cumulus serve")

    def delete_secret(self, namespace: str, name: str, key: str = "") -> None:
        self._service.secrets.delete(self._identity, namespace, name, key)

    def close(self) -> None:
        self._service.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _opened(home: Path, create: bool) -> Store:
    # Not all that is asked needs it.
    from cumulus import stores

    return stores.of_home(home, create=create)
