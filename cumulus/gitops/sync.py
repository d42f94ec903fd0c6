"""Plans one sync: what a Source made so far, what its revision says and what is stored -> what to write, or what
forbids it, or what it has to ask for first. Pure.

Everything that a plan writes is one transaction. It deletes nothing that is not in the inventory by uid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

import orjson

from cumulus.apply import ownership
from cumulus.apply.ownership import FieldOwner
from cumulus.apply.plan import ApplyResult, immutable, plan
from cumulus.apply.server_side import Applier
from cumulus.clock import short_timestamp
from cumulus.errors import NotFound
from cumulus.gitops.desired import Desired, on_change
from cumulus.lib.printable import one_line
from cumulus.manifest import Manifest, Problem
from cumulus.resources.annotations import editors_of
from cumulus.resources.field_managers import OF_SOURCES
from cumulus.resources.key import Document, Key
from cumulus.resources.registry import BY_NAME
from cumulus.resources.source import (
    KEEP_ANNOTATION,
    Drift,
    InventoryItem,
    ItemState,
    OnChange,
    PendingSync,
    Prune,
    Source,
    SourceStatus,
)
from cumulus.store.base import Store, Write

_TOLD = 100
"""Objects that a pending sync names."""

_Stored = Callable[[Key], Document | None]
Claimed = Callable[[str, str, Key], bool]
"""Whether the Source of that namespace and name has the object in its inventory, and still wants it."""


@dataclass(frozen=True, slots=True)
class RevisionFacts:
    """What is known of the revision. `changed`: it, or the Source's spec, is not the one that was synced last.
    `missing`: it has no such path. `rewritten`: it does not descend from the revision that was synced last."""

    revision: str
    changed: bool = True
    missing: bool = False
    rewritten: bool = False


@dataclass(frozen=True, slots=True)
class SyncStep:
    """One write of a plan. `why`: what makes the difference, where that is drift."""

    action: Literal["create", "change", "recreate", "delete"]
    key: Key
    write: Write
    why: str = ""

    def __str__(self) -> str:
        return f"{self.action} {named(self.key)}"


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """`steps` are to be done now; nothing of them where `pending` waits for an approval or there are `problems`."""

    steps: tuple[SyncStep, ...] = ()
    inventory: tuple[InventoryItem, ...] = ()
    """After the steps."""
    problems: tuple[Problem, ...] = ()
    pending: PendingSync | None = None
    held: tuple[SyncStep, ...] = ()
    """What `pending` would do."""
    approved: str = ""
    """The hash that allowed it."""
    unpruned: tuple[Key, ...] = ()
    drifted: tuple[tuple[Key, str], ...] = ()
    """Objects with fields that somebody else changed, which stay so, each with what and who."""
    verified: Mapping[Key, Document] = field(default_factory=dict)
    """Objects that are as they are to be."""

    def count(self, action: str) -> int:
        return sum(step.action == action for step in self.steps)

    @property
    def replacing(self) -> int:
        return sum(item.state == ItemState.REPLACING for item in self.inventory)

    @property
    def done(self) -> bool:
        """Whether the cluster is what the revision says, once the steps are done."""
        return not (self.problems or self.pending or self.replacing or self.drifted)


def named(key: Key) -> str:
    where = f"{key.namespace}/" if key.namespace else ""
    return f"{BY_NAME[key.kind].one} {where}{key.name}"


def item_key(item: InventoryItem) -> Key:
    return Key(item.kind, item.namespace, item.name)


def is_ours(document: Document, manager: str) -> bool:
    return FieldOwner(manager, "Apply") in ownership.of(document)


def make_plan(
    source: Source, desired: Desired, facts: RevisionFacts, stored: _Stored, *, now: datetime,
    claimed: Claimed = lambda namespace, name, key: False, released: Callable[[str], bool] = lambda uid: True,
    deleter: Callable[[InventoryItem], str] = lambda item: "", settled: frozenset[Key] = frozenset(),
) -> SyncPlan:  # fmt: skip
    """`stored` is asked for each object; what is `settled` is known to be as it is to be. `released`: whether all that
    an object of that uid left behind is gone, so that its successor can be made. `deleter`: who deleted an object by
    hand, "" where nobody knows."""
    planner = _Planner(source, facts, stored, now, claimed, released, deleter)
    for key, manifest in desired.manifests.items():
        planner.want(key, manifest, desired.hashes[key], settled=key in settled)
    for key, item in planner.items.items():
        if key not in desired.manifests:
            planner.unwant(key, item)
    return planner.plan(desired)


class _Planner:
    def __init__(
        self, source: Source, facts: RevisionFacts, stored: _Stored, now: datetime, claimed: Claimed,
        released: Callable[[str], bool], deleter: Callable[[InventoryItem], str],
    ) -> None:  # fmt: skip
        self.source, self.facts, self.stored, self.now = source, facts, stored, now
        self.claimed, self.released, self.deleter = claimed, released, deleter
        self.manager = source.field_manager
        self.items = {item_key(item): item for item in source.status.inventory}
        self.steps: list[SyncStep] = []
        self.kept: list[InventoryItem] = []
        self.problems: list[Problem] = []
        self.drifted: list[tuple[Key, str]] = []
        self.verified: dict[Key, Document] = {}
        self.gone: list[tuple[Key, InventoryItem, Document]] = []
        """What is no longer in the source, and could be deleted."""
        self.lost_hours = 0.0

    def want(self, key: Key, manifest: Manifest, hash: str, *, settled: bool) -> None:
        item = self.items.get(key)
        if settled and item is not None and item.hash == hash and not item.state:
            self.kept.append(item)
            return
        live = self.stored(key)
        if live is None:
            self._make(key, manifest, hash, item)
        elif item is not None and self._is(item, live) and not self._is_handed_on(item, key, live):
            self._keep(key, manifest, hash, item, live)
        else:
            self._adopt(key, manifest, hash, live)

    def unwant(self, key: Key, item: InventoryItem) -> None:
        live = self.stored(key)
        if live is None or not self._is(item, live) or live["metadata"].get("deletionTimestamp"):
            return
        if (live["metadata"].get("annotations") or {}).get(KEEP_ANNOTATION) == "true":
            return
        if self._claimant(key, live) is not None:
            # Another Source has it now.
            return
        self.gone.append((key, item, live))

    def _is_handed_on(self, item: InventoryItem, key: Key, live: Document) -> bool:
        return item.state is ItemState.UNPRUNED and self._claimant(key, live) is not None

    def _claimant(self, key: Key, live: Document) -> tuple[str, str] | None:
        """Namespace and name of another Source that has the object."""
        for owner in ownership.of(live):
            found = _source_of(owner.manager, owner.operation)
            if found and owner.manager != self.manager and self.claimed(*found, key):
                return found
        return None

    def _is(self, item: InventoryItem, live: Document) -> bool:
        if not item.uid:
            # It was made in the transaction that noted it, before its uid was known.
            return is_ours(live, self.manager)
        return bool(item.uid == live["metadata"]["uid"])

    def _make(self, key: Key, manifest: Manifest, hash: str, item: InventoryItem | None) -> None:
        if item is not None and item.state == ItemState.REPLACING and item.uid and not self.released(item.uid):
            self.kept.append(item)
            return
        replacing = item is not None and item.state == ItemState.REPLACING
        told = ""
        if item is not None and item.hash == hash and not replacing:
            if BY_NAME[key.kind].final_phases:
                # It ran, or somebody deleted it: the same work is not done twice.
                self.kept.append(item.replace_state(ItemState.GONE))
                return
            if not self.facts.changed:
                who = self.deleter(item) if self.source.spec.drift is not Drift.OFF else ""
                told = f"was deleted{f' by {one_line(who)}' if who else ''}"
            if self.source.spec.drift is not Drift.CORRECT and not self.facts.changed:
                self.kept.append(item)
                if self.source.spec.drift is Drift.REPORT:
                    self.drifted.append((key, told))
                return
        result = plan(manifest, None, self._applier(force=False))
        if isinstance(result, list):
            self.problems += result
            return
        self._step("create", key, result, told)
        self.kept.append(_item(key, "", hash))

    def _keep(self, key: Key, manifest: Manifest, hash: str, item: InventoryItem, live: Document) -> None:
        uid = live["metadata"]["uid"]
        if live["metadata"].get("deletionTimestamp"):
            same = item.hash == hash and item.state != ItemState.REPLACING and bool(BY_NAME[key.kind].final_phases)
            self.kept.append(_item(key, uid, hash, ItemState.NONE if same else ItemState.REPLACING))
            return
        if item.state == ItemState.REPLACING:
            # Its delete was approved, and lost to a crash or to a finalizer's.
            self._recreate(key, hash, live)
            return
        if not self.facts.changed and self.source.spec.drift is Drift.OFF:
            self.kept.append(_item(key, uid, item.hash, item.state))
            return
        result = plan(manifest, live, self._applier(force=True))
        if isinstance(result, list):
            self._unchangeable(key, manifest, hash, item, live, result)
            return
        if result.write() is not None:
            if not self.facts.changed:
                told = _whose(result, self.manager)
                if self.source.spec.drift is Drift.REPORT:
                    self.drifted.append((key, told))
                    self.kept.append(_item(key, uid, item.hash))
                    return
                self._step("change", key, result, told)
            else:
                self._step("change", key, result)
        else:
            self.verified[key] = live
        self.kept.append(_item(key, uid, hash))

    def _unchangeable(
        self, key: Key, manifest: Manifest, hash: str, item: InventoryItem, live: Document, problems: list[Problem]
    ) -> None:
        """An object that cannot become what the source says, mostly since immutable fields change."""
        how = on_change(manifest, self.source.spec.on_change)
        if how is OnChange.FAIL or not immutable(manifest, live, self.manager):
            self.problems += problems
        elif how is OnChange.IGNORE:
            self.kept.append(_item(key, live["metadata"]["uid"], item.hash, ItemState.IGNORED))
            self.verified[key] = live
        else:
            self._recreate(key, hash, live)

    def _recreate(self, key: Key, hash: str, live: Document) -> None:
        self.lost_hours += _lost(key, live, self.now)
        self.steps.append(SyncStep("recreate", key, _delete(key, live)))
        self.kept.append(_item(key, live["metadata"]["uid"], hash, ItemState.REPLACING))

    def _adopt(self, key: Key, manifest: Manifest, hash: str, live: Document) -> None:
        """An object that is there and not in the inventory. Nothing of others is taken over by force."""
        if (found := self._claimant(key, live)) is not None:
            said = (
                f"{named(key)} belongs to the Source {'/'.join(found)}, and {self.source.metadata.namespace}/"
                f"{self.source.metadata.name} claims it too; take it out of one of them"
            )
            self.problems.append(manifest.problem(("metadata", "name"), said))
            return
        result = plan(manifest, live, self._applier(force=is_ours(live, self.manager)))
        if isinstance(result, list):
            self.problems += result
            return
        if result.write() is None:
            self.verified[key] = live
        else:
            self._step("change", key, result)
        self.kept.append(_item(key, live["metadata"]["uid"], hash))

    def _step(self, action: Literal["create", "change"], key: Key, result: ApplyResult, why: str = "") -> None:
        write = result.write()
        assert write is not None
        self.steps.append(SyncStep(action, key, write, why))

    def _applier(self, *, force: bool) -> Applier:
        return Applier(self.manager, short_timestamp(self.now), force)

    def plan(self, desired: Desired) -> SyncPlan:
        spec = self.source.spec
        if self.problems:
            return SyncPlan(inventory=self.source.status.inventory, problems=tuple(sorted(self.problems)))
        deletes: list[SyncStep] = []
        unpruned: tuple[Key, ...] = ()
        if spec.prune is Prune.NEVER:
            unpruned = tuple(key for key, _, _ in self.gone)
            self.kept += [item.replace_state(ItemState.UNPRUNED) for _, item, _ in self.gone]
        else:
            for key, _, live in self.gone:
                self.lost_hours += _lost(key, live, self.now)
                deletes.append(SyncStep("delete", key, _delete(key, live)))
        steps = (*deletes, *sorted(self.steps, key=lambda step: step.action != "recreate"))
        reasons = self._brakes(deletes, desired)
        made = SyncPlan(
            steps, tuple(sorted(self.kept, key=item_key)), unpruned=unpruned, drifted=tuple(self.drifted),
            verified=self.verified,
        )  # fmt: skip
        if not reasons:
            return made
        pending = self._pending(made, reasons)
        if spec.approve == pending.hash:
            return replace(made, approved=pending.hash)
        return SyncPlan(
            inventory=self.source.status.inventory, pending=pending, held=made.steps, drifted=made.drifted
        )  # fmt: skip

    def _brakes(self, deletes: Sequence[SyncStep], desired: Desired) -> list[str]:
        """Why it has to be asked for."""
        spec, facts, limit = self.source.spec, self.facts, self.source.spec.prune_limit
        count, reasons = len(deletes), []
        recreates = any(step.action == "recreate" for step in self.steps)
        objects = f"{count} object{'s' if count != 1 else ''} would be deleted"
        if (count or recreates) and facts.rewritten:
            reasons.append("its history was rewritten: the commit does not descend from the one that was synced")
        if count:
            if facts.missing:
                reasons.append(f"{objects}, since the path is not in the revision")
            elif not desired.manifests:
                reasons.append(f"{objects}, since the source holds no objects")
            if spec.prune is Prune.CONFIRM:
                reasons.append(f"{objects}, and prune is Confirm")
            if count > limit.count:
                reasons.append(f"{objects}, more than pruneLimit.count {limit.count}")
            if count * 100 > limit.percent * len(self.items):
                share = f"{count * 100 // max(1, len(self.items))} % of its {len(self.items)} objects"
                reasons.append(f"{objects}, {share}, more than pruneLimit.percent {limit.percent}")
        if self.lost_hours > limit.gpu_hours:
            reasons.append(
                f"{self.lost_hours:.1f} GPU hours of running work would be lost, more than pruneLimit.gpuHours "
                f"{limit.gpu_hours:g}"
            )
        return reasons

    def _pending(self, made: SyncPlan, reasons: list[str]) -> PendingSync:
        """The hash names what would be done to which very objects for which revision, not how much work runs."""
        names = [(step.action, *step.key, step.write.uid or "") for step in made.steps]
        hashes = [(item.kind, item.namespace, item.name, item.hash) for item in made.inventory]
        said = orjson.dumps([self.source.uid, self.facts.revision, sorted(names), hashes])
        return PendingSync(
            hash=hashlib.sha256(said).hexdigest()[:16], revision=self.facts.revision, reasons=tuple(reasons),
            creates=made.count("create"), changes=made.count("change"), recreates=made.count("recreate"),
            deletes=made.count("delete"), gpu_hours=round(self.lost_hours, 1),
            objects=tuple(str(step) for step in made.steps[:_TOLD]),
        )  # fmt: skip


def _item(key: Key, uid: str, hash: str, state: ItemState = ItemState.NONE) -> InventoryItem:
    return InventoryItem(kind=key.kind, namespace=key.namespace, name=key.name, uid=uid, hash=hash, state=state)


def _delete(key: Key, live: Document) -> Write:
    return Write("delete", key=key, uid=live["metadata"]["uid"])


def _lost(key: Key, live: Document, now: datetime) -> float:
    hours = BY_NAME[key.kind].lost_gpu_hours
    return hours(live, now) if hours is not None else 0.0


def _source_of(manager: str, operation: str) -> tuple[str, str] | None:
    """Namespace and name of the Source whose field manager it is."""
    if operation != "Apply" or not manager.startswith(OF_SOURCES):
        return None
    namespace, _, name = manager.removeprefix(OF_SOURCES).partition("/")
    return (namespace, name) if name else None


def wants(store: Store, namespace: str, name: str, key: Key) -> bool:
    """Whether the Source has the object in its inventory, and still wants it."""
    try:
        status = store.get(Key(Source.KIND, namespace, name)).get("status") or {}
    except NotFound:
        return False
    items = SourceStatus.model_validate(status).inventory
    return any(item_key(item) == key and item.state is not ItemState.UNPRUNED for item in items)


def sources_of(document: Document) -> set[tuple[str, str]]:
    """Namespace and name of each Source that applied something of the object."""
    entries = document["metadata"].get("managedFields") or ()
    sources = (_source_of(entry.get("manager", ""), entry.get("operation", "")) for entry in entries)
    return {source for source in sources if source is not None}


def is_a_sources(owner: FieldOwner) -> bool:
    """Whether it is the field manager of a Source."""
    return _source_of(owner.manager, owner.operation) is not None


def _whose(result: ApplyResult, manager: str) -> str:
    """Which fields are not as the source says, and who changed them: the person, where that is known."""
    assert result.before is not None
    assert result.after is not None
    before, after = ownership.of(result.before), ownership.of(result.after)
    people = editors_of(result.before)
    parts = []
    taken: set[object] = set()
    for owner, owned in before.items():
        if owner.manager == manager:
            continue
        lost = owned.fields - (after[owner].fields if owner in after else frozenset())
        if lost:
            taken |= lost
            names = ", ".join(sorted(".".join(part.removeprefix("f:") for part in path) for path in lost)[:5])
            person = one_line(people.get(owner.manager, ""))
            parts.append(f"{names}, changed by {f'{person} with ' if person else ''}{owner.manager}")
    return "; ".join(parts) or "fields that nobody owns now"
