"""Makes a job anew under its name. The new one takes the old one's place in one transaction (`resources.reruns`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cumulus.clock import Clock, short_timestamp
from cumulus.errors import Conflict, Forbidden, UsageError
from cumulus.resources import reruns
from cumulus.resources.annotations import SUBMISSION
from cumulus.resources.documents import lookup
from cumulus.resources.field_managers import CUMULUS
from cumulus.resources.key import Document, Key
from cumulus.resources.registry import BY_NAME
from cumulus.resources.submitter import Submitter
from cumulus.service import audit
from cumulus.service.access.access import Access
from cumulus.service.access.guard import Guard
from cumulus.service.identity import Identity
from cumulus.service.objects import ATTEMPTS, Objects
from cumulus.service.patches import patched
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.blob.base import BlobStore


class Reruns:
    def __init__(
        self, store: Store, objects: Objects, access: Access, clock: Clock,
        blobs: Callable[[], BlobStore] | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._objects = objects
        self._access = access
        self._guard = Guard(store, access, clock, blobs)
        self._clock = clock

    def rerun(
        self, identity: Identity, key: Key, *, changes: object = None, from_checkpoint: bool = False, uid: str = ""
    ) -> Document:
        """The job, made anew with another uid; what runs of it is ended first. `changes`: a merge patch of its spec.
        `from_checkpoint`: it goes on from what it saved last. `uid`: only that very job.

        Raises NotFound, InvalidObject, Forbidden, Conflict where it is being deleted, and UsageError where it can't go
        on from a checkpoint.
        """
        if not BY_NAME[key.kind].leaves_files:
            raise UsageError(f"only jobs can be run again, not a {key.kind}")
        self._access.check(identity, "create", "gpujobs/rerun", key.namespace, key.name)
        with self._access.audit.doing(identity, [audit.change("create", "gpujobs/rerun", key)]):
            for _ in range(ATTEMPTS):
                old = self._objects.get(identity, key)
                if uid and old["metadata"]["uid"] != uid:
                    raise Conflict(f"gpujob/{key.name} is another job by now", hint="look at it, and try again")
                new = self._made(identity, old, changes, from_checkpoint)
                writes = self._guard.replaced(identity, old, new, keeps=True)
                try:
                    return self._store.transact(writes)[2]
                except Conflict:
                    continue
        raise Conflict(f"gpujob/{key.name} keeps changing", hint="try again")

    def _made(self, identity: Identity, old: Document, changes: object, from_checkpoint: bool) -> Document:
        from cumulus.admission import admit
        from cumulus.apply import ownership

        kind, before = BY_NAME[old["kind"]], old.get("spec") or {}
        held = {name: value for name, value in before.items() if name != "suspend"}
        spec = held if changes is None else patched(held, changes, "merge")
        metadata = {name: old["metadata"][name] for name in ("name", "namespace", "labels") if name in old["metadata"]}
        annotations = dict(old["metadata"].get("annotations") or {})
        annotations.pop(SUBMISSION, None)
        named = {
            "apiVersion": old["apiVersion"],
            "kind": kind.name,
            "metadata": metadata | {"annotations": annotations},
        }
        new = admit.admit_create(kind, {**named, "spec": spec}, user=True)
        whose = Submitter.of(annotations)
        if new["spec"] != admit.admit_create(kind, {**named, "spec": held}, user=True)["spec"] and (
            whose.name and (whose.name, whose.uid or identity.uid) != (identity.name, identity.uid)
        ):
            raise Forbidden(
                f"gpujob/{metadata['name']} is {whose.name}'s, and would run something else as {whose.name}",
                hint="leave --set out, or make a job of your own",
            )
        _check_checkpoint(old, new, from_checkpoint)
        changed = ownership.updated(old, {**old, "spec": new["spec"]}, CUMULUS, now=short_timestamp(self._clock.now()))
        if owners := changed["metadata"].get("managedFields"):
            new = {**new, "metadata": {**new["metadata"], "managedFields": owners}}
        if whole := old["metadata"].get("ownerReferences"):
            # It stays what it was a part of: a job of an array, say.
            new = {**new, "metadata": {**new["metadata"], "ownerReferences": whole}}
        return reruns.successor(old, new, from_checkpoint=from_checkpoint)


def _check_checkpoint(old: Document, new: Document, from_checkpoint: bool) -> None:
    """Raises UsageError."""
    name = f"gpujob/{old['metadata']['name']}"
    if from_checkpoint and (lookup(old, "spec.checkpoint") is None or lookup(new, "spec.checkpoint") is None):
        raise UsageError(f"{name} has no spec.checkpoint to go on from", hint="leave --from-checkpoint out")
    uri = lookup(new, "spec.checkpoint.uri")
    if uri is not None and uri == lookup(old, "spec.checkpoint.uri"):
        raise UsageError(
            f"{uri} has the checkpoints of the run before, and is for one job",
            hint="give this one a place of its own: --set spec.checkpoint.uri=…",
        )
