"""Finds partitions by node and by phase without decoding them; and which of their changes wake controllers.

Everything here takes documents as they are stored, since most changes pass without a model."""

from __future__ import annotations

from collections.abc import Iterable

from cumulus.machinery.cache import Cache, Index
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.key import Document
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.reasons import PartitionCondition

_ENDED = frozenset(phase.value for phase in PartitionPhase if phase.ended)
_GAVE_BACK = _ENDED | {PartitionPhase.PARKED.value}
_PLACED = frozenset({PartitionPhase.BOUND.value, PartitionPhase.UNPARKING.value})


def _phase(document: Document | None) -> object:
    status = document.get("status") if document else None
    return status.get("phase", PartitionPhase.PENDING) if status else PartitionPhase.PENDING


def _node(document: Document) -> str:
    return str((document.get("status") or {}).get("node") or "")


def _live(document: Document) -> Iterable[str]:
    return () if _phase(document) in _ENDED else ("",)


def _holds(document: Document) -> Iterable[str]:
    node = _node(document)
    return (node,) if node and _phase(document) not in _ENDED else ()


def _active(document: Document) -> Iterable[str]:
    return (_node(document),) if _phase(document) == PartitionPhase.ACTIVE else ()


def _parked(document: Document) -> Iterable[str]:
    return (_node(document),) if _phase(document) == PartitionPhase.PARKED else ()


def _overused(document: Document) -> Iterable[str]:
    conditions = (document.get("status") or {}).get("conditions") or ()
    says = any(c["type"] == PartitionCondition.OVERUSED and c["status"] == "True" for c in conditions)
    return _active(document) if says else ()


LIVE = Index(GPUPartition.KIND, _live)
"""All whose phase has not ended, under ""."""
ON_NODE = Index(GPUPartition.KIND, _holds)
"""Those bound to a node whose phase has not ended, under its name."""
ACTIVE_ON_NODE = Index(GPUPartition.KIND, _active)
"""Those that are Active, under their node's name."""
PARKED_ON_NODE = Index(GPUPartition.KIND, _parked)
"""Those that are Parked, under their node's name."""
OVERUSED_ON_NODE = Index(GPUPartition.KIND, _overused)
"""Those that are Active and say that they are overused, under their node's name."""


def on_node(change: Change, cache: Cache) -> Iterable[Request]:
    """The partitions bound to the node that changed."""
    return [Request(key.namespace, key.name) for key in sorted(cache.indexed(ON_NODE, change.key.name))]


def node_of(change: Change, cache: Cache) -> Iterable[Request]:
    """The node of the partition that changed."""
    node = _node(change.new)
    return (Request("", node),) if node else ()


def is_bound(change: Change) -> bool:
    return _phase(change.new) == PartitionPhase.BOUND


def has_its_place(change: Change) -> bool:
    """It was bound, or the share of a parked one was."""
    return _phase(change.new) in _PLACED and _phase(change.new) != _phase(change.old)


def is_not_bound(change: Change) -> bool:
    return not is_bound(change)


def needs_its_node(change: Change) -> bool:
    """Somebody changed what it is to be, or it has just been bound. Other changes of its status come from its own
    controller, which knows when to look again."""
    return change.type != "DELETED" and (has_its_place(change) or change.respecified)


def changes_the_queue(change: Change) -> bool:
    """It came, went or was changed by somebody, or its share is free."""
    return _phase(change.new) in _GAVE_BACK or change.respecified


def became_active(change: Change) -> bool:
    """Its lease has just been granted."""
    return _phase(change.new) == PartitionPhase.ACTIVE and _phase(change.old) != PartitionPhase.ACTIVE


def lease_came_or_went(change: Change) -> bool:
    """It has just become Active or Parked, or ended."""
    new = _phase(change.new)
    return (new == PartitionPhase.ACTIVE or new in _GAVE_BACK) and _phase(change.old) != new
