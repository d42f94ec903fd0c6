"""A short round of the crash loop, with --slow; `python -m tests.crash --minutes 60` is the long one."""

from __future__ import annotations

import pytest

from tests.crash.loop import Round
from tests.crash.world import world


@pytest.mark.slow
@pytest.mark.daemon
@pytest.mark.timeout(1800)
def test_a_round_of_kills_breaks_no_promise() -> None:
    with world() as here:
        round = Round(here, seed=1)
        assert round.run(10, kinds={"daemon", "monitor", "command"}) == []
        assert round.wishes
