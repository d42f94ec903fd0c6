"""The status of a Source after it was looked at. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cumulus.gitops.sync import SyncPlan, item_key
from cumulus.lib.truncate import truncate
from cumulus.manifest import Problem
from cumulus.resources.conditions import condition_set
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds.source import approval
from cumulus.resources.reasons import SourceCondition, SourceReason
from cumulus.resources.registry import BY_NAME
from cumulus.resources.source import (
    HistoryEntry,
    InventoryItem,
    ItemState,
    PendingSync,
    Revision,
    Source,
    SourceCounts,
    SourceError,
    SourceStatus,
    SyncResult,
)

_HISTORY = 20
_TOLD_PROBLEMS = 10
_LONGEST_ERROR = 4096


def unreadable(source: Source, now: str, reason: str, message: str) -> SourceStatus:
    """The status when the repository or directory cannot be read: what was synced stays."""
    conditions = condition_set(source.status.conditions, now, SourceCondition.READY, False, reason, message)
    return source.status.model_copy(update={"conditions": conditions})


def read(source: Source, now: str, seen: Revision) -> SourceStatus:
    """The status when it can be read and is at this revision."""
    status = source.status
    conditions = condition_set(status.conditions, now, SourceCondition.READY, True, SourceReason.FETCHED)
    same = status.observed is not None and status.observed.tree == seen.tree
    return status.model_copy(update={"conditions": conditions, "observed": status.observed if same else seen})


def failed(source: Source, now: str, seen: Revision, reason: SourceReason, problems: Sequence[Problem]) -> SourceStatus:
    """The status when nothing of the revision can be applied."""
    first = problems[0].position
    lines = [str(problem) for problem in problems[:_TOLD_PROBLEMS]]
    if len(problems) > _TOLD_PROBLEMS:
        lines.append(f"and {len(problems) - _TOLD_PROBLEMS} more")
    error = SourceError(
        message=truncate("\n".join(lines), _LONGEST_ERROR), file=truncate(first.file), line=first.line,
        column=first.column, revision=seen.revision, problems=len(problems),
    )  # fmt: skip
    before = read(source, now, seen)
    told = before.last_error == error
    conditions = condition_set(before.conditions, now, SourceCondition.SYNCED, False, reason, lines[0])
    history = before.history if told else _remembered(
        before, _entry(seen, now, SyncResult.FAILED, truncate(lines[0], 200)))  # fmt: skip
    return before.model_copy(
        update={
            "conditions": conditions, "last_error": error, "pending_sync": None, "history": history,
        }
    )  # fmt: skip


def planned(
    source: Source, now: str, seen: Revision, plan: SyncPlan, why: str, state: Callable[[Key], Document | None]
) -> SourceStatus:
    """The plan, once its steps are done. `state`: an object as it is now."""
    before = read(source, now, seen)
    pending = _same_or(before.pending_sync, plan.pending)
    failed = _failures(plan.inventory, state)
    changes: dict[str, object] = {
        "last_error": None, "pending_sync": pending, "inventory": plan.inventory,
        "observed_generation": source.metadata.generation or 0, "counts": _counts(plan, len(failed)),
    }  # fmt: skip
    if plan.pending is None and plan.replacing == 0 and (before.synced is None or before.synced.tree != seen.tree):
        changes |= {"synced": seen, "sync_time": now}
    elif plan.steps and plan.done:
        changes["sync_time"] = now
    if plan.steps or "synced" in changes:
        result = SyncResult.CORRECTED if _is_correction(plan) else SyncResult.SYNCED
        result = SyncResult.REPLACING if plan.replacing else result
        counts = {"created": plan.count("create"), "changed": plan.count("change"), "deleted": plan.count("delete")}
        entry = _entry(seen, now, result, why).model_copy(update=counts)
        changes["history"] = _remembered(before, entry)
    conditions = condition_set(before.conditions, now, SourceCondition.SYNCED, *_synced(source, plan))
    conditions = condition_set(conditions, now, SourceCondition.HEALTHY, *_healthy(failed))
    return before.model_copy(update={**changes, "conditions": conditions})


def with_uids(status: SourceStatus, uids: dict[Key, str]) -> SourceStatus:
    """The status with the uids of the objects that were just created."""
    items = tuple(
        item.model_copy(update={"uid": uids[item_key(item)]}) if not item.uid and item_key(item) in uids else item
        for item in status.inventory
    )
    return status.model_copy(update={"inventory": items})


def _is_correction(plan: SyncPlan) -> bool:
    return bool(plan.steps) and all(step.why for step in plan.steps)


def _synced(source: Source, plan: SyncPlan) -> tuple[bool, str, str]:
    if plan.pending is not None:
        said = f"{'; '.join(plan.pending.reasons)}: {approval(source.key, plan.pending.hash)}"
        return False, SourceReason.NEEDS_APPROVAL, said
    if plan.replacing:
        return False, SourceReason.REPLACING, f"{plan.replacing} are made anew once their predecessors are gone"
    if plan.drifted:
        key, told = plan.drifted[0]
        return False, SourceReason.DRIFTED, f"{key}: {told}" + _more(len(plan.drifted))
    left = f"{len(plan.unpruned)} are no longer in the source and stay, since prune is Never" if plan.unpruned else ""
    return True, SourceReason.SYNCED, left


def _healthy(failed: Sequence[Key]) -> tuple[bool, str, str]:
    if not failed:
        return True, SourceReason.HEALTHY, ""
    return False, SourceReason.OBJECTS_FAILED, f"{failed[0]} has failed{_more(len(failed))}"


def _failures(inventory: Sequence[InventoryItem], state: Callable[[Key], Document | None]) -> list[Key]:
    """The objects that have failed, of kinds that can."""
    able = [item_key(item) for item in inventory if BY_NAME[item.kind].failed_phases]
    return [key for key in able if (found := state(key)) is not None and BY_NAME[key.kind].failed(found)]


def _more(count: int) -> str:
    return f", and {count - 1} more" if count > 1 else ""


def _counts(plan: SyncPlan, failed: int) -> SourceCounts:
    there = sum(item.state in (ItemState.NONE, ItemState.IGNORED, ItemState.UNPRUNED) for item in plan.inventory)
    return SourceCounts(
        objects=len(plan.inventory), healthy=there - failed, failed=failed,
        drifted=len(plan.drifted), unpruned=len(plan.unpruned), replacing=plan.replacing,
    )  # fmt: skip


def _same_or(before: PendingSync | None, after: PendingSync | None) -> PendingSync | None:
    """What is pending under the same hash is the same, however much its jobs have run meanwhile."""
    return before if before is not None and after is not None and before.hash == after.hash else after


def _entry(seen: Revision, now: str, result: SyncResult, why: str) -> HistoryEntry:
    return HistoryEntry(
        revision=seen.revision, author=seen.author, subject=seen.subject, time=now, result=result, why=why
    )


def _remembered(status: SourceStatus, entry: HistoryEntry) -> tuple[HistoryEntry, ...]:
    return (*status.history, entry)[-_HISTORY:]
