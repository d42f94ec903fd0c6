"""Which MIG instances would serve those who wait. Pure: nothing here makes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cumulus.chronos.nvml_devices import Mig, Profile


@dataclass(frozen=True, slots=True)
class Wish:
    """Who waits, and for how many bytes."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class PlannedInstance:
    """An instance that could be made: of which GPU, and from which of its slices on."""

    gpu: str
    profile: Profile
    start: int
    name: str
    """Whom it is for."""


@dataclass(frozen=True, slots=True)
class MigPlan:
    """What could be made, and who gets none."""

    made: tuple[PlannedInstance, ...]
    unserved: tuple[Wish, ...]

    def command(self, gpu: str) -> str:
        """By which an administrator makes those of one GPU."""
        wanted = ",".join(f"{made.profile.name}:{made.start}" for made in self.made if made.gpu == gpu)
        return f"nvidia-smi mig -i {gpu} -cgi {wanted} -C"


def plan(gpus: Mapping[str, Mig], wishes: Sequence[Wish]) -> MigPlan:
    """The largest wish first, each the smallest profile that has its memory, where it fits beside the instances that
    are there. A GPU of which that is not known gets none."""
    free = {gpu: list(mig.taken) for gpu, mig in gpus.items() if mig.taken is not None}
    made: list[PlannedInstance] = []
    unserved: list[Wish] = []
    for wish in sorted(wishes, key=lambda wish: (-wish.memory_bytes, wish.name)):
        found = next(
            (
                (gpu, profile, place)
                for gpu, taken in free.items()
                for profile in sorted(gpus[gpu].profiles, key=lambda profile: (profile.memory_bytes, _size(profile)))
                if profile.memory_bytes >= wish.memory_bytes
                for place in profile.placements
                if not any(_overlap(place, other) for other in taken)
            ),
            None,
        )
        if found is None:
            unserved.append(wish)
            continue
        gpu, profile, place = found
        free[gpu].append(place)
        made.append(PlannedInstance(gpu, profile, place[0], wish.name))
    return MigPlan(tuple(made), tuple(unserved))


def _size(profile: Profile) -> int:
    return min(size for _, size in profile.placements)


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]
