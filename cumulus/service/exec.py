"""Programs beside a running job: who may start one, and beside which attempt."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from cumulus.errors import NotRunning, UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds.gpujob import running_attempt
from cumulus.service.access.access import Access
from cumulus.service.entering import entered
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.reached_nodes import reached_node
from cumulus.service.replicas import replicas_of
from cumulus.service.wait_conditions import phase_summary
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.lib.execution import ExecRequest, Execution, Reach
    from cumulus.service.infrastructure import Infrastructure


class _Running(NamedTuple):
    """A replica that runs: its attempt, and its node."""

    job: Document
    attempt: int
    node: str
    where: Document | None


class Exec:
    """Each method is for the job's submitter and admins, and written to the audit log. Raises NotFound, Forbidden,
    NotRunning, BackendError, and UsageError for a replica that there is not."""

    def __init__(self, access: Access, store: Store, objects: Objects, infrastructure: Infrastructure) -> None:
        self._access = access
        self._store = store
        self._objects = objects
        self._infrastructure = infrastructure

    def exec(self, identity: Identity, key: Key, replica: int, asked: ExecRequest) -> Execution:
        """Start a program as the job's submitter, in its leases and its environment."""
        if not asked.command or not asked.command[0]:
            raise UsageError("there is no command to run", hint="cumulus exec JOB -- COMMAND")
        if any("\0" in word for word in asked.command):
            raise UsageError("the command holds a NUL character, which no program can be given")
        with self._entered(identity, "pods/exec", key, replica) as found:
            return self._reach(found, replica).exec(asked)

    def check(self, identity: Identity, key: Key, replica: int, *, terminal: bool = False) -> None:
        """Raises where a program could not be started there now, or with `terminal` where there is none to be joined.
        For those who may connect: nothing is done, and nothing audited."""
        found = self._running(identity, self._objects.get(identity, key), replica)
        if terminal:
            _check_terminal(key, found.job, stdin=True)

    def attach(self, identity: Identity, key: Key, replica: int, *, stdin: bool) -> Execution:
        """Join the terminal of the job's own program, which goes on where that is left. One that waits for its input
        is given that instead, once: what it writes is in its log."""
        with self._entered(identity, "pods/attach", key, replica) as found:
            _check_terminal(key, found.job, stdin=stdin)
            reach = self._reach(found, replica)
            return reach.feed() if lookup(found.job, "spec.stdin") else reach.attach(stdin=stdin)

    def connect(self, identity: Identity, key: Key, replica: int, port: int) -> socket.socket:
        """A connection to a port at which a process of the job listens."""
        with self._entered(identity, "pods/portforward", key, replica) as found:
            return self._reach(found, replica).connect(port)

    def _reach(self, found: _Running, replica: int) -> Reach:
        return self._infrastructure.reach(found.job, found.attempt, replica, found.node, found.where)

    @contextmanager
    def _entered(self, identity: Identity, resource: str, key: Key, replica: int) -> Iterator[_Running]:
        with entered(self._access, self._objects, identity, resource, key, replica) as job:
            yield self._running(identity, job, replica)

    def _running(self, identity: Identity, job: Document, replica: int) -> _Running:
        name = f"gpujob/{job['metadata']['name']}"
        replicas_of(job, replica)
        last = running_attempt(job)
        if last is None:
            raise NotRunning(f"{name} does not run: {phase_summary(job)}")
        nodes = last.get("nodes") or [last.get("node", "")]
        node = str(nodes[min(replica, len(nodes) - 1)])
        return _Running(job, last["number"], node, reached_node(self._store, node))


def _check_terminal(key: Key, job: Document, *, stdin: bool) -> None:
    """Raises UsageError where its program has no terminal, nor waits for an input that is to be given."""
    if not lookup(job, "spec.tty") and not (stdin and lookup(job, "spec.stdin")):
        raise UsageError(
            f"gpujob/{key.name} has no terminal: it was made without spec.tty",
            hint=f"see its output with: cumulus logs -f {key.name}; open a shell: cumulus exec -it {key.name} -- bash",
        )
