"""What a node other than the daemon's own machine says of jobs without an image: whether it runs them, and as whom.

Nodes are asked about the users whose jobs wait, and about those that they were asked about before. An answer is good
for a while; a new user is asked about at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cumulus.backends.cluster import ProgramsAnswer
from cumulus.clock import Clock
from cumulus.machinery.cache import Cache, Index, Reader, readable
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.key import Document
from cumulus.resources.node import GPUNode, HostJobs, HostJobUser
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.submitter import Submitter

GOOD_SECONDS, BAD_SECONDS = 60.0, 20.0
"""For which an answer is good that it runs them, and that it does not."""
MOST_USERS = 128
"""That a node's status tells of."""
_MOST_LOOKED_AT = 1000
"""Waiting partitions."""

_Ask = Callable[[str, Sequence[tuple[str, int]]], ProgramsAnswer | None]
"""Asks the node of that name about users: names and numbers. None: nobody can be asked now, so what was said holds."""


def _waiting(document: Document) -> Iterable[str]:
    phase = (document.get("status") or {}).get("phase", PartitionPhase.PENDING)
    is_program = (document.get("spec") or {}).get("program") is not None
    return ("",) if is_program and phase == PartitionPhase.PENDING else ()


def _offers(document: Document) -> Iterable[str]:
    found = (document.get("status") or {}).get("hostJobs") or {}
    return ("",) if found.get("offered") else ()


WAITING_PROGRAMS = Index(GPUPartition.KIND, _waiting)
"""Pending partitions of jobs without an image, under ""."""
OFFERS_HOST_JOBS = Index(GPUNode.KIND, _offers)
"""Nodes that run them beside the daemon's own machine, under ""."""


def new_program(change: Change) -> bool:
    """A partition of a job without an image begins to wait."""
    return change.old is None and change.type != "DELETED" and any(True for _ in _waiting(change.new))


def nodes_to_ask(change: Change, cache: Cache) -> Iterable[Request]:
    """Nodes that have not yet said whether they know the partition's submitter."""
    submitter = Submitter.of(change.new["metadata"].get("annotations"))
    for key in sorted(cache.indexed(OFFERS_HOST_JOBS, "")):
        users = ((cache.document(key) or {}).get("status") or {}).get("hostJobs", {}).get("users") or ()
        if not any((user.get("name"), user.get("uid")) == submitter[:2] for user in users):
            yield Request("", key.name)


class HostJobsOfNodes:
    """`shared`: directories that are the same on all nodes."""

    def __init__(self, reader: Reader, ask: _Ask, clock: Clock, shared: tuple[str, ...] = ()) -> None:
        self._reader = reader
        self._ask = ask
        self._clock = clock
        self._shared = shared
        self._asked: dict[str, float] = {}
        """When each node was asked last, in this term."""

    def of(self, name: str, known: HostJobs | None) -> HostJobs | None:
        """What the node of that name says now, or said a moment ago. One thread at a time asks about a node."""
        waiting = self._users()
        before = {(user.name, user.uid): user for user in known.users} if known is not None else {}
        age = self._clock.monotonic() - self._asked.get(name, float("-inf"))
        good = GOOD_SECONDS if known is not None and known.offered else BAD_SECONDS
        if age < good and not (known is not None and known.offered and any(user not in before for user in waiting)):
            return known if known is None else known.model_copy(update={"shared": self._shared})
        users = list(dict.fromkeys([*waiting, *before]))[:MOST_USERS]
        answer = self._ask(name, users)
        if answer is None:
            return known
        self._asked[name] = self._clock.monotonic()
        told = zip(users, answer.users, strict=True) if not answer.why else ()
        return HostJobs(
            offered=not answer.why, message=answer.why, shared=self._shared,
            users=tuple(HostJobUser(name=name, uid=uid, problem=why) for (name, uid), why in told),
        )  # fmt: skip

    def _users(self) -> list[tuple[str, int]]:
        """Whose programs wait, in the order of their partitions' names."""
        found: dict[tuple[str, int], None] = {}
        for key in sorted(self._reader.indexed(WAITING_PROGRAMS, ""))[:_MOST_LOOKED_AT]:
            partition = readable(self._reader, GPUPartition, key.namespace, key.name)
            submitter = Submitter.of(None if partition is None else partition.metadata.annotations)
            if submitter.name and submitter.uid is not None:
                found[submitter.name, submitter.uid] = None
        return list(found)
