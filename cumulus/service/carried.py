"""Requests about directories that were carried to a job's node. What its program left there is its submitter's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from cumulus.errors import Forbidden, UsageError
from cumulus.resources.key import Document, Key
from cumulus.resources.registry import BY_NAME
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.reached_nodes import reached_node
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.answers.carried import ChangePiece

_RESOURCE = "pods/exec"
"""Who may run a program beside the job may read what that could read."""

Read = Callable[[Document, int, Callable[[str], Document | None]], "Iterator[ChangePiece]"]


class Carried:
    def __init__(self, access: Access, store: Store, objects: Objects, read: Read) -> None:
        self._access = access
        self._store = store
        self._objects = objects
        self._read = read

    def changes(self, identity: Identity, key: Key, *, most: int) -> Iterator[ChangePiece]:
        """What the job's last attempt changed in the directory that was carried to it; the content where that is not
        more bytes than `most`. For its submitter and admins, and audited. Raises NotFound, Forbidden, UsageError; the
        iterator raises BackendError."""
        if not BY_NAME[key.kind].leaves_files:
            raise UsageError(f"only jobs run programs, not a {key.kind}")
        pod = f"{key.name}-0"
        self._access.check(identity, "create", _RESOURCE, key.namespace, pod, group="")
        job = self._objects.get(identity, key)
        if refused := self._objects.why_not_entered(identity, job):
            self._access.audit.tell(identity, "create", _RESOURCE, key.namespace, pod, "Forbidden")
            raise Forbidden(f"you can't enter gpujob/{key.name}", hint=refused)
        with self._access.audit.doing(identity, [("create", _RESOURCE, key.namespace, pod)]):
            return self._read(job, max(0, most), partial(reached_node, self._store))
