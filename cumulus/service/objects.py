"""Objects of every kind: reads, watches, writes, deletes. Every request of people and programs comes through here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import orjson

from cumulus.clock import Clock, short_timestamp, timestamp
from cumulus.errors import AlreadyExists, AlreadySet, Conflict, InvalidObject, NotFound, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.field_managers import CUMULUS
from cumulus.resources.key import DEFAULT_NAMESPACE, Document, Key, key_of
from cumulus.resources.kind import Kind
from cumulus.resources.packed import PackedPage, packed_page
from cumulus.resources.query import Page, Query, Watch
from cumulus.resources.registry import BY_NAME, KINDS, kind_of
from cumulus.service import audit
from cumulus.service.access.access import Access
from cumulus.service.access.guard import Guard
from cumulus.service.identity import Identity
from cumulus.service.patches import check as check_patch
from cumulus.service.patches import patched
from cumulus.service.redaction import Redact, Redaction
from cumulus.service.watches import OfNamespace, Redacted
from cumulus.store.base import Store, Write

if TYPE_CHECKING:
    from cumulus.admission.unknown_fields import OnUnknown
    from cumulus.answers.objects import Applied, PatchType, Propagation
    from cumulus.blob.base import BlobStore
    from cumulus.manifest import Manifest

ATTEMPTS = 10
"""How often a change is made anew when another writer was faster."""

_Change = Callable[[Document], Document]
"""The changed object; the given one itself where there is nothing to change."""


@dataclass(frozen=True, slots=True)
class Creation:
    """An object that somebody asks for: see `Objects.create`."""

    identity: Identity
    document: Document
    field_manager: str = CUMULUS
    dry_run: bool = False
    on_unknown: OnUnknown | None = None


class Objects:
    """The store as people and programs see it. Each change makes its `field_manager` the owner of what changed."""

    def __init__(
        self, store: Store, clock: Clock, access: Access, blobs: Callable[[], BlobStore] | None = None
    ) -> None:
        """`blobs`: see `Guard`."""
        self._store = store
        self._access = access
        self._guard = Guard(store, access, clock, blobs)
        self._redaction = Redaction(access)
        self._clock = clock

    def get(self, identity: Identity, key: Key) -> Document:
        """Raises NotFound, worded for people, Forbidden."""
        self._ask(identity, "get", key.kind, key.namespace, key.name)
        try:
            found = self._store.get(key)
        except NotFound:
            raise not_found(key) from None
        redact = self.redacting(identity, key.kind)
        return found if redact is None else redact(found)

    def why_not_entered(self, identity: Identity, stored: Document) -> str:
        """See `Guard.why_not_entered`."""
        return self._guard.why_not_entered(identity, stored)

    def why_not_changed(self, identity: Identity, key: Key) -> str:
        """Why the identity may not change or delete the object though their role allows it; "" where they may, and
        where there is none."""
        try:
            return self._guard.why_not_changed(identity, key, self._store.get(key))
        except NotFound:
            return ""

    def redacting(self, identity: Identity, kind: str) -> Redact | None:
        """What makes of each object of the kind what the identity may see of it; None where they may see all."""
        return self._redaction.of_nodes(identity) if BY_NAME[kind].readers is None else None

    def list(self, identity: Identity, query: Query) -> Page:
        """Raises Expired for a compacted revision or continue token, UsageError for a bad selector,
        Forbidden."""
        self._ask(identity, "list", query.kind, query.namespace or "")
        redact = self.redacting(identity, query.kind)
        if redact is None:
            return self._store.list(query)
        from cumulus.resources.selectors import Matcher

        # A selector must not tell what is not shown.
        page = self._store.list(replace(query, fields=""))
        matches = Matcher(query)
        return replace(page, items=[item for item in map(redact, page.items) if matches(item)])

    def list_packed(self, identity: Identity, query: Query) -> PackedPage:
        """As `list`, with each object as its JSON."""
        if self.redacting(identity, query.kind) is not None:
            page = self.list(identity, query)
            return packed_page(map(orjson.dumps, page.items), page.revision, page.continue_token)
        self._ask(identity, "list", query.kind, query.namespace or "")
        return self._store.list_packed(query)

    def watch(self, identity: Identity, *, since: int, kinds: frozenset[str], namespace: str | None = None) -> Watch:
        """The changes of these kinds after the revision `since`; of kinds that have namespaces in this one alone, or in
        all where it is None. Raises Expired where they were compacted, Forbidden."""
        for kind in kinds:
            self._ask(identity, "watch", kind, (namespace or "") if BY_NAME[kind].namespaced else "")
        watch = self._store.watch(since=since, kinds=kinds)
        redact = {kind: found for kind in kinds if (found := self.redacting(identity, kind)) is not None}
        if redact:
            watch = Redacted(watch, redact)
        return watch if namespace is None else OfNamespace(watch, namespace)

    def follow(self, identity: Identity, key: Key, *, since: int) -> Watch:
        """As `watch`, for who may see the object's namespace alone. Others of its kind come too: callers hand on
        nothing but the object's own events."""
        self._ask(identity, "watch", key.kind, key.namespace, key.name)
        return self._store.watch(since=since, kinds=frozenset({key.kind}))

    def revision(self, identity: Identity) -> int:
        """The newest revision, 0 in an empty store: where a watch begins that is to miss nothing from now on."""
        return self._store.revision()

    def create(
        self, identity: Identity, document: Document, *,
        field_manager: str = CUMULUS, dry_run: bool = False, on_unknown: OnUnknown | None = None,
    ) -> Document:  # fmt: skip
        """The object as stored; with `dry_run`, as it would be. Raises AlreadyExists, InvalidObject.

        `on_unknown` is told of fields that the kind does not have, and the object is made without them; if it is left
        out, they are what any other mistake is.
        """
        (made,) = self.create_each([Creation(identity, document, field_manager, dry_run, on_unknown)])
        if isinstance(made, BaseException):
            raise made
        return made

    def create_each(self, asked: Sequence[Creation]) -> Sequence[Document | BaseException]:
        """Make objects that were asked for at the same time, each as by `create`: the object, or what `create` would
        have raised. They share a commit."""
        outcomes: list[Document | BaseException] = [RuntimeError("it was not made")] * len(asked)
        steps = [self._creating(each) for each in asked]
        writing: list[tuple[int, Sequence[Write]]] = []
        for at, step in enumerate(steps):
            try:
                writing.append((at, next(step)))
            except StopIteration as done:
                outcomes[at] = done.value
            except Exception as error:
                outcomes[at] = error
        written = self._store.transact_each([writes for _, writes in writing]) if writing else ()
        for (at, _), answer in zip(writing, written, strict=True):
            try:
                if isinstance(answer, BaseException):
                    steps[at].throw(answer)
                else:
                    steps[at].send(answer[0])
            except StopIteration as done:
                outcomes[at] = done.value
            except Exception as error:
                outcomes[at] = error
        return outcomes

    def _creating(self, asked: Creation) -> Generator[Sequence[Write], Document, Document]:
        """The steps of `create` around its transaction: gives the writes, and takes the object as stored."""
        from cumulus.admission import admit
        from cumulus.apply import ownership

        identity, document = asked.identity, asked.document
        kind = kind_of(document)
        # Before what is wrong with the object: that is for those who may make one.
        self._ask(identity, "create", kind.name, _namespace(kind, document))
        document = _known(kind, document, asked.on_unknown)
        admitted = admit.admit_create(kind, _without_owners(document), user=True)
        owned = ownership.created(admitted, document, asked.field_manager, now=self._now())
        with self._doing(identity, [write := Write("create", owned)], asked.dry_run):
            writes = self._guard.checked(identity, [write])
            if asked.dry_run:
                return self._written(writes, 0, dry_run=True)
            return self._answered((yield writes))

    def update(
        self, identity: Identity, document: Document, *,
        field_manager: str = CUMULUS, dry_run: bool = False, on_unknown: OnUnknown | None = None,
    ) -> Document:  # fmt: skip
        """Replace all but status. Raises NotFound; Conflict where the object has moved on from the resourceVersion in
        `document`; InvalidObject. `on_unknown` as in `create`."""
        from cumulus.admission import admit
        from cumulus.store.rules import checked_key

        kind = kind_of(document)
        document = admit.with_namespace(kind, document)
        key = checked_key(document)
        self._ask(identity, "update", *key)
        found = self.get(identity, key)
        document = _known(kind, document, on_unknown, stored=found)
        return self._write(identity, [Write("update", self._admitted(kind, found, document, field_manager))], dry_run)

    def update_status(self, identity: Identity, document: Document, *, dry_run: bool = False) -> Document:
        """Replace status alone, as controllers do. Raises NotFound, Conflict, InvalidObject, Forbidden."""
        from cumulus.admission import admit
        from cumulus.store.rules import checked_key

        document = admit.with_namespace(kind_of(document), document)
        key = checked_key(document)
        self._access.check(identity, "update", _status_of(key), key.namespace, key.name)
        return self._write(identity, [Write("status", document)], dry_run)

    def patch_status(
        self, identity: Identity, key: Key, patch: object, *, type: PatchType = "merge", dry_run: bool = False
    ) -> Document:
        """As `patch`, of status alone: what the patch changes beside it is left as it is."""
        check_patch(patch, type)
        self._access.check(identity, "patch", _status_of(key), key.namespace, key.name)

        def change(document: Document) -> Document:
            after = patched(document, patch, type)
            _checked_version(key, document, after)
            if after.get("status") == document.get("status"):
                return document
            return {**document, "status": after.get("status") or {}}

        return self._edit(identity, key, change, dry_run=dry_run, verb="status")[0]

    def patch(
        self, identity: Identity, key: Key, patch: object, *,
        type: PatchType = "merge", resource_version: str | None = None, field_manager: str = CUMULUS,
        dry_run: bool = False, on_unknown: OnUnknown | None = None,
    ) -> Document:  # fmt: skip
        """The object with `patch` applied. Unless it or `resource_version` says a version, again where another writer
        was faster. Raises NotFound, Conflict, InvalidObject, and UsageError for what is no patch. `on_unknown` as in
        `create`."""
        from cumulus.store.rules import checked_key

        check_patch(patch, type)

        def change(document: Document) -> Document:
            after = patched(document, patch, type)
            version = _checked_version(key, document, after, resource_version)
            if after is document:
                return document
            kind = BY_NAME[key.kind]
            if (after.get("kind"), after.get("apiVersion")) != (document["kind"], document["apiVersion"]):
                raise InvalidObject(f"{key}: kind and apiVersion cannot change", field="kind")
            after = _known(kind, after, on_unknown, stored=document)
            admitted = self._admitted(kind, document, after, field_manager)
            if checked_key(admitted) != key:
                raise InvalidObject(
                    f"{key}: metadata.name and metadata.namespace cannot change", field="metadata",
                    hint="create another object, and delete this one",
                )  # fmt: skip
            # Whoever else writes meanwhile is noticed, also where the patch takes the version out.
            return {**admitted, "metadata": {**admitted["metadata"], "resourceVersion": version}}

        return self._edit(identity, key, change, attempts=1 if resource_version else ATTEMPTS, dry_run=dry_run)[0]

    def apply_patch(
        self, identity: Identity, key: Key, given: object, *,
        field_manager: str, force: bool = False, dry_run: bool = False, on_unknown: OnUnknown | None = None,
    ) -> tuple[Document, bool]:  # fmt: skip
        """Server-side apply of one configuration: the object, and whether it was created.

        `force`: take over fields that other managers own. Raises ApplyConflict without it, Conflict for another uid or
        resourceVersion than the configuration names, InvalidObject. `on_unknown` as in `create`.
        """
        from cumulus.apply import server_side

        self._ask(identity, "patch", key.kind, key.namespace, key.name)
        by = server_side.Applier(field_manager, self._now(), force)
        kind = BY_NAME[key.kind]
        wanted = server_side.configuration(key, given)
        for _ in range(ATTEMPTS):
            found = self._stored(key)
            config = _known(kind, wanted.document, on_unknown)
            wanted.check_preconditions(found)
            after = server_side.outcome(kind, config, found, by)
            if after is found:
                return found, False
            try:
                return self._write(identity, [Write("update" if found else "create", after)], dry_run), found is None
            except (AlreadyExists, Conflict, NotFound):
                continue
        raise _keeps_changing(key)

    def apply(
        self, identity: Identity, manifests: Sequence[Manifest], *,
        dry_run: bool = False, prune: str = "", prune_limit: int | None = None, field_manager: str = CUMULUS,
        force_conflicts: bool = False, recreate: bool = False,
    ) -> Sequence[Applied]:  # fmt: skip
        """Server-side apply of manifests, all in one transaction or none: what became of each, in their order, pruned
        ones last. With `dry_run` nothing is written.

        `prune`: a label selector; what matches it, was applied before by the same field manager and is in no manifest
        any more is deleted, at most `prune_limit` objects. `force_conflicts`: take over fields that other managers own.
        `recreate`: make anew what has other immutable fields, as a rerun does.
        Raises InvalidManifest with everything that forbids it, conflicts included, PruneRefused, Conflict.
        """
        from cumulus.answers.objects import Applied
        from cumulus.apply.apply import PruneScope, apply

        for manifest in manifests:
            # Before anything is read: what forbids a change tells what is stored.
            self._ask(identity, "patch", *manifest.key)
        pruning = PruneScope(prune, prune_limit) if prune else None
        # What would be pruned is looked for by label, and how much it is is told.
        for namespace in {m.key.namespace for m in manifests if m.key.namespace} or {DEFAULT_NAMESPACE}:
            for kind in KINDS if pruning is not None else ():
                if kind.user_made and kind.namespaced:
                    self._ask(identity, "list", kind.name, namespace)
        verb = partial(audit.change, "patch")
        changes = [verb(m.kind.plural, m.key) for m in manifests]
        with self._access.audit.doing(identity, changes, dry_run=dry_run):
            results = apply(
                self._store, manifests, dry_run=dry_run, prune=pruning, admit=partial(self._guard.checked, identity),
                field_manager=field_manager, force_conflicts=force_conflicts, clock=self._clock,
                recreate=partial(self._recreating, identity) if recreate else None,
            )  # fmt: skip
        self._access.bindings_changed()
        return [Applied(result.action, result.key, result.before, result.after) for result in results]

    def _recreating(self, identity: Identity, old: Document, new: Document) -> Sequence[Write]:
        successor = BY_NAME[old["kind"]].successor
        return self._guard.replaced(identity, old, new if successor is None else successor(old, new))

    def delete(
        self, identity: Identity, key: Key, *, uid: str | None = None, resource_version: str | None = None,
        propagation: Propagation = "background", grace_seconds: int = 0, dry_run: bool = False,
    ) -> Document:  # fmt: skip
        """The object as deleted, or as marked where finalizers hold it: then its metadata has a deletionTimestamp and
        controllers let go of it.

        `uid`, `resource_version`: only that very object. `grace_seconds`: how long a job's processes have at most, from
        the stop signal on; 0 for the job's own grace period. Raises NotFound, Conflict, UsageError.
        """
        if propagation not in ("background", "orphan"):
            raise UsageError(f"there is no propagation {propagation!r}", hint="it is background or orphan")
        if grace_seconds < 0:
            raise UsageError(f"a grace period cannot be negative, got {grace_seconds}")
        self._ask(identity, "delete", *key)
        for attempt in range(ATTEMPTS):
            found = self.get(identity, key)
            writes = list(self._disowning(found)) if propagation == "orphan" else []
            wanted = uid or found["metadata"]["uid"]
            writes.append(Write("delete", None, key, wanted, resource_version, grace_seconds))
            try:
                return self._write(identity, writes, dry_run)
            except Conflict:
                if resource_version or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError

    def delete_collection(
        self, identity: Identity, query: Query, *,
        propagation: Propagation = "background", grace_seconds: int = 0, dry_run: bool = False,
    ) -> Page:  # fmt: skip
        """Delete what the query finds: the objects as they were. None goes where who asks may not delete one of them.
        Options as in `delete`. Raises Forbidden, UsageError."""
        self._ask(identity, "deletecollection", query.kind, query.namespace or "")
        page = self.list(identity, query)
        uids = {key_of(document): document["metadata"]["uid"] for document in page.items}
        for key, uid in uids.items():
            # What is gone by now need not be deleted.
            with suppress(NotFound):
                self._guard.checked(identity, [Write("delete", None, key, uid)])
        for key, uid in uids.items():
            with suppress(NotFound):
                self.delete(
                    identity, key, uid=uid, propagation=propagation, grace_seconds=grace_seconds, dry_run=dry_run
                )
        return page

    def set_labels(
        self, identity: Identity, key: Key, changes: Mapping[str, str | None], *, overwrite: bool = False
    ) -> bool:
        """Set labels, and remove those whose value is None. Whether there was something to change.

        Raises NotFound; AlreadySet for a label with another value, unless `overwrite`.
        """
        return self._set_metadata(identity, key, "labels", changes, overwrite)

    def set_annotations(
        self, identity: Identity, key: Key, changes: Mapping[str, str | None], *, overwrite: bool = False
    ) -> bool:
        """As `set_labels`."""
        return self._set_metadata(identity, key, "annotations", changes, overwrite)

    def edit(
        self, identity: Identity, key: Key, change: _Change, *, field_manager: str = CUMULUS
    ) -> tuple[Document, bool]:
        """Read, change, write; again when another writer was faster. The object, and whether it changed. `change` gives
        an object that may be stored as it is. Raises NotFound, Conflict, and what `change` raises."""
        from cumulus.apply import ownership

        def owned(document: Document) -> Document:
            after = change(document)
            if after is document:
                return document
            return ownership.updated(document, after, field_manager, now=self._now())

        return self._edit(identity, key, owned)

    def _edit(
        self, identity: Identity, key: Key, change: _Change, *,
        attempts: int = ATTEMPTS, dry_run: bool = False, verb: Literal["update", "status"] = "update",
    ) -> tuple[Document, bool]:  # fmt: skip
        """As `edit`, for changes that say the owners too, or need not."""
        # Before it is read: also who may see it learns first that they may not change it.
        if verb == "update":
            self._ask(identity, "patch", *key)
        for _ in range(attempts):
            found = self.get(identity, key)
            changed = change(found)
            if changed is found:
                return found, False
            try:
                return self._write(identity, [Write(verb, changed)], dry_run), True
            except Conflict:
                if attempts == 1:
                    raise
        raise _keeps_changing(key)

    def _admitted(self, kind: Kind, found: Document, given: Document, field_manager: str) -> Document:
        """The stored object changed to what was given, with defaults and owners. Raises InvalidObject."""
        from cumulus.admission import admit
        from cumulus.apply import ownership

        admitted = admit.admit_update(kind, found, _without_owners(given))
        return ownership.updated(found, admitted, field_manager, now=self._now(), given=given)

    def _now(self) -> str:
        """For people who look at owners."""
        return short_timestamp(self._clock.now())

    def _set_metadata(
        self, identity: Identity, key: Key, field: str, changes: Mapping[str, str | None], overwrite: bool
    ) -> bool:
        def change(document: Document) -> Document:
            before = document["metadata"].get(field) or {}
            taken = [k for k, v in changes.items() if v is not None and k in before and before[k] != v]
            if taken and not overwrite:
                raise AlreadySet(
                    f"{key_of(document)} has {taken[0]}={one_line(before[taken[0]])} already", hint="give --overwrite"
                )
            after = {k: v for k, v in {**before, **changes}.items() if v is not None}
            if after == before:
                return document
            return {**document, "metadata": {**document["metadata"], field: after}}

        return self.edit(identity, key, change)[1]

    def _disowning(self, owner: Document) -> Iterator[Write]:
        """Take the owner out of everything that belongs to it, so that garbage collection leaves that be."""
        uid = owner["metadata"]["uid"]
        for kind in BY_NAME:
            for document in self._store.list(Query(kind=kind, owner_uid=uid)).items:
                metadata = document["metadata"]
                kept = [o for o in metadata["ownerReferences"] if o["uid"] != uid]
                yield Write("update", {**document, "metadata": {**metadata, "ownerReferences": kept}})

    def _ask(self, identity: Identity, verb: str, kind: str, namespace: str = "", name: str = "") -> None:
        """Raises Forbidden."""
        known = BY_NAME.get(kind)
        self._access.check(identity, verb, known.plural if known else kind, namespace, name)

    def _write(self, identity: Identity, given: Sequence[Write], dry_run: bool) -> Document:
        """The answer to the last of the writes. Raises Forbidden."""
        with self._doing(identity, given, dry_run):
            return self._written(self._guard.checked(identity, given), len(given) - 1, dry_run)

    def _doing(self, identity: Identity, given: Sequence[Write], dry_run: bool) -> AbstractContextManager[None]:
        """What happens inside are these writes: see `Audit.doing`."""
        changes = [audit.change(w.verb, BY_NAME[w.target.kind].plural, w.target) for w in given]
        return self._access.audit.doing(identity, changes, dry_run=dry_run)

    def _answered(self, answer: Document) -> Document:
        """What the store says of a write that it made."""
        if BY_NAME[answer["kind"]].grants:
            self._access.bindings_changed()
        return answer

    def _written(self, writes: Sequence[Write], answered: int, dry_run: bool) -> Document:
        """The answer to one of the writes."""
        if not dry_run:
            return self._answered(self._store.transact(writes)[answered])
        from cumulus.admission import door
        from cumulus.store import codec, rules

        made = rules.prepare(
            writes, None, self._stored, revision=self._store.revision(),
            now=timestamp(self._clock.now()), new_uid=rules.new_uid,
            admission=door.check,
        )  # fmt: skip
        return codec.decode(made.answers[answered])

    def _stored(self, key: Key) -> Document | None:
        try:
            return self._store.get(key)
        except NotFound:
            return None


