"""Stands before every write of people and programs: may they, who submitted it, and does what runs stay theirs?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING
from uuid import uuid4

from cumulus.admission.problems import FieldProblem, Rejected
from cumulus.clock import Clock, timestamp
from cumulus.errors import Conflict, Forbidden, InvalidObject, NotFound
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import LONGEST_TEXT, LONGEST_WORD, truncate
from cumulus.resources.annotations import DELETED_BY, EDITED_BY
from cumulus.resources.documents import lookup
from cumulus.resources.field_managers import OF_SOURCES
from cumulus.resources.key import API_VERSION, DEFAULT_NAMESPACE, Document, Key, key_of
from cumulus.resources.kind import Kind
from cumulus.resources.kinds import event
from cumulus.resources.registry import BY_NAME
from cumulus.resources.submitter import QUEUE, Submitter, submitter_annotations, with_submitter
from cumulus.service.access import bindings, cycles, queues
from cumulus.service.access.access import Access, refusal
from cumulus.service.access.matrix import find
from cumulus.service.identity import Identity
from cumulus.store.base import Store, Write

if TYPE_CHECKING:
    from cumulus.blob.base import BlobStore

_VERBS = {"create": "create", "update": "patch", "status": "patch", "delete": "delete"}
_CONTROLLERS_OWN = ("ownerReferences", "finalizers")


class Guard:
    def __init__(
        self, store: Store, access: Access, clock: Clock, blobs: Callable[[], BlobStore] | None = None
    ) -> None:
        """`blobs`: what objects are made of; where there are none, no object that needs one can be made."""
        self._store = store
        self._blobs = blobs
        self._access = access
        self._clock = clock

    def checked(self, identity: Identity, writes: Sequence[Write], *, by_hand: bool = True) -> list[Write]:
        """The writes with who submitted what, and after them events that tell submitters who else changed something of
        theirs, and Sources who deleted something of theirs `by_hand`. Raises Forbidden where one of them is not
        allowed, NotFound."""
        told: list[Write] = []
        there = self._queues(writes)
        _check_trees(writes, there)
        self._check_cycles(writes)
        return [self._checked(identity, write, told, there, by_hand=by_hand) for write in writes] + told

    def replaced(self, identity: Identity, old: Document, new: Document, *, keeps: bool = False) -> list[Write]:
        """The writes that put the object `new` in the place of `old`, in one transaction: whose finalizers are taken
        over. `keeps`: its submitter stays, who may be another; it asks for nothing but what that one asked for. Raises
        Forbidden, Conflict where it is being deleted."""
        told: list[Write] = []
        self._check_cycles([Write("create", new)])
        key, metadata = key_of(old), old["metadata"]
        if metadata.get("deletionTimestamp"):
            raise Conflict(f"{key} is being deleted", hint="wait until it is gone, and make it then")
        if others := sorted(set(metadata.get("finalizers") or ()) - BY_NAME[key.kind].takes_over):
            raise Conflict(
                f"{key} cannot be made anew while {one_line(others[0])} holds it", hint="delete it, and make it then"
            )
        there = self._queues()
        gone = self._checked(identity, Write("delete", key=key, uid=metadata["uid"]), told, there)
        if keeps and not _is_mine(identity, old):
            self._access.check(identity, "create", BY_NAME[key.kind].plural, key.namespace, key.name)
            made = Write("create", with_submitter(new, submitter_annotations(metadata.get("annotations"))))
        else:
            made = self._checked(identity, Write("create", _without(new, _CONTROLLERS_OWN)), told, there)
            made = replace(made, document=_with(made.document or {}, new, _CONTROLLERS_OWN))
        # Also where nothing holds it: it goes as it was read, or not at all.
        bare = {**old, "metadata": {**metadata, "finalizers": []}}
        return [Write("update", bare), gone, made, *told]

    def _check_cycles(self, writes: Sequence[Write]) -> None:
        """No job waits for itself through others, as far as that can be seen now."""
        made = {w.target: w.document for w in writes if w.verb == "create" and w.document is not None}
        for document in made.values():
            if (problem := cycles.cycle_problem(self._store, document, made)) is not None:
                raise Rejected(key_of(document), [problem])

    def _queues(self, writes: Sequence[Write] = ()) -> Callable[[], Mapping[str, Document]]:
        """The queues there are, with those that are written now, read once, for one request of however many writes."""
        return cache(partial(queues.queues, self._store, writes))

    def _checked(
        self, identity: Identity, write: Write, told: list[Write], there: Callable[[], Mapping[str, Document]], *,
        by_hand: bool = True,
    ) -> Write:  # fmt: skip
        document = write.document
        key = write.target
        kind = BY_NAME[key.kind]
        verb = _VERBS[write.verb]
        resource = f"{kind.plural}/status" if write.verb == "status" else kind.plural
        self._access.check(identity, verb, resource, key.namespace, key.name)
        if document is not None and kind.grants:
            self._check_grants(identity, verb, key, document)
        if write.verb == "create":
            assert document is not None
            self._check_own(identity, key, verb, document, {})
            submitter = Submitter(identity.name, identity.uid, self._access.is_admin(identity))
            self._check_rules(identity, key, document, submitter)
            self._check_blobs(kind, key, document, submitter)
            self._check_template(identity, kind, key, document, {}, there)
            annotations = submitter.annotations | self._queued(identity, kind, key, document, there)
            return replace(write, document=_signed(identity, kind, with_submitter(document, annotations), {}))
        stored = self._store.get(key)
        self._check_submitter(identity, verb, key, stored)
        again = write.verb == "delete" and stored["metadata"].get("deletionTimestamp")
        others = kind.tells and not _is_mine(identity, stored, unknown=True)
        if not again and (others or (by_hand and write.verb == "delete" and _is_a_sources(stored))):
            event = _told(identity, write.verb, stored, timestamp(self._clock.now()), others=others, by_hand=by_hand)
            told.append(Write("create", event))
        if document is None:
            return write
        self._check_own(identity, key, verb, document, stored)
        self._check_sealed(identity, write, kind, key, stored)
        self._check_priority(kind, key, document, stored, there)
        self._check_template(identity, kind, key, document, stored, there)
        if kind.reads_as_submitter and not _is_mine(identity, stored):
            self._check_acting(identity, verb, kind, key, document, stored)
        uid = write.uid or stored["metadata"]["uid"]
        # Left out it is kept. One that is changed is refused at the store's door.
        kept = submitter_annotations(stored["metadata"].get("annotations"))
        given = submitter_annotations(document["metadata"].get("annotations"))
        written = _signed(identity, kind, with_submitter(document, kept | given), stored)
        if write.verb == "update":
            written = _edited(identity, written, stored)
        return replace(write, document=written, uid=uid)

    def _check_submitter(self, identity: Identity, verb: str, key: Key, stored: Document) -> None:
        if refused := self.why_not_changed(identity, key, stored):
            raise self._refusal(identity, verb, key, refused)

    def why_not_changed(self, identity: Identity, key: Key, stored: Document) -> str:
        """Why the identity may not change or delete this very object, whatever their role there; "" where they may."""
        if self._access.is_admin(identity, key.namespace) or _is_mine(identity, stored):
            return ""
        found = Submitter.of(stored["metadata"].get("annotations"))
        whose = one_line(found.name) or "the daemon's own user"
        return f"it is {whose}'s: only they and an admin may change it"

    def why_not_entered(self, identity: Identity, stored: Document) -> str:
        """Why the identity may not run programs beside this job, whatever their role; "" where they may.

        They would run as its submitter, so an admin of one namespace may not: what that user may do on the nodes is no
        namespace's to give. Into the jobs of root and of the daemon's own user only these two come."""
        if _is_mine(identity, stored) or identity.uid in (0, self._access.rules.uid):
            return ""
        found = Submitter.of(stored["metadata"].get("annotations"))
        whose = one_line(found.name) or "the daemon's own user"
        if not found.name or found.uid in (0, self._access.rules.uid):
            return f"it runs as {whose}, and nobody else may start a program there"
        if self._access.is_admin(identity):
            return ""
        return f"it is {whose}'s: only they and an admin of all namespaces may start a program there"

    def _check_own(self, identity: Identity, key: Key, verb: str, document: Document, stored: Document) -> None:
        """Owners and finalizers decide what is deleted, and what a controller takes for its own."""
        if self._access.is_admin(identity, key.namespace):
            return
        before, after = stored.get("metadata") or {}, document["metadata"]
        for field in _CONTROLLERS_OWN:
            if (after.get(field) or []) != (before.get(field) or []):
                raise self._refusal(identity, verb, key, f"only an admin may change metadata.{field}")

    def _check_sealed(self, identity: Identity, write: Write, kind: Kind, key: Key, stored: Document) -> None:
        part = "status." if write.verb == "status" else "spec."
        for field in sorted(kind.sealed):
            if field.startswith(part) and lookup(stored, field) != lookup(write.document, field):
                raise self._refusal(identity, _VERBS[write.verb], key, f"nobody writes {field} by hand")

    def _check_acting(
        self, identity: Identity, verb: str, kind: Kind, key: Key, document: Document, stored: Document
    ) -> None:
        """What acts with the rights of who made it lends them to nobody who has fewer."""
        before, after = stored.get("spec") or {}, document.get("spec") or {}
        changed = {field for field in before.keys() | after.keys() if before.get(field) != after.get(field)}
        whose = one_line(Submitter.of(stored["metadata"].get("annotations")).name) or "the daemon's own user"
        other = changed - {"suspend"} or document.get("status") != stored.get("status")
        if other and not self._access.is_admin(identity):
            said = f"it acts for {whose}: an admin of the namespace may suspend or delete it, and no more"
            raise self._refusal(identity, verb, key, said)
        if changed & kind.reads_as_submitter and identity.uid not in (0, self._access.rules.uid):
            said = f"it reads as {whose}: only they and root may say what"
            raise self._refusal(identity, verb, key, said)

    def _check_sources(self, identity: Identity, key: Key, document: Document) -> None:
        """Nobody takes over what is another's, an admin neither: a program would load what others wrote."""
        for field, source in BY_NAME[key.kind].model().sources(document):
            self._access.check(identity, "get", BY_NAME[source.kind].plural, source.namespace, source.name)
            try:
                stored = self._store.get(source)
            except NotFound:
                raise InvalidObject(f"{key}: {field}: there is no {source}", field=field) from None
            if not _is_mine(identity, stored):
                raise self._refusal(identity, "create", key, f"{field}: {source} is not yours")

    def _check_rules(self, identity: Identity, key: Key, document: Document, submitter: Submitter) -> None:
        self._check_sources(identity, key, document)
        if submitter.admin and submitter.uid in (0, self._access.rules.uid):
            # Who could become the daemon's user is refused nothing else.
            return
        made = BY_NAME[key.kind].model().model_validate(document)
        if refused := made.refusal(submitter, self._access.rules):
            raise self._refusal(identity, "create", key, one_line(refused))

    def _queued(
        self, identity: Identity, kind: Kind, key: Key, document: Document, queued: Callable[[], Mapping[str, Document]]
    ) -> dict[str, str]:
        """The annotation that says to which queue an object is submitted. Raises Forbidden where its submitter may not
        submit there, InvalidObject where there is no such queue, or its rules do not allow it."""
        if not kind.waits:
            return {}
        queue = self._queue_of(identity, key, document, queued(), ())
        return {QUEUE: queue} if queue else {}

    def _check_template(
        self, identity: Identity, kind: Kind, key: Key, document: Document, stored: Document,
        queued: Callable[[], Mapping[str, Document]],
    ) -> None:  # fmt: skip
        """What makes jobs is told at once what no queue would take, and not once for each job that is not made."""
        template = lookup(document, "spec.jobTemplate")
        if kind.job_template and isinstance(template, dict) and template != lookup(stored, "spec.jobTemplate"):
            self._queue_of(identity, key, template, queued(), ("spec", "jobTemplate"))

    def _queue_of(
        self, identity: Identity, key: Key, job: Document, there: Mapping[str, Document], at: tuple[str, ...]
    ) -> str:
        """The queue that a job is submitted to, "" where there are none. `at`: where in the object the job stands.
        Raises as `_queued` does."""
        try:
            queue = queues.find(there, identity, key.namespace, job, admin=self._access.is_admin(identity))
        except queues.NotYours as error:
            raise self._refusal(identity, "create", key, str(error)) from None
        except KeyError as error:
            known = ", ".join(sorted(there))
            others = f"the queues are {known}" if known else "there are no queues here, so leave it out"
            message = f"there is no queue {one_line(str(error.args[0]))}; {others}"
            raise Rejected(key, [FieldProblem((*at, "spec", "queue"), message)]) from None
        if found := queues.problems(there, queue, job):
            raise Rejected(key, [replace(problem, path=(*at, *problem.path)) for problem in found])
        return queue

    def _check_priority(
        self, kind: Kind, key: Key, document: Document, stored: Document, there: Callable[[], Mapping[str, Document]]
    ) -> None:
        """Nobody exceeds the highest priority of their queue later either."""
        queue = queues.named_by(stored)
        if not kind.waits or not queue or lookup(document, "spec.priority") == lookup(stored, "spec.priority"):
            return
        found = queues.problems(there(), queue, document)
        if found := [problem for problem in found if problem.path[-1] == "priority"]:
            raise Rejected(key, found)

    def _check_blobs(self, kind: Kind, key: Key, document: Document, submitter: Submitter) -> None:
        """What an object is made of is its submitter's own, whoever that is: knowing a hash gives nothing. They are
        named when the object is made, and stay."""
        named = list(kind.blobs(document)) if kind.blobs is not None else []
        if not named:
            return
        from cumulus.blob.base import owner_of

        store, owner = self._blobs and self._blobs(), owner_of(submitter)
        problems = []
        for path, sha256 in named:
            # What is no sha256 at all admission tells.
            found = store.find(owner, sha256) if store is not None and len(sha256) == 64 else None
            if found is None or not found.complete:
                problems.append(FieldProblem(path, f"you have no blob {one_line(sha256)[:64]}; send it first"))
        if problems:
            raise Rejected(key, problems)

    def _check_grants(self, identity: Identity, verb: str, key: Key, document: Document) -> None:
        """Nobody gives more than they have."""
        held = self._access.role(identity, key.namespace)
        for _, role in bindings.given(document):
            if held is None or not held.covers(role):
                raise self._refusal(identity, verb, key, f"you can't give the role {role}, which you do not have")

    def _refusal(self, identity: Identity, verb: str, key: Key, hint: str) -> Forbidden:
        plural = BY_NAME[key.kind].plural
        self._access.audit.tell(identity, verb, plural, key.namespace, key.name, "Forbidden")
        return refusal(identity, verb, find(plural) or plural, key.namespace, key.name, hint=hint)


