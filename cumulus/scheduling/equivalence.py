"""What makes gangs interchangeable or comparable, so that a cycle learns from each refusal.

Ten thousand pending jobs are mostly alike: what refused one refuses every other that asks for at least as much.
"""

from __future__ import annotations

from collections.abc import Hashable
from decimal import Decimal
from typing import NamedTuple

from cumulus.scheduling.claim import Demand
from cumulus.scheduling.snapshot import Gang

_KEPT = 64


class Uniform(NamedTuple):
    """`groups` groups of `size` members with one demand: what every job asks for."""

    demand: Demand
    groups: int
    size: int


def groups_of(gang: Gang) -> list[list[int]]:
    """The positions of the gang's members, by group."""
    groups: dict[int, list[int]] = {}
    for index, member in enumerate(gang.members):
        groups.setdefault(member.group, []).append(index)
    return list(groups.values())


def ports_of(gang: Gang, group: list[int]) -> tuple[int, ...]:
    """The host ports that the group at these positions needs for itself."""
    return tuple(sorted({port for index in group for port in gang.members[index].demand.ports}))


def uniform_shape(gang: Gang) -> Uniform | None:
    """The shape of a gang of equal groups of equal members, None for any other."""
    first = gang.members[0].demand
    if len(gang.members) == 1:
        return Uniform(first, 1, 1)
    if any(member.demand != first for member in gang.members):
        return None
    sizes = {len(group) for group in groups_of(gang)}
    if len(sizes) > 1:
        return None
    size = sizes.pop()
    return Uniform(first, len(gang.members) // size, size)


class KnownMisfits:
    """Gangs that did not fit. One that asks for at least as much in every respect does not fit either."""

    def __init__(self) -> None:
        self._least: dict[Hashable, list[tuple[Decimal | int, ...]]] = {}

    def add(self, gang: Gang, length: int) -> None:
        kind, amounts = _amounts(gang, length)
        least = self._least.setdefault(kind, [])
        least[:] = [other for other in least if not _at_most(amounts, other)][-_KEPT:]
        least.append(amounts)

    def covers(self, gang: Gang, length: int) -> bool:
        """Whether the gang is known not to fit for `length`."""
        if not self._least:
            return False
        kind, amounts = _amounts(gang, length)
        return any(_at_most(other, amounts) for other in self._least.get(kind, ()))


def _amounts(gang: Gang, length: int) -> tuple[Hashable, tuple[Decimal | int, ...]]:
    """What must be equal for two gangs to compare, and what then is compared."""
    shape = uniform_shape(gang)
    if shape is None:
        return tuple((member.group, member.demand) for member in gang.members), (length,)
    demand, groups, size = shape
    memory = demand.memory.size if demand.memory.size is not None else demand.memory.fraction
    assert memory is not None
    kind = (demand.filter, demand.ports, size, demand.memory.size is None, demand.compute is None)
    return kind, (memory, demand.compute or 0, groups, length)


def _at_most(these: tuple[Decimal | int, ...], those: tuple[Decimal | int, ...]) -> bool:
    return all(this <= that for this, that in zip(these, those, strict=True))
