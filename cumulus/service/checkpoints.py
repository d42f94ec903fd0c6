"""Requests about the checkpoints of a job. What it saved is its submitter's: others learn that it is there, no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from cumulus.errors import Forbidden, NotFound, UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.answers.checkpoints import CheckpointFound, CheckpointPiece, JobCheckpoints
    from cumulus.service.infrastructure import CheckpointReader

_RESOURCE = "gpujobs/checkpoints"

Nodes = Callable[[str], Document | None]
"""GPUNodes by name."""
Reader = Callable[[Document, Nodes], "CheckpointReader"]


class Checkpoints:
    """Each method raises NotFound, Forbidden, and UsageError for a job that keeps none, or none that can be read from
    here."""

    def __init__(self, access: Access, objects: Objects, reader: Reader, store: Store) -> None:
        self._access = access
        self._objects = objects
        self._read = reader
        self._store = store

    def list(self, identity: Identity, key: Key) -> JobCheckpoints:
        """Those on the node, newest first, as their manifests tell."""
        from cumulus.answers.checkpoints import JobCheckpoints

        self._access.check(identity, "list", _RESOURCE, key.namespace, key.name)
        job = self._job(identity, key)
        reader = self._read(job, self._node)
        uri = str(lookup(job, "status.checkpoint.uri") or lookup(job, "spec.checkpoint.uri") or "")
        copied = reader.copied() if uri else None
        return JobCheckpoints(_node(job), reader.path, uri, tuple(reader.list()), copied)

    def verify(self, identity: Identity, key: Key, *, step: int | None = None) -> Iterator[CheckpointFound]:
        """Read every byte of one checkpoint, or of all, and tell what is wrong with each."""
        return self._own(identity, "get", key).verify(step)

    def fetch(self, identity: Identity, key: Key, *, step: int | None = None) -> Iterator[CheckpointPiece]:
        """The newest whole one, or that of the step, which is verified first. The iterator raises BackendError."""
        return self._own(identity, "get", key).send(step)

    def prune(self, identity: Identity, key: Key, *, keep: int) -> Sequence[int]:
        """Delete all but so many whole ones; the steps that went. The newest whole one always stays."""
        if keep < 1:
            raise UsageError(f"at least one checkpoint stays, got {keep}", hint="delete the job to delete all")
        reader = self._own(identity, "delete", key)
        with self._access.audit.doing(identity, [("delete", _RESOURCE, key.namespace, key.name)]):
            return reader.prune(keep)

    def _own(self, identity: Identity, verb: str, key: Key) -> CheckpointReader:
        """The reader of a job for who may do with it as they like."""
        self._access.check(identity, verb, _RESOURCE, key.namespace, key.name)
        job = self._job(identity, key)
        if refused := self._objects.why_not_changed(identity, key):
            raise Forbidden(f"the checkpoints of gpujob/{key.name} are its submitter's", hint=refused)
        return self._read(job, self._node)

    def _job(self, identity: Identity, key: Key) -> Document:
        job = self._objects.get(identity, key)
        if lookup(job, "spec.checkpoint") is None:
            raise UsageError(f"gpujob/{key.name} keeps no checkpoints: it has no spec.checkpoint")
        if not _node(job):
            raise NotFound(f"gpujob/{key.name} has no checkpoints yet: it has not started")
        return job

    def _node(self, name: str) -> Document | None:
        try:
            return self._store.get(Key("GPUNode", "", name))
        except NotFound:
            return None


def _node(job: Document) -> str:
    attempts = [a for a in lookup(job, "status.attempts") or () if a.get("node")]
    return str(attempts[-1]["node"]) if attempts else ""
