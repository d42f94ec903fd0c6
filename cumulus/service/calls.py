"""Calls: jobs that run one function for a client that waits for it."""

from __future__ import annotations

from collections.abc import Callable

from cumulus.calls.session import SessionConnection
from cumulus.errors import Forbidden, InvalidObject, NotFound, Replaced
from cumulus.lib.printable import one_line
from cumulus.resources.documents import lookup
from cumulus.resources.key import DEFAULT_NAMESPACE, Document, Key
from cumulus.resources.kinds import gpunode
from cumulus.resources.quantity import format_duration
from cumulus.resources.query import Query
from cumulus.resources.submitter import Submitter
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.reached_nodes import reached_node
from cumulus.store.base import Store


class Calls:
    def __init__(
        self, store: Store, objects: Objects, access: Access,
        session: Callable[[Document, Document | None], SessionConnection], missing_python: Callable[[Document], str],
    ) -> None:  # fmt: skip
        self._store = store
        self._objects = objects
        self._access = access
        self._session = session
        self._missing_python = missing_python

    def check_python(self, identity: Identity, job: Document) -> None:
        """Raises InvalidObject where no node could run the call that the job is, for want of its Python, and Forbidden
        for who may make no job: others learn nothing of what is on this node."""
        text = self._missing_python(job)
        if text and not self._may_run_elsewhere(job):
            given = lookup(job, "metadata.namespace")
            namespace = given if isinstance(given, str) and given else DEFAULT_NAMESPACE
            self._access.check(identity, "create", "gpujobs", namespace)
            hint = "call with a Python that the node has, install this one there, or give an image that has it"
            raise InvalidObject(f"spec.call.python: {text}", field="spec.call.python", hint=hint)

    def _may_run_elsewhere(self, job: Document) -> bool:
        """Whether the call may go to another node: the scheduler asks there for the Python that it names."""
        if not lookup(job, "spec.call.interpreter") or lookup(job, "spec.call.environment"):
            return False
        nodes = self._store.list(Query(gpunode.KIND.name)).items
        return sum("process" in (lookup(node, "status.runtimes") or ()) for node in nodes) > 1

    def get(self, identity: Identity, key: Key, uid: str = "") -> Document:
        """The job; with `uid` that very one. Raises NotFound, Forbidden."""
        found = self._objects.get(identity, key)
        if uid and found["metadata"]["uid"] != uid:
            raise Replaced(f"gpujob/{key.name} is another one: it has the uid {found['metadata']['uid']}")
        return found

    def own(self, identity: Identity, key: Key, uid: str = "") -> Document:
        """The same for its submitter alone: what a call was given and gives back is theirs. Raises Forbidden for
        others, admins too."""
        self._access.check(identity, "get", "gpujobs/call", key.namespace, key.name)
        found = self.get(identity, key, uid)
        submitter = Submitter.of(found["metadata"].get("annotations"))
        if (submitter.name, submitter.uid) != identity[:2]:
            self._access.audit.tell(identity, "get", "gpujobs/call", key.namespace, key.name, "Forbidden")
            raise Forbidden(f"gpujob/{key.name} is {one_line(submitter.name) or 'nobody'}'s call, not yours")
        return found

    def session(self, job: Document) -> SessionConnection:
        """A connection to the session that this job is, which `own` gave. Raises SessionEnded where it has not begun or
        is over, BackendError where its node does not answer."""
        attempts = lookup(job, "status.attempts") or [{}]
        return self._session(job, reached_node(self._store, attempts[-1].get("node", "")))

    def end_unattended(self, key: Key, uid: str, seconds: float) -> None:
        """Delete a call whose client was silent for that long. For the server itself, not for people."""
        try:
            job = self._store.get(key)
            self._store.delete(key, uid=uid)
        except NotFound:
            return
        submitter = Submitter.of(job["metadata"].get("annotations"))
        who = Identity(submitter.name, submitter.uid)
        outcome = f"done: its client was silent for {format_duration(seconds)}"
        self._access.audit.tell(who, "delete", "gpujobs", key.namespace, key.name, outcome)
