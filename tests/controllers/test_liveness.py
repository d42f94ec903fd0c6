from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from cumulus.clock import FakeClock
from cumulus.machinery.liveness import Liveness


@pytest.fixture
def told() -> list[Sequence[str]]:
    return []


def test_each_part_that_stands_still_is_told_once_and_once_more_when_it_goes_on(told: list[Sequence[str]]) -> None:
    clock = FakeClock()
    liveness = Liveness(clock, 30, told.append)
    loops: dict[str, float] = {}

    def stalled(seconds: float) -> Mapping[str, float]:
        return {name: since for name, since in loops.items() if since >= seconds}

    clock.advance(29)
    assert liveness.look() == ()
    liveness.beat("election")
    clock.advance(1)
    informer = "changes of objects have not been seen since 2030-01-01T00:00:00Z"
    assert liveness.look() == (informer,)
    clock.advance(10)
    # The same words, so that what is written from them is not written again.
    assert liveness.look() == (informer,)
    liveness.beat("informer")
    with liveness.watching(stalled):
        loops["job"] = 31.0
        job = "the controller job has finished nothing though keys are due since 2030-01-01T00:00:09Z"
        assert liveness.look() == (job,)
        clock.advance(25)
        liveness.beat("informer"), liveness.beat("election")
        clock.advance(5)
        events = "events have not been written since 2030-01-01T00:00:40Z"
        assert liveness.look() == (events, job)
    # Its loops went with the term.
    assert liveness.look() == ()
    assert told == [(informer,), (job,), (events, job), ()]
