"""Lists of all objects of a kind, as they were read last. The next one asks the log alone what has changed since.

A list is kept in runs of some hundred objects. A change makes those runs anew in which something changed, so that what
others made of the rest of them can be used again.
"""

from __future__ import annotations

import sqlite3
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from cumulus.resources.packed import PackedRun
from cumulus.store import tables
from cumulus.store.listing import Listing, ListPosition

RUN = 256
"""Objects in a run, as it is read first. It may grow to twice as many."""
EACH = 250
"""Bytes that an object takes in a list beside its JSON."""
SURELY = 64
"""Revisions that are always looked through."""
_SPARSE = 4
"""How many times as many runs as need be there may be, and so many beside that."""


_Object = tuple[ListPosition, int, bytes]


class _Placed(NamedTuple):
    """A run, and where its objects belong."""

    places: Sequence[ListPosition]
    revisions: Sequence[int]
    run: PackedRun

    def objects(self) -> Iterator[_Object]:
        return zip(self.places, self.revisions, self.run, strict=True)


class _KeptList(NamedTuple):
    revision: int
    placed: Sequence[_Placed]

    @property
    def objects(self) -> int:
        return sum(len(each.places) for each in self.placed)

    @property
    def size(self) -> int:
        return sum(len(each.run.joined) + len(each.places) * EACH for each in self.placed)


_Which = tuple[str, str | None]


class KeptLists:
    """Within so many bytes: the lists that were asked for last. Safe for threads."""

    def __init__(self, most_bytes: int, run: int = RUN) -> None:
        """`run`: objects in a run."""
        self._most = most_bytes
        self._length = run
        self._kept: OrderedDict[_Which, tuple[_KeptList, int]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, connection: sqlite3.Connection, wanted: Listing) -> tuple[list[PackedRun], int]:
        """All objects of a listing that takes every one from its start, and the revision, as it sees them."""
        which = wanted.kind, wanted.namespace
        compacted, newest = tables.bounds(connection)
        with self._lock:
            kept = self._kept[which][0] if which in self._kept else None
            if kept is not None:
                self._kept.move_to_end(which)
        if kept is None or kept.revision != newest:
            usable = kept is not None and compacted <= kept.revision < newest
            if kept is not None and usable and newest - kept.revision <= SURELY + kept.objects:
                kept = _KeptList(newest, self._changed(kept.placed, tables.changes(connection, wanted, kept.revision)))
            else:
                # To look through so many revisions takes no less.
                kept = _KeptList(newest, self._in_runs(tables.placed(connection, wanted)))
            self._keep(which, kept)
        return [each.run for each in kept.placed], kept.revision

    def _keep(self, which: _Which, made: _KeptList) -> None:
        size = made.size
        with self._lock:
            before = self._kept.get(which)
            if before is not None and before[0].revision > made.revision:
                # A reader whose snapshot is older came later.
                return
            self._kept.pop(which, None)
            if size > self._most:
                return
            self._kept[which] = made, size
            while sum(each for _, each in self._kept.values()) > self._most:
                self._kept.popitem(last=False)

    def _in_runs(self, objects: Iterable[_Object]) -> list[_Placed]:
        rest = iter(objects)
        return [_run(some) for some in iter(lambda: list(islice(rest, self._length)), [])]

    def _changed(
        self, placed: Sequence[_Placed], changes: Mapping[ListPosition, tuple[int, bytes] | None]
    ) -> Sequence[_Placed]:
        """The runs with these objects as they are now (None: gone)."""
        if not changes or not placed:
            return placed or self._in_runs((place, *now) for place, now in sorted(changes.items()) if now is not None)
        starts = [each.places[0] for each in placed]
        of_runs: dict[int, dict[ListPosition, tuple[int, bytes] | None]] = {}
        for place, change in changes.items():
            of_runs.setdefault(max(0, bisect_right(starts, place) - 1), {})[place] = change
        found: list[_Placed] = []
        for at, each in enumerate(placed):
            if at not in of_runs:
                found.append(each)
                continue
            now: dict[ListPosition, tuple[int, bytes] | None] = {
                place: (revision, item) for place, revision, item in each.objects()
            }
            now |= of_runs[at]
            there = [(place, *found_at) for place, found_at in sorted(now.items()) if found_at is not None]
            found += [_run(there)] if 0 < len(there) <= 2 * self._length else self._in_runs(there)
        if len(found) * self._length > _SPARSE * sum(len(each.places) for each in found) + _SPARSE * self._length:
            # Much is gone.
            return self._in_runs(each for run in found for each in run.objects())
        return found


def _run(objects: Sequence[_Object]) -> _Placed:
    places, revisions, items = zip(*objects, strict=True)
    return _Placed(places, revisions, PackedRun(items, revisions))