def _check_trees(writes: Sequence[Write], there: Callable[[], Mapping[str, Document]]) -> None:
    """Objects that form trees have parents that are there, and are no part of themselves."""
    for document in [w.document for w in writes if w.document is not None and BY_NAME[w.target.kind].parent]:
        if (problem := queues.tree_problem(there(), document)) is not None:
            raise Rejected(key_of(document), [problem])


def _without(document: Document, fields: Sequence[str]) -> Document:
    metadata = {name: value for name, value in document["metadata"].items() if name not in fields}
    return {**document, "metadata": metadata}


def _with(document: Document, other: Document, fields: Sequence[str]) -> Document:
    """The document with those fields of another's metadata."""
    own = {name: other["metadata"][name] for name in fields if name in other["metadata"]}
    return {**document, "metadata": {**document["metadata"], **own}}


def _is_mine(identity: Identity, stored: Document, *, unknown: bool = False) -> bool:
    """Whether the identity submitted the object; `unknown` where the object is older than submitters."""
    found = Submitter.of(stored["metadata"].get("annotations"))
    if not found.name:
        return unknown
    return found.name == identity.name and found.uid in (None, identity.uid)


def _is_a_sources(stored: Document) -> bool:
    managers = (str(entry.get("manager", "")) for entry in stored["metadata"].get("managedFields") or ())
    return any(manager.startswith(OF_SOURCES) for manager in managers)


