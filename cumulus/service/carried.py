"""Requests about directories that were carried to a job's node. What its program left there is its submitter's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from cumulus.resources.key import Document, Key
from cumulus.service.access.access import Access
from cumulus.service.entering import entered
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.reached_nodes import reached_node
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.answers.carried import ChangePiece

_RESOURCE = "pods/exec"
"""Who may run a program beside the job may read what that could read."""

_Read = Callable[[Document, int, Callable[[str], Document | None]], "Iterator[ChangePiece]"]


class Carried:
    def __init__(self, access: Access, store: Store, objects: Objects, read: _Read) -> None:
        self._access = access
        self._store = store
        self._objects = objects
        self._read = read

    def changes(self, identity: Identity, key: Key, *, most: int) -> Iterator[ChangePiece]:
        """What the job's last attempt changed in the directory that was carried to it; the content where that is not
        more bytes than `most`. For its submitter and admins, and audited. Raises NotFound, Forbidden, UsageError; the
        iterator raises BackendError."""
        with entered(self._access, self._objects, identity, _RESOURCE, key, 0) as job:
            return self._read(job, max(0, most), partial(reached_node, self._store))
