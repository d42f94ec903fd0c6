"""What the source controller is made of and what wakes it."""

from __future__ import annotations

from collections.abc import Iterable

from cumulus.controllers.context import ControllerContext
from cumulus.controllers.source.controller import NAME, SourceReconciler
from cumulus.gitops.sync import sources_of
from cumulus.machinery.cache import Cache
from cumulus.machinery.controller import Controller, Push, WatchedKind, itself
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.annotations import SYNC_REQUESTED
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.reasons import SourceReason
from cumulus.resources.registry import KINDS
from cumulus.resources.source import ItemState, Source

SETTLE_SECONDS = 0.3
"""A person's change is often several writes, and so is the end of a job."""


def wanted_anew(change: Change) -> bool:
    """Somebody changed what a Source asks for, or asked for a sync."""
    if change.respecified or change.type == "DELETED":
        return True
    return _asked(change.old) != _asked(change.new)


def _asked(document: Document | None) -> object:
    annotations = lookup(document or {}, "metadata.annotations")
    return annotations.get(SYNC_REQUESTED) if isinstance(annotations, dict) else None


def concerns_a_source(change: Change) -> bool:
    """What a Source applied was changed, deleted, or is over."""
    if change.type == "ADDED" or not (sources_of(change.new) or sources_of(change.old or change.new)):
        return False
    if change.type == "DELETED":
        return True
    old, new = change.old or {}, change.new
    before, after = old.get("metadata") or {}, new["metadata"]
    same = all(before.get(name) == after.get(name) for name in ("labels", "annotations", "managedFields", "generation"))
    return not same or lookup(old, "status.phase") != lookup(new, "status.phase")


def lets_go(change: Change) -> bool:
    """A Source wants fewer objects than before, or is gone."""
    after = frozenset() if change.type == "DELETED" else _wanted_by(change.new)
    return bool(_wanted_by(change.old or change.new) - after)


def _wanted_by(source: Document) -> frozenset[tuple[str, str, str]]:
    items = lookup(source, "status.inventory") or ()
    return frozenset(
        (item["kind"], item.get("namespace", ""), item["name"])
        for item in items
        if item.get("state") != ItemState.UNPRUNED
    )


def those_refused(change: Change, cache: Cache) -> Iterable[Request]:
    """Sources that cannot be applied: one of them may have waited for what another one let go."""
    found = cache.all(Source)
    return [Request(s.metadata.namespace or "", s.metadata.name) for s in found if s.status.last_error is not None]


def those_not_allowed(change: Change, cache: Cache) -> Iterable[Request]:
    """Sources whose submitter may not do what they ask for: a role may have come."""
    for source in cache.all(Source):
        if any(condition.reason == SourceReason.REFUSED for condition in source.status.conditions):
            yield Request(source.metadata.namespace or "", source.metadata.name)


def its_sources(change: Change, cache: Cache) -> Iterable[Request]:
    found = sources_of(change.new) | sources_of(change.old or change.new)
    return [Request(*source) for source in sorted(found)]


def build(context: ControllerContext) -> SourceReconciler:
    assert context.sources is not None
    return SourceReconciler(context.sources, context.cache, context.client, context.clock, context.recorder)


def from_outside(context: ControllerContext, push: Push) -> None:
    """Repositories and directories in which something changed."""
    if context.sources is not None:
        for follower in (context.sources.following, context.sources.directories):
            follower.begin(lambda namespace, name: push(Request(namespace, name)))


CONTROLLERS = (
    Controller[ControllerContext, SourceReconciler](
        name=NAME,
        kind=Source.KIND,
        workers=4,
        build=build,
        watches=(
            WatchedKind(Source.KIND, itself, when=wanted_anew),
            WatchedKind(Source.KIND, those_refused, when=lets_go, after=SETTLE_SECONDS),
            *(WatchedKind(kind.name, those_not_allowed, after=SETTLE_SECONDS) for kind in KINDS if kind.grants),
            *(
                WatchedKind(kind.name, its_sources, when=concerns_a_source, after=SETTLE_SECONDS)
                for kind in KINDS
                if kind.user_made
            ),
        ),
        sources=(from_outside,),
        enabled=lambda context: context.sources is not None,
    ),
)
