"""Drains of nodes at a time to come: made, moved, taken back, and ended where the node is uncordoned.

A drain is the Reservation `drain-NODE`: all devices of the node, for nobody. Who may write Reservations may plan one.
"""

from __future__ import annotations

from datetime import datetime

from cumulus.answers.nodes import DrainPlanned
from cumulus.clock import Clock, parse_timestamp, timestamp, to_the_second
from cumulus.errors import AlreadyExists, Forbidden, NotFound, UsageError
from cumulus.resources import node_drain
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import gpunode
from cumulus.resources.kinds.gpupartition import ENDED
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects


class PlannedDrains:
    def __init__(self, objects: Objects, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    def plan(self, identity: Identity, name: str, *, at: str, duration: str = "") -> DrainPlanned:
        """Drain the node from `at` on, a timestamp to come: for `duration`, or until it is uncordoned. This takes the
        place of a drain that was planned before. Raises NotFound, InvalidObject, and UsageError where `at` is no time
        to come, or where the Reservation of that name was made for something else."""
        start = self._to_come(at)
        self._objects.get(identity, _node(name))
        wanted = node_drain.document(name, start, duration or node_drain.UNTIL_UNCORDONED)
        try:
            self._objects.create(identity, wanted)
        except AlreadyExists:
            self._objects.update(identity, {**self._own(identity, name), "spec": wanted["spec"]})
        return self._with_leases(identity, name, start)

    def cancel(self, identity: Identity, name: str) -> bool:
        """Take it back, begun or not; whether there was one. Raises NotFound where there is no such node, and
        UsageError where the Reservation of that name was made for something else."""
        self._objects.get(identity, _node(name))
        try:
            found = self._own(identity, name)
        except NotFound:
            return False
        self._delete(identity, found)
        return True

    def end(self, identity: Identity, name: str) -> str:
        """Of a node that is uncordoned: take back the drain that has begun. Where one is still to come it stays, and
        the answer is when it begins; else "". Raises NotFound where there is none that is this identity's to see."""
        found = self._objects.get(identity, node_drain.key_of(name))
        if not node_drain.is_of(found, name):
            raise NotFound(f"{name} is not drained")
        begins = node_drain.begins(found)
        if begins > self._clock.now():
            return timestamp(begins)
        self._delete(identity, found)
        return ""

    def _to_come(self, at: str) -> datetime:
        try:
            start = parse_timestamp(at)
        except (ValueError, OverflowError):
            raise UsageError(f"at: {at[:40]!r} is no timestamp", hint="write 2030-01-31T09:00:00Z") from None
        if start <= self._clock.now():
            raise UsageError(f"at: {at!r} is over", hint="write a time to come")
        return start

    def _own(self, identity: Identity, name: str) -> Document:
        """Raises NotFound, and UsageError where it is another's."""
        key = node_drain.key_of(name)
        found = self._objects.get(identity, key)
        if not node_drain.is_of(found, name):
            raise UsageError(
                f"the Reservation {key.name} was made for something else", hint=f"see: cumulus describe resv {key.name}"
            )
        return found

    def _delete(self, identity: Identity, found: Document) -> None:
        self._objects.delete(identity, node_drain.key_of(found["spec"]["nodes"][0]), uid=found["metadata"]["uid"])

    def _with_leases(self, identity: Identity, name: str, start: datetime) -> DrainPlanned:
        """With the leases that go on into it, as far as this identity may see them."""
        try:
            held = self._objects.list(identity, gpunode.partitions(name)).items
        except Forbidden:
            return DrainPlanned()
        ends = [
            parse_timestamp(lookup(each, "status.expiresAt"))
            for each in held
            if lookup(each, "status.phase") not in ENDED and lookup(each, "status.expiresAt")
        ]
        late = [end for end in ends if end > start]
        return DrainPlanned(len(late), to_the_second(timestamp(max(late))) if late else "")


def _node(name: str) -> Key:
    return Key(gpunode.KIND.name, "", name)