def _told(
    identity: Identity, verb: str, stored: Document, now: str, *, others: bool, by_hand: bool
) -> Document:  # fmt: skip
    """The event that somebody other than its submitter (`others`) changed an object, or deleted one of a Source."""
    # Loaded where there is something to tell: most people change what is theirs.
    from cumulus.resources.reasons import EventReason

    metadata = stored["metadata"]
    did = {"delete": "deleted", "status": "changed the status of"}.get(verb, "changed")
    who = one_line(identity.name)
    message = truncate(f"{who} {did} this {BY_NAME[stored['kind']].one}", LONGEST_TEXT)
    # The object takes what was noted in it away: a Source that makes it anew finds the name here.
    noted = {"annotations": {DELETED_BY: truncate(who, LONGEST_WORD)}} if by_hand and verb == "delete" else {}
    reason = EventReason.CHANGED_BY_ANOTHER if others else EventReason.DELETED_BY_HAND
    about = {
        "apiVersion": stored["apiVersion"], "kind": stored["kind"], "namespace": metadata.get("namespace") or "",
        "name": metadata["name"], "uid": metadata["uid"],
    }  # fmt: skip
    # Of each change one, also where it changed nothing.
    name = f"{metadata['name'][:200].rstrip('.-')}.{uuid4().hex[:16]}"
    return {
        "apiVersion": API_VERSION, "kind": event.KIND.name,
        "metadata": {"name": name, "namespace": metadata.get("namespace") or DEFAULT_NAMESPACE, **noted},
        "involvedObject": about, "reason": reason.value, "message": message, "type": "Normal",
        "source": {"component": "api", "host": ""}, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
    }  # fmt: skip


def _signed(identity: Identity, kind: Kind, document: Document, stored: Document) -> Document:
    """The object with who set each field that is signed, whatever the writer says of it."""
    if not kind.signed:
        return document
    before, after = stored.get("spec") or {}, document.get("spec") or {}
    known = (stored.get("metadata") or {}).get("annotations") or {}
    annotations = dict(document["metadata"].get("annotations") or {})
    for field, name in kind.signed:
        annotations.pop(name, None)
        if field not in after or after[field] is None:
            continue
        who = known.get(name) if before.get(field) == after[field] else one_line(identity.name)
        if who:
            annotations[name] = who
    return {**document, "metadata": {**document["metadata"], "annotations": annotations}}


def _edited(identity: Identity, document: Document, stored: Document) -> Document:
    """An object of a Source with who sets what of it by hand."""
    noted = any(EDITED_BY in (each["metadata"].get("annotations") or {}) for each in (document, stored))
    if not noted and not _is_a_sources(stored):
        return document
    # Loaded where there is such an object.
    from cumulus.gitops.editors import with_editor

    return with_editor(identity.name, document, stored)
