"""Looks at one Source: reads its revision, plans the sync, and does it in one transaction with the Source's status.

What a plan does and when it has to ask is in `cumulus.gitops.sync`. A crash leaves the old set or the new one: objects,
inventory and status are one write.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import orjson

from cumulus.clock import Clock, timestamp
from cumulus.controllers.source import status as status_of
from cumulus.errors import Forbidden, InvalidObject, NotFound
from cumulus.gitops import directories
from cumulus.gitops.desired import NOTHING, Desired, desired
from cumulus.gitops.directory import digest
from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.following import Busy, SeenRevision, Where
from cumulus.gitops.render import folder as folder_of
from cumulus.gitops.render import rendered, suffixes
from cumulus.gitops.room import SourceRoom, secret
from cumulus.gitops.sync import RevisionFacts, SyncPlan, SyncStep, item_key, make_plan, wants
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import truncate
from cumulus.lib.unix_user import UnixUser
from cumulus.machinery.cache import Cache
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result, Retry
from cumulus.machinery.recorder import EventRecorder, EventType
from cumulus.manifest import InvalidManifest, Position, Problem, placed
from cumulus.resources.annotations import APPROVED_BY, DELETED_BY, PINNED_BY, SYNC_REQUESTED
from cumulus.resources.event import Event
from cumulus.resources.git_url import parse_url
from cumulus.resources.key import DEFAULT_NAMESPACE, Document, Key
from cumulus.resources.kinds.source import approval
from cumulus.resources.quantity import parse_duration
from cumulus.resources.reasons import EventReason, SourceReason
from cumulus.resources.registry import BY_NAME
from cumulus.resources.source import InventoryItem, ItemState, Prune, Revision, Source, SourceStatus
from cumulus.resources.submitter import Submitter
from cumulus.store.base import Query, Write
from cumulus.store.client import StoreClient

NAME = "source"
DIRECTORY_SECONDS = 300.0
"""How often a directory is looked at though nothing told of a change."""
QUIET_SECONDS = 3.0
"""How long nothing in a directory has changed before something is deleted since it is not there."""
REPLACE_SECONDS = 2.0
"""How often it is looked whether what is to be replaced is gone."""
_REMEMBERED = 5_000
"""Objects of desired sets that are kept: a look at drift reads no file then."""


_Stamp = tuple[str, str, int]
"""A Source's uid, the tree of its revision, and its generation."""
_View = Callable[[Key], Document | None]
"""Objects as the cache has them, each decoded once for a look."""


class _Look(NamedTuple):
    """A revision that was read."""

    revision: Revision
    missing: bool
    files: dict[str, bytes] | None
    """Of a directory; git's are read where they are needed."""
    where: Where | None
    object: str
    user: UnixUser | None


