"""The application layer: what people and programs can ask of Cumulus, composed over one store.

Each concern is a module of this package and an attribute here. Every call takes the `Identity` of who asks. What a call
needs beyond the store is loaded by the call, so that a command starts as fast as its own verb.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cumulus.clock import Clock, SystemClock
from cumulus.daemon_lock import daemon_pid
from cumulus.errors import NotFound

if TYPE_CHECKING:
    from cumulus.answers.access import Allowed, UserInfo
    from cumulus.answers.server import ApiAddress, ServerState
    from cumulus.errors import InvalidObject
    from cumulus.resources.key import Document
    from cumulus.service.access.access import Access
    from cumulus.service.backups import Backups
    from cumulus.service.blobs import Blobs
    from cumulus.service.calls import Calls
    from cumulus.service.carried import Carried
    from cumulus.service.certificates import Certificates
    from cumulus.service.checkpoints import Checkpoints
    from cumulus.service.descriptions import Descriptions
    from cumulus.service.directories import Directories
    from cumulus.service.exec import Exec
    from cumulus.service.extensions import Extensions
    from cumulus.service.history import History
    from cumulus.service.identity import Identity
    from cumulus.service.infrastructure import Infrastructure, LogReader
    from cumulus.service.jobs import Jobs
    from cumulus.service.logs import Logs
    from cumulus.service.namespaces import Namespaces
    from cumulus.service.nodes import Nodes
    from cumulus.service.objects import Objects
    from cumulus.service.planned_drains import PlannedDrains
    from cumulus.service.readiness import Check
    from cumulus.service.reruns import Reruns
    from cumulus.service.secrets import Secrets
    from cumulus.service.sessions import Sessions
    from cumulus.service.sources import Sources
    from cumulus.service.submissions import Submissions
    from cumulus.service.swarm import Swarm
    from cumulus.service.tickets import Tickets
    from cumulus.service.tokens import Tokens
    from cumulus.service.usage import Usage
    from cumulus.service.why import Explanations
    from cumulus.service.workers import Workers
    from cumulus.store.base import Store


class Service:
    """`open_store` is called when an object is first asked for: not all that is asked needs the store. `home` is the
    state directory: the files of jobs are in it, and the daemon's lock. `infrastructure` is what the calls on logs,
    workers and the Swarm need; without it they can't be made. `owner`: the Unix user whose state directory it is, this
    process's own if left out; for `home_namespaces`, `mounts` and `switches` see `Access`.
    `audit`: whether the log tells who did what. `grpc`: whether a gRPC server is to answer beside it."""

    def __init__(
        self, open_store: Callable[[], Store], home: Path, clock: Clock | None = None, *,
        infrastructure: Infrastructure | None = None, owner: int | None = None, home_namespaces: bool = False,
        mounts: Sequence[str] = (), audit: bool = False, switches: bool | None = None, grpc: bool = False,
    ) -> None:  # fmt: skip
        self._open_store = open_store
        self._opened: Store | None = None
        self._infrastructure = infrastructure
        self._owner = os.geteuid() if owner is None else owner
        self._home_namespaces = home_namespaces
        self._mounts = mounts
        self._audit = audit
        self._switches = switches
        self._grpc = grpc
        self.home = home
        self.clock = clock or SystemClock()

    @classmethod
    def of_daemon(
        cls, store: Store, home: Path, *, system: bool, mounts: Sequence[str],
        infrastructure: Infrastructure | None = None, grpc: bool = False,
    ) -> Self:  # fmt: skip
        """As the processes of a daemon have it. `system`: of the one that serves every user of the machine, each of
        whom has a namespace, and whose jobs run as themselves."""
        return cls(
            lambda: store, home, infrastructure=infrastructure, home_namespaces=system, mounts=mounts, audit=True,
            switches=system, grpc=grpc,
        )  # fmt: skip

    @property
    def store(self) -> Store:
        if self._opened is None:
            self._opened = self._open_store()
        return self._opened

    @property
    def infrastructure(self) -> Infrastructure:
        assert self._infrastructure is not None, "this service was composed without its infrastructure"
        return self._infrastructure

    @cached_property
    def access(self) -> Access:
        from cumulus.service.access.access import Access
        from cumulus.service.audit import Audit

        return Access(
            lambda: self.store, self._owner, home_namespaces=self._home_namespaces, mounts=self._mounts,
            audit=Audit(logs=self._audit), switches=self._switches,
        )  # fmt: skip

    @cached_property
    def objects(self) -> Objects:
        from cumulus.service.objects import Objects

        blobs = None if self._infrastructure is None else lambda: self.infrastructure.blobs
        return Objects(self.store, self.clock, self.access, blobs)

    @cached_property
    def extensions(self) -> Extensions:
        from cumulus.service.extensions import Extensions

        return Extensions(self.store, self.objects, self.access, self.clock, self.home)

    @cached_property
    def usage(self) -> Usage:
        from cumulus.service.redaction import Redaction
        from cumulus.service.usage import Usage

        return Usage(self.store, self.objects, Redaction(self.access), self.clock)

    @cached_property
    def history(self) -> History:
        from cumulus import paths
        from cumulus.service.history import History

        return History(lambda: self.store, paths.history_file(self.home), self.access, self.clock)

    @cached_property
    def reruns(self) -> Reruns:
        from cumulus.service.reruns import Reruns

        blobs = None if self._infrastructure is None else lambda: self.infrastructure.blobs
        return Reruns(self.store, self.objects, self.access, self.clock, blobs)

    @cached_property
    def namespaces(self) -> Namespaces:
        from cumulus.service.namespaces import Namespaces

        return Namespaces(self.store, self.access)

    @cached_property
    def jobs(self) -> Jobs:
        from cumulus.service.jobs import Jobs

        return Jobs(self.objects, self.access, self.home, self.clock)

    @cached_property
    def blobs(self) -> Blobs:
        from cumulus.service.blobs import Blobs

        return Blobs(self.access, self.infrastructure.blobs)

    @cached_property
    def calls(self) -> Calls:
        from cumulus.service.calls import Calls

        def missing_python(job: Document) -> str:
            return self.infrastructure.missing_python(job) if self._infrastructure is not None else ""

        return Calls(
            self.store, self.objects, self.access, lambda job, node: self.infrastructure.session(job, node),
            missing_python,
        )  # fmt: skip

    @cached_property
    def nodes(self) -> Nodes:
        from cumulus.service.nodes import Nodes

        return Nodes(self.objects, self.clock, self.is_served)

    @cached_property
    def planned_drains(self) -> PlannedDrains:
        from cumulus.service.planned_drains import PlannedDrains

        return PlannedDrains(self.objects, self.clock)

    @cached_property
    def directories(self) -> Directories:
        from cumulus.service.directories import Directories

        return Directories(self.access, self.store, self.infrastructure.word_on_node)

    @cached_property
    def workers(self) -> Workers:
        from cumulus.service.workers import Workers

        return Workers(self.access, self.store, self.objects, self.nodes, self.infrastructure.workers)

    @cached_property
    def logs(self) -> Logs:
        from cumulus.service.logs import Logs
        from cumulus.service.reached_nodes import reached_node

        def reader(job: Document, node: str) -> LogReader:
            return self.infrastructure.log_reader(job, node, reached_node(self.store, node))

        return Logs(self.access, self.objects, reader, self.is_served)

    @cached_property
    def exec(self) -> Exec:
        from cumulus.service.exec import Exec

        return Exec(self.access, self.store, self.objects, self.infrastructure)

    @cached_property
    def carried(self) -> Carried:
        from cumulus.service.carried import Carried

        return Carried(self.access, self.store, self.objects, self.infrastructure.changes)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        from cumulus.service.checkpoints import Checkpoints

        found = self.infrastructure
        return Checkpoints(self.access, self.objects, found.checkpoint_reader, self.store, found.checkpoints_beyond)

    @cached_property
    def secrets(self) -> Secrets:
        from cumulus.service.secrets import Secrets

        return Secrets(self.home, self.access)

    @cached_property
    def sources(self) -> Sources:
        from cumulus.service.sources import Sources

        return Sources(self.store, self.objects, self.home, self.clock)

    @cached_property
    def tokens(self) -> Tokens:
        from cumulus.service.tokens import Tokens

        return Tokens(self.home, self.access, self.clock, certificates=self.certificates)

    @cached_property
    def certificates(self) -> Certificates:
        from cumulus.service.certificates import Certificates

        return Certificates(self.home, self.access, self.clock)

    @cached_property
    def sessions(self) -> Sessions:
        from cumulus.service.sessions import Sessions

        return Sessions(self.home, self.clock, self.tokens, self.is_served)

    @cached_property
    def tickets(self) -> Tickets:
        from cumulus.service.tickets import Tickets

        return Tickets(self.home, self.clock, self.tokens, self.is_served)

    @cached_property
    def submissions(self) -> Submissions:
        from cumulus.service.submissions import Submissions

        return Submissions(self.home, self.objects, self.clock)

    @cached_property
    def backups(self) -> Backups:
        from cumulus.service.backups import Backups

        return Backups(self.home, self.access)

    @cached_property
    def swarm(self) -> Swarm:
        from cumulus.service.swarm import Swarm

        return Swarm(self)

    @cached_property
    def explanations(self) -> Explanations:
        from cumulus.service.redaction import Redaction
        from cumulus.service.why import Explanations

        return Explanations(self.store, self.clock, self.objects, Redaction(self.access), self.home)

    @cached_property
    def descriptions(self) -> Descriptions:
        from cumulus.service.descriptions import Descriptions

        return Descriptions(self)

    def find_damaged(self, identity: Identity, document: Document | None = None) -> InvalidObject | None:
        """What is wrong with `document`, else with the first stored object that is not what its kind says; None where
        all are."""
        from cumulus.service import diagnose

        self.access.check(identity, "list", "gpujobs")
        return diagnose.find_damaged(self.store, document)

    def server_state(self, identity: Identity) -> ServerState:
        """Who keeps the objects up to date."""
        from cumulus.service.server_state import server_state

        return server_state(self.store, self.home, self.clock)

    def who_am_i(self, identity: Identity) -> UserInfo:
        """Who asks, as this service knows them."""
        from cumulus.answers.access import UserInfo

        return UserInfo(identity.name, identity.uid, identity.groups)

    def may(self, identity: Identity, verb: str, resource: str, *, namespace: str = "", name: str = "") -> Allowed:
        """Whether who asks may do it: `resource` as in the matrix, gpujobs or gpujobs/log; `namespace` "" for all."""
        from cumulus.answers.access import Allowed

        decision = self.access.may(identity, verb, resource, namespace, name)
        return Allowed(decision.allowed, decision.reason)

    def api_address(self, identity: Identity) -> ApiAddress:
        """Where the daemon answers over TLS; of one that has just started, once it does. Raises NotFound where none
        does."""
        from cumulus.service.addresses import api_address

        if not self.is_served():
            raise NotFound("no daemon answers over TLS: none runs", hint="run: cumulus serve")
        found = api_address.wait(self.home, self.clock)
        if found is None:
            raise NotFound("the daemon does not answer over TLS", hint="its log says why")
        return found

    def readiness(self) -> Sequence[Check]:
        """What must be so for the work to be done, and whether it is."""
        from cumulus.service.readiness import checks, grpc_check

        return [*checks(self.store, self.clock), *([grpc_check(self.home)] if self._grpc else [])]

    def is_served(self) -> bool:
        """Whether a daemon runs that will act on what is stored."""
        return daemon_pid(self.home) is not None

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
