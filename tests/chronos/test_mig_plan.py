"""Which MIG instances would serve those who wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cumulus.chronos.mig_plan import Wish, plan
from cumulus.chronos.nvml_devices import Mig, Profile

GIB = 2**30
SMALL = Profile("1g.10gb", int(9.5 * GIB), tuple((start, 1) for start in range(7)))
MIDDLE = Profile("3g.40gb", int(39.25 * GIB), ((0, 4), (4, 4)))
LARGE = Profile("7g.80gb", int(79 * GIB), ((0, 8),))
H100 = Mig(profiles=(LARGE, SMALL, MIDDLE))


def test_the_largest_is_placed_first_and_each_gets_the_smallest_that_will_do() -> None:
    found = plan({"GPU-0": H100}, [Wish("small", 8 * GIB), Wish("middle", 20 * GIB)])
    assert [(m.name, m.profile.name, m.start) for m in found.made] == [
        ("middle", "3g.40gb", 0),
        ("small", "1g.10gb", 4),
    ]
    assert found.command("GPU-0") == "nvidia-smi mig -i GPU-0 -cgi 3g.40gb:0,1g.10gb:4 -C"
    assert found.unserved == ()


def test_nothing_is_put_where_an_instance_is() -> None:
    found = plan({"GPU-0": Mig(profiles=H100.profiles, taken=((4, 4), (0, 1)))}, [Wish("a", GIB), Wish("b", 20 * GIB)])
    assert [(m.name, m.start) for m in found.made] == [("a", 1)]
    assert [w.name for w in found.unserved] == ["b"]


def test_a_gpu_of_which_too_little_is_known_gets_none() -> None:
    found = plan({"GPU-0": Mig(profiles=H100.profiles, taken=None), "GPU-1": H100}, [Wish("a", GIB)])
    assert [m.gpu for m in found.made] == ["GPU-1"]


@given(st.lists(st.integers(1, 90), max_size=12), st.lists(st.integers(0, 6), max_size=3, unique=True))
def test_instances_never_overlap_and_are_large_enough(sizes: list[int], taken: list[int]) -> None:
    there = tuple((start, 1) for start in taken)
    wishes = [Wish(f"w{n}", size * GIB) for n, size in enumerate(sizes)]
    found = plan({"GPU-0": Mig(profiles=H100.profiles, taken=there)}, wishes)
    slices = [s for start, size in there for s in range(start, start + size)]
    for made in found.made:
        size = dict(made.profile.placements)[made.start]
        slices += range(made.start, made.start + size)
        assert made.profile.memory_bytes >= next(w.memory_bytes for w in wishes if w.name == made.name)
    assert len(slices) == len(set(slices))
    assert len(found.made) + len(found.unserved) == len(wishes)