class SourceReconciler:
    def __init__(
        self, room: SourceRoom, cache: Cache, client: StoreClient, clock: Clock, recorder: EventRecorder
    ) -> None:
        self._room = room
        self._cache = cache
        self._client = client
        self._clock = clock
        self._recorder = recorder
        self._desired: OrderedDict[tuple[str, str, str, str], Desired] = OrderedDict()
        self._settled: dict[tuple[str, str], tuple[_Stamp, dict[Key, bytes]]] = {}
        """By Source: how each object looked that was as it is to be."""
        self._quiet: dict[tuple[str, str], tuple[str, float]] = {}
        """By Source of a directory: what it holds, and since when."""
        self._unanswered: set[tuple[str, str]] = set()
        """Sources whose server was still to be asked, or to answer, when they were looked at."""

    def reconcile(self, request: Request) -> Result:
        source = self._cache.get(Source, *request)
        if source is None or source.deleting or source.spec.suspend:
            self._room.following.forget(request)
            self._room.directories.forget(request)
            self._settled.pop(request, None)
            self._quiet.pop(request, None)
            self._unanswered.discard(request)
            return Done()
        source = self._taken(source)
        # Before it is looked at: what the server answers from here on may not have been seen.
        if self._room.following.waits(request):
            self._unanswered.add(request)
        else:
            self._unanswered.discard(request)
        try:
            user = self._room.submitters.user_of(_submitter(source))
            look = self._directory(source, user) if source.spec.directory is not None else self._git(source, user)
            return Done() if look is None else self._sync(source, look)
        except Busy as error:
            raise Retry(str(error)) from None
        except SourceUnreadable as error:
            return self._unreadable(source, error.reason, _said(error))
        except Forbidden as error:
            return self._unreadable(source, SourceReason.REFUSED, _said(error))

    def _taken(self, source: Source) -> Source:
        """Note that a request for a sync was taken, before the server is asked: what comes after that is another."""
        asked = source.metadata.annotations.get(SYNC_REQUESTED, "")[:64]
        if asked == source.status.sync_request:
            return source
        taken = source.replace(status=source.status.model_copy(update={"sync_request": asked}))
        source = self._client.update_status(taken)
        self._room.following.now(_request(source))
        return source

    def _answered(self, source: Source, after: SourceStatus) -> SourceStatus:
        """Note that the request for a sync that was taken is done, once the server was asked."""
        asked = source.status.sync_request
        waits = _request(source) in self._unanswered
        return after if waits or after.sync_done == asked else after.model_copy(update={"sync_done": asked})

    def _directory(self, source: Source, user: UnixUser | None) -> _Look:
        assert source.spec.directory is not None
        path, request = source.spec.directory.path, _request(source)
        try:
            held = directories.read(path, user, source.spec.variables or "", suffixes(source.spec.render))
        except SourceUnreadable:
            self._room.directories.watch(request, path)
            raise
        self._room.directories.watch(request, path, held.directories)
        name = digest(held.files)
        before = self._quiet.get(request)
        if before is None or before[0] != name:
            self._quiet[request] = (name, self._clock.monotonic())
        return _Look(Revision(revision=name, tree=name), False, held.files, None, name, user)

    def _unsettled(self, source: Source, plan: SyncPlan) -> float:
        """Seconds to wait before a plan for a directory that deletes something is done, or asked for: a file that is
        being written holds less than it will."""
        found = self._quiet.get(_request(source))
        takes = any(step.action in ("delete", "recreate") for step in (*plan.steps, *plan.held))
        if source.spec.directory is None or found is None or not takes:
            return 0.0
        return max(0.0, found[1] + QUIET_SECONDS - self._clock.monotonic())

    def _git(self, source: Source, user: UnixUser | None) -> _Look | None:
        """None until the server was asked."""
        git = source.spec.git
        assert git is not None
        wanted = [(name, value) for name in ("branch", "tag", "commit", "semver") if (value := getattr(git, name))]
        if source.spec.pin is not None:
            wanted = [("commit", source.spec.pin)]
        namespace = source.metadata.namespace or ""
        where = Where(user, parse_url(git.url), tuple(wanted), namespace, git.credentials or "")
        # Where more than the tree counts: who signed it, and what it descends from.
        every = source.spec.verify is not None or source.status.pending_sync is not None
        # What is rendered may refer to all of the repository.
        path = "" if source.spec.render else git.path
        seen: SeenRevision | None = self._room.following.follow(
            (namespace, source.metadata.name), where, path, parse_duration(git.interval), every=every
        )
        if seen is None:
            return None
        revision = seen.revision.model_copy(update={"tree": seen.tree})
        return _Look(revision, not seen.tree, None, where, seen.object, user)

    def _sync(self, source: Source, look: _Look) -> Result:
        synced, revision = source.status.synced, look.revision
        changed = synced is None or synced.tree != revision.tree or self._is_new(source)
        view = cache(self._cache.document)
        stamp = (source.uid, revision.tree, source.metadata.generation or 0)
        settled = frozenset() if changed else self._still_settled(source, stamp, view)
        if not changed and _is_at_rest(source, settled):
            rest = SyncPlan(inventory=source.status.inventory)
            return self._do(source, revision, rest, "", stamp, settled, False, view, NOTHING)
        try:
            if changed:
                revision = self._verified(source, look)
            wanted = self._wanted(source, look)
            if changed:
                self._check_refusals(source, wanted)
        except InvalidManifest as error:
            reason = SourceReason.REFUSED if isinstance(error, _Refused) else SourceReason.INVALID
            return self._failed(source, revision, reason, error.problems)
        never = source.spec.prune is Prune.NEVER
        if look.missing and (never or not source.status.inventory):
            path = source.spec.git.path if source.spec.git is not None else ""
            problem = Problem(Position(path), "", "there is no such directory in the revision")
            return self._failed(source, revision, SourceReason.INVALID, [problem])
        rewritten = changed and self._is_rewritten(source, look)
        facts = RevisionFacts(revision.revision, changed, look.missing, rewritten)
        plan = make_plan(
            source, wanted, facts, partial(self._stored, view), now=self._clock.now(), claimed=self._is_claimed,
            released=self._is_released, deleter=self._deleters(), settled=settled,
        )  # fmt: skip
        if plan.problems:
            return self._failed(source, revision, SourceReason.INVALID, plan.problems)
        if wait := self._unsettled(source, plan):
            return RequeueAfter(wait)
        why = self._why(source, plan, changed)
        return self._do(source, revision, plan, why, stamp, settled, rewritten, view, wanted)

    def _do(
        self, source: Source, revision: Revision, plan: SyncPlan, why: str, stamp: _Stamp, settled: frozenset[Key],
        rewritten: bool, view: _View, wanted: Desired,
    ) -> Result:  # fmt: skip
        now = timestamp(self._clock.now())
        after = self._answered(source, status_of.planned(source, now, revision, plan, why, view))
        if plan.steps:
            try:
                after = self._commit(source, plan.steps, after)
            except InvalidObject as error:
                nowhere = Problem(Position("."), "", _said(error))
                problems = placed(error, wanted.manifests.values()) or [nowhere]
                return self._failed(source, revision, SourceReason.INVALID, problems)
            except Forbidden as error:
                return self._failed(source, revision, SourceReason.REFUSED, [Problem(Position("."), "", _said(error))])
        else:
            self._write(source, after)
        self._tell(source, revision, plan, after, why, rewritten)
        name = _request(source)
        before = self._settled.get(name)
        looks = dict(before[1]) if before is not None and before[0] == stamp else {}
        looks |= {key: _look_of(document) for key, document in plan.verified.items()}
        self._settled[name] = (stamp, {k: v for k, v in looks.items() if k in settled or k in plan.verified})
        if plan.replacing:
            return RequeueAfter(REPLACE_SECONDS)
        return _later(source)

    def _commit(self, source: Source, steps: Sequence[SyncStep], after: SourceStatus) -> SourceStatus:
        """Everything in one transaction. The uids of what was made are noted after it: until then the inventory knows
        it by name and field manager."""
        own = [Write("status", source.replace(status=after).to_json())]
        answers = self._room.submitters.commit(
            _submitter(source), [step.write for step in steps], own, fence=self._client.fence
        )
        uids = {
            step.key: answer["metadata"]["uid"]
            for step, answer in zip(steps, answers[: len(steps)], strict=True)
            if step.action == "create"
        }
        if uids:
            after = status_of.with_uids(after, uids)
            version = answers[-1]["metadata"]["resourceVersion"]
            metadata = source.metadata.model_copy(update={"resource_version": version})
            self._client.store.update_status(
                source.replace(metadata=metadata, status=after).to_json(), fence=self._client.fence
            )
        return after

    def _failed(self, source: Source, revision: Revision, reason: SourceReason, problems: Sequence[Problem]) -> Result:
        now = timestamp(self._clock.now())
        after = self._answered(source, status_of.failed(source, now, revision, reason, problems))
        self._write(source, after)
        if after.last_error != source.status.last_error and after.last_error is not None:
            said = f"{revision.revision[:12]}: {after.last_error.message}"
            self._record(source, "Warning", EventReason.SYNC_FAILED, said)
        return _later(source)

    def _unreadable(self, source: Source, reason: SourceReason, message: str) -> Result:
        after = status_of.unreadable(source, timestamp(self._clock.now()), reason, message)
        self._write(source, self._answered(source, after))
        if after != source.status:
            self._record(source, "Warning", EventReason.SYNC_FAILED, message)
        return _later(source, DIRECTORY_SECONDS / 10)

    def _write(self, source: Source, after: SourceStatus) -> None:
        if after != source.status:
            self._client.update_status(source.replace(status=after))

    def _wanted(self, source: Source, look: _Look) -> Desired:
        """Raises InvalidManifest, SourceUnreadable."""
        if look.missing:
            return NOTHING
        namespace = source.metadata.namespace or ""
        variables = source.spec.variables or ""
        folder = source.spec.git.path if source.spec.git is not None else ""
        made_from = f"{source.spec.render}:{folder}" if source.spec.render else ""
        # Of this Source alone: the clone is its submitter's, who could say that another's tree holds what it does not.
        name = (source.uid, look.revision.tree, variables, made_from)
        if (known := self._desired.get(name)) is not None:
            self._desired.move_to_end(name)
            return known
        files = look.files
        if files is None:
            assert look.where is not None
            following = self._room.following
            with following.reading(look.where) as repository:
                how = source.spec.render
                listed = repository.files(look.revision.tree, variables, suffixes(how), folder_of(how, folder))
                files = repository.read(listed, following.credentials(look.where)) if listed else {}
        if source.spec.render:
            files = rendered(
                source.spec.render, files, folder, look.user, name=source.metadata.name, namespace=namespace
            )
        found = desired(files, namespace, variables)
        self._desired[name] = found
        while len(self._desired) > 1 and sum(map(len, self._desired.values())) > _REMEMBERED:
            self._desired.popitem(last=False)
        return found

    def _verified(self, source: Source, look: _Look) -> Revision:
        """Raises SourceUnreadable where a signature is demanded that is not there."""
        demanded = source.spec.verify
        if demanded is None or look.where is None:
            return look.revision
        keys = secret(self._room.secrets, source.metadata.namespace or "", demanded.keys)
        keys = {name: keys[name] for name in ("allowed_signers", "gpg-keys") if name in keys}
        if not keys:
            said = f"the secret {demanded.keys} has neither allowed_signers nor gpg-keys"
            raise SourceUnreadable(SourceReason.CREDENTIALS, said)
        tag = demanded.object == "Tag"
        with self._room.following.reading(look.where) as repository:
            repository.verify(look.object if tag else look.revision.revision, keys, tag=tag)
        return look.revision.model_copy(update={"signature": "Verified"})

    def _is_rewritten(self, source: Source, look: _Look) -> bool:
        """Whether the commit does not descend from the one that was synced. Who pins a commit says so himself."""
        synced = source.status.synced
        if synced is None or look.where is None or source.spec.pin is not None:
            return False
        with self._room.following.reading(look.where) as repository:
            return not repository.descends(look.revision.revision, synced.revision)

    def _check_refusals(self, source: Source, wanted: Desired) -> None:
        problems = self._room.submitters.refusals(_submitter(source), list(wanted.manifests.values()))
        if problems:
            raise _Refused(problems)

    def _is_new(self, source: Source) -> bool:
        return source.status.observed_generation != source.metadata.generation

    def _stored(self, view: _View, key: Key) -> Document | None:
        """The view may be behind: that something is gone is never believed of it."""
        found = view(key)
        if found is not None:
            return found
        try:
            return self._client.store.get(key)
        except NotFound:
            return None

    def _still_settled(self, source: Source, stamp: _Stamp, view: _View) -> frozenset[Key]:
        known = self._settled.get(_request(source))
        if known is None or known[0] != stamp:
            return frozenset()
        looks = known[1].items()
        return frozenset(key for key, look in looks if (found := view(key)) is not None and _look_of(found) == look)

    def _is_claimed(self, namespace: str, name: str, key: Key) -> bool:
        return wants(self._client.store, namespace, name, key)

    def _is_released(self, uid: str) -> bool:
        """Whether all that an object owned is gone too."""
        owned = {kind.owns for kind in BY_NAME.values() if kind.owns}
        return not any(self._client.store.list(Query(kind, owner_uid=uid)).items for kind in sorted(owned))

    def _deleters(self) -> Callable[[InventoryItem], str]:
        """Who deleted an object by hand, as far as the events of its namespace still say it. They are read once for a
        look, where something is gone."""

        @cache
        def named(namespace: str) -> dict[str, str]:
            found = {}
            for event in self._client.store.list(Query(Event.KIND, namespace)).items:
                who = (event["metadata"].get("annotations") or {}).get(DELETED_BY)
                if who:
                    found[str(event["involvedObject"].get("uid"))] = str(who)
            return found

        return lambda item: named(item.namespace or DEFAULT_NAMESPACE).get(item.uid, "")

    def _why(self, source: Source, plan: SyncPlan, changed: bool) -> str:
        if plan.approved:
            return f"approved{_by(source, APPROVED_BY)}: {plan.approved}"
        if source.spec.pin is not None and changed:
            return f"pinned{_by(source, PINNED_BY)}"
        drift = next((step.why for step in plan.steps if step.why), "")
        return drift if drift and not changed else "a new revision" if changed else "what was left to do"

    def _tell(
        self, source: Source, revision: Revision, plan: SyncPlan, after: SourceStatus, why: str, rewritten: bool
    ) -> None:
        name = revision.revision[:12]
        if rewritten:
            said = f"{name} does not descend from what was synced"
            self._record(source, "Warning", EventReason.HISTORY_REWRITTEN, said)
        if plan.steps:
            counts = [(plan.count(a), said) for a, said in _DONE.items()]
            done = ", ".join(f"{count} {said}" for count, said in counts if count)
            self._record(source, "Normal", EventReason.SYNCED, f"{name}: {done} ({why})")
        for step in plan.steps:
            if step.why:
                said = f"{step.key}: {step.why}; {'made anew' if step.action == 'create' else 'changed back'}"
                self._record(source, "Warning", EventReason.DRIFT_FOUND, said)
        for key, told in plan.drifted[:5]:
            self._record(source, "Warning", EventReason.DRIFT_FOUND, f"{key}: {told}")
        pending, before = after.pending_sync, source.status.pending_sync
        if pending is not None and (before is None or before.hash != pending.hash):
            said = f"{name}: {'; '.join(pending.reasons)}. {approval(source.key, pending.hash)}"
            self._record(source, "Warning", EventReason.SYNC_PENDING, said)

    def _record(self, source: Source, type: EventType, reason: EventReason, message: str) -> None:
        self._recorder.record(source, type, reason, message, component=NAME)


