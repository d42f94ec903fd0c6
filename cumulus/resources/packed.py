"""Lists whose objects are their JSON, for who hands them on as they are: that is several times as fast."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate


class PackedRun:
    """Objects that follow each other in a list, as JSON with commas between them. It never changes, and a store gives
    the same run again while none of its objects did: what was made of it may be kept with it."""

    __slots__ = ("__weakref__", "_ends", "joined", "keys")

    def __init__(self, items: Sequence[bytes], keys: Sequence[Hashable] | None = None) -> None:
        """`keys`: objects of one store that have the same key have the same JSON. By default that is the JSON."""
        self.joined = b",".join(items)
        self.keys: Sequence[Hashable] = items if keys is None else keys
        self._ends = tuple(accumulate(map(len, items)))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, at: int) -> bytes:
        # A comma stands before each but the first.
        start = self._ends[at - 1] + at if at else 0
        return self.joined[start : self._ends[at] + at]

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True, slots=True)
class PackedPage:
    """A page of a list, see `query.Page`: its objects in runs, none of which is empty."""

    runs: Sequence[PackedRun]
    revision: int
    continue_token: str = ""

    @property
    def items(self) -> list[bytes]:
        return [item for run in self.runs for item in run]


def packed_page(items: Iterable[bytes], revision: int, continue_token: str = "") -> PackedPage:
    """The page of these objects, which are in no store as they are."""
    found = list(items)
    return PackedPage([PackedRun(found)] if found else [], revision, continue_token)
