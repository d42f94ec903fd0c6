from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.scheduling.timeline import FreeTimeline

shares = st.tuples(st.integers(1, 12), st.integers(0, 5), st.integers(0, 500))
later = st.tuples(st.integers(0, 10), st.integers(1, 8), st.integers(0, 5), st.integers(0, 500))


@settings(deadline=None)
@given(
    st.lists(shares, max_size=4), st.lists(later, max_size=4), st.integers(0, 14), st.integers(1, 9),
    st.integers(0, 10), st.integers(0, 1000),
)  # fmt: skip
def test_it_says_what_a_list_of_moments_says(
    taken: list[tuple[int, int, int]], reserved: list[tuple[int, int, int, int]], start: int, length: int,
    memory: int, compute: int,
) -> None:  # fmt: skip
    timeline = FreeTimeline(10, 1000, taken)
    moments = [[10, 1000] for _ in range(60)]
    for end, bytes_, millis in taken:
        for moment in moments[:end]:
            moment[0] -= bytes_
            moment[1] -= millis
    for begin, lasting, bytes_, millis in reserved:
        timeline.take(begin, lasting, bytes_, millis)
        for moment in moments[begin : begin + lasting]:
            moment[0] -= bytes_
            moment[1] -= millis

    def free(begin: int) -> tuple[int, int]:
        window = moments[begin : begin + length]
        return min(m[0] for m in window), min(m[1] for m in window)

    assert timeline.free(start, length) == free(start)
    fitting = (begin for begin in range(40) if free(begin)[0] >= memory and free(begin)[1] >= compute)
    assert timeline.earliest(memory, compute, length) == next(fitting, None)


def test_a_gap_that_is_too_short_is_passed_over() -> None:
    timeline = FreeTimeline(10, 1000, [(5, 10, 1000)])
    timeline.take(8, 4, 10, 1000)
    assert timeline.earliest(10, 1000, 3) == 5
    assert timeline.earliest(10, 1000, 4) == 12


def test_more_than_the_device_has_never_fits() -> None:
    assert FreeTimeline(10, 1000, [(5, 1, 1)]).earliest(11, 0, 1) is None