class _Refused(InvalidManifest):
    """The Source's submitter may not apply this."""


_DONE = {"create": "created", "change": "changed", "recreate": "to be made anew", "delete": "deleted"}


def _is_at_rest(source: Source, settled: frozenset[Key]) -> bool:
    """Whether all of the revision was applied, and nothing of it looks different since."""
    status = source.status
    if status.pending_sync is not None or status.last_error is not None or status.counts.drifted:
        return False
    return all(item.state is ItemState.GONE or item_key(item) in settled for item in status.inventory)


def _look_of(document: Document) -> bytes:
    """All of an object that people and Sources write."""
    metadata = document["metadata"]
    said = [metadata.get(name) for name in ("uid", "generation", "labels", "annotations", "managedFields",
                                            "deletionTimestamp", "ownerReferences", "finalizers")]  # fmt: skip
    return orjson.dumps([said, document.get("roleRef"), document.get("subjects")])


def _by(source: Source, annotation: str) -> str:
    who = source.metadata.annotations.get(annotation, "")
    return f" by {truncate(one_line(who), 80)}" if who else ""


def _request(source: Source) -> Request:
    return Request(source.metadata.namespace or "", source.metadata.name)


def _later(source: Source, seconds: float = DIRECTORY_SECONDS) -> Result:
    """A directory is looked at again in so long. Of a repository `Following` tells."""
    return RequeueAfter(seconds) if source.spec.directory is not None else Done()


def _submitter(source: Source) -> Submitter:
    return Submitter.of(source.metadata.annotations)


def _said(error: Exception) -> str:
    hint = getattr(error, "hint", None)
    return f"{error}; {hint}" if hint else str(error)