def _namespace(kind: Kind, document: Document) -> str:
    """Where an object that was not checked yet is to be."""
    metadata = document.get("metadata")
    given = metadata.get("namespace") if isinstance(metadata, dict) else None
    if not kind.namespaced:
        return ""
    return given if isinstance(given, str) and given else DEFAULT_NAMESPACE


def _status_of(key: Key) -> str:
    return f"{BY_NAME[key.kind].plural}/status"


def not_found(key: Key) -> NotFound:
    """As kubectl words it, with the namespace, since looking in the wrong one is the usual slip."""
    kind = BY_NAME.get(key.kind)
    where = f" in namespace {one_line(key.namespace)}" if key.namespace else ""
    return NotFound(f"{kind.qualified if kind else one_line(key.kind)} {key.name!r} not found{where}")


def _keeps_changing(key: Key) -> Conflict:
    return Conflict(f"{key.kind.lower()}/{key.name} keeps changing", hint="try again")


def _without_owners(document: Document) -> Document:
    """Who owns which field is no matter of admission: it is read, or kept, apart."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or "managedFields" not in metadata:
        return document
    kept = {name: value for name, value in metadata.items() if name != "managedFields"}
    return {**document, "metadata": kept}


def _checked_version(key: Key, document: Document, after: Document, resource_version: str | None = None) -> str:
    """The version of the object that was patched. Raises Conflict where the patch, or who sent it, names another."""
    metadata, version = after.get("metadata"), str(document["metadata"]["resourceVersion"])
    given = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    for wanted in (resource_version, given):
        if wanted is not None and wanted != version:
            raise Conflict(
                f"{key} is at resourceVersion {version}, not at {one_line(str(wanted))}",
                hint="read it again and repeat the change",
            )
    return version


def _known(kind: Kind, document: Document, on_unknown: OnUnknown | None, *, stored: Document | None = None) -> Document:
    """What a client sent that may say more than the kind knows, and leave fields empty."""
    if on_unknown is None:
        return document
    from cumulus.admission.empty_fields import without_empty
    from cumulus.admission.unknown_fields import without_unknown

    return without_empty(kind, without_unknown(kind, document, on_unknown, stored=stored))
