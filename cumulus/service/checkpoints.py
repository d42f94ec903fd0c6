"""Requests about the checkpoints of a job. What it saved is its submitter's: others learn that it is there, no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cumulus.errors import Forbidden, NotFound, UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.reached_nodes import reached_node
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.answers.checkpoints import CheckpointFound, CheckpointPiece, JobCheckpoints
    from cumulus.service.infrastructure import CheckpointReader

_RESOURCE = "gpujobs/checkpoints"

_Nodes = Callable[[str], Document | None]
"""GPUNodes by name."""
_Reader = Callable[[Document, _Nodes], "CheckpointReader"]
_Beyond = Callable[[Document, str], "CheckpointReader"]


class Checkpoints:
    """Each method raises NotFound, Forbidden, and UsageError for a job that keeps none, or none that can be read from
    here."""

    def __init__(self, access: Access, objects: Objects, reader: _Reader, store: Store, beyond: _Beyond) -> None:
        self._access = access
        self._objects = objects
        self._read = reader
        self._read_beyond = beyond
        self._store = store

    def list(self, identity: Identity, key: Key, *, beyond: bool = False) -> JobCheckpoints:
        """Those on the node, newest first, as their manifests tell; or those beyond it, as that place tells."""
        from cumulus.answers.checkpoints import JobCheckpoints

        self._access.check(identity, "list", _RESOURCE, key.namespace, key.name)
        job = self._job(identity, key)
        reader = self._reader(job, beyond)
        copied = reader.copied() if _uri(job) and not beyond else None
        return JobCheckpoints("" if beyond else _node(job), reader.path, _uri(job), tuple(reader.list()), copied)

    def verify(
        self, identity: Identity, key: Key, *, step: int | None = None, beyond: bool = False
    ) -> Iterator[CheckpointFound]:
        """Read every byte of one checkpoint, or of all, and tell what is wrong with each. The iterator raises NotFound
        where there is none of that step."""
        _check_step(step)
        return _of_step(key, step, self._own(identity, "get", key, beyond).verify(step))

    def fetch(
        self, identity: Identity, key: Key, *, step: int | None = None, beyond: bool = False
    ) -> Iterator[CheckpointPiece]:
        """The newest whole one, or that of the step, which is verified first. The iterator raises BackendError."""
        _check_step(step)
        return self._own(identity, "get", key, beyond).send(step)

    def prune(self, identity: Identity, key: Key, *, keep: int, beyond: bool = False) -> Sequence[int]:
        """Delete all but so many whole ones; the steps that went. The newest whole one always stays."""
        if keep < 1:
            raise UsageError(f"at least one checkpoint stays, got {keep}", hint="delete the job to delete all")
        reader = self._own(identity, "delete", key, beyond)
        with self._access.audit.doing(identity, [("delete", _RESOURCE, key.namespace, key.name)]):
            return reader.prune(keep)

    def _own(self, identity: Identity, verb: str, key: Key, beyond: bool) -> CheckpointReader:
        """The reader of a job for who may do with it as they like."""
        self._access.check(identity, verb, _RESOURCE, key.namespace, key.name)
        job = self._job(identity, key)
        if refused := self._objects.why_not_changed(identity, key):
            raise Forbidden(f"the checkpoints of gpujob/{key.name} are its submitter's", hint=refused)
        return self._reader(job, beyond)

    def _reader(self, job: Document, beyond: bool) -> CheckpointReader:
        if not beyond:
            return self._read(job, partial(reached_node, self._store))
        if not _uri(job):
            raise UsageError(
                f"gpujob/{job['metadata']['name']} keeps no checkpoints beyond its node, as far as is known",
                hint="name a place in spec.checkpoint.uri",
            )
        return self._read_beyond(job, _uri(job))

    def _job(self, identity: Identity, key: Key) -> Document:
        job = self._objects.get(identity, key)
        if lookup(job, "spec.checkpoint") is None:
            raise UsageError(f"gpujob/{key.name} keeps no checkpoints: it has no spec.checkpoint")
        if not _node(job):
            raise NotFound(f"gpujob/{key.name} has no checkpoints yet: it has not started")
        return job


def _check_step(step: int | None) -> None:
    if step is not None and not 0 <= step < 10**12:
        raise UsageError(f"a step is a whole number from 0 to 999999999999, not {step}")


def _of_step(key: Key, step: int | None, verified: Iterator[CheckpointFound]) -> Iterator[CheckpointFound]:
    """What was verified of a job, which has to be something where one step was named."""
    found = False
    for each in verified:
        found = True
        yield each
    if step is not None and not found:
        raise NotFound(
            f"gpujob/{key.name} has no checkpoint of step {step}", hint=f"cumulus checkpoints {key.name} lists them"
        )


def _uri(job: Document) -> str:
    return str(lookup(job, "status.checkpoint.uri") or lookup(job, "spec.checkpoint.uri") or "")


def _node(job: Document) -> str:
    attempts = [a for a in lookup(job, "status.attempts") or () if a.get("node")]
    return str(attempts[-1]["node"]) if attempts else ""
