"""The lab that the tests share is put in order before each, and what had to be done is said."""

from __future__ import annotations

import pytest

from tests.lab.lab import Lab

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def test_what_a_test_left_broken_is_mended(swarm: Lab) -> None:
    one, two = swarm.workers
    one.cut()
    two.kill_engine()
    done = swarm.mend()
    assert done[:2] == [
        "worker1 was cut off, and is connected again",
        "worker2 had no engine, and was started again",
    ]
    assert swarm.ready() == set(swarm.nodes)
    assert swarm.mend() == []
