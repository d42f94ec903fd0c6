"""What each outcome of a reconcile means for the queue."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable

import pytest
import structlog

from cumulus.clock import FakeClock
from cumulus.errors import (
    AlreadyExists,
    BackendError,
    BackendRefused,
    Conflict,
    Fenced,
    InsufficientShare,
    InvalidObject,
    NodeUnreachable,
    NotFound,
    StoreUnavailable,
)
from cumulus.log import configure
from cumulus.machinery.reconcile import Done, Permanent, Request, RequeueAfter, Result, Retry
from cumulus.machinery.runner import Runner
from cumulus.machinery.workqueue import WorkQueue

KEY = Request("default", "a")


class Scripted:
    """A reconciler that does what it is told."""

    def __init__(self, act: Callable[[], Result]) -> None:
        self.act = act
        self.seen: list[Request] = []

    def reconcile(self, request: Request) -> Result:
        self.seen.append(request)
        return self.act()


def a_runner(act: Callable[[], Result]) -> tuple[Runner, WorkQueue, FakeClock, list[str]]:
    clock = FakeClock()
    queue = WorkQueue("test", clock, rng=random.Random(0))
    fenced: list[str] = []
    return Runner(Scripted(act), queue, fenced=lambda: fenced.append("yes")), queue, clock, fenced


def raising(error: BaseException) -> Callable[[], Result]:
    def act() -> Result:
        raise error

    return act


def test_done_leaves_the_queue_empty() -> None:
    runner, queue, clock, _ = a_runner(Done)
    queue.add(KEY)
    assert runner.step()
    clock.advance(1000)
    assert not runner.step()


def test_after_comes_again_then() -> None:
    runner, queue, clock, _ = a_runner(lambda: RequeueAfter(7))
    queue.add(KEY)
    runner.step()
    clock.advance(6.9)
    assert not runner.step()
    clock.advance(0.1)
    assert runner.step()


@pytest.mark.parametrize(
    "error",
    [
        Retry("not yet"),
        Conflict("stale"),
        NotFound("stale"),
        AlreadyExists("stale"),
        NodeUnreachable("cut"),
        StoreUnavailable("full"),
        BackendError("busy"),
        BackendRefused("never, says the backend; the loop should have dealt with it"),
        InsufficientShare("none"),
        ZeroDivisionError("a defect"),
    ],
)
def test_what_may_pass_is_tried_again_later_and_later(error: Exception) -> None:
    runner, queue, clock, fenced = a_runner(raising(error))
    queue.add(KEY)
    waits = []
    for _ in range(8):
        assert runner.step()
        due = queue.next_due()
        assert due is not None
        waits.append(due - clock.monotonic())
        clock.advance(waits[-1])
    assert waits == sorted(waits)
    assert waits[-1] > 20 * waits[0]
    assert fenced == []


@pytest.mark.parametrize("error", [Permanent("wrong spec"), InvalidObject("damaged")])
def test_what_cannot_pass_waits_for_a_change(error: Exception) -> None:
    runner, queue, _, _ = a_runner(raising(error))
    queue.add(KEY)
    runner.step()
    assert queue.next_due() is None


def test_a_fenced_write_tells_the_manager_and_stops() -> None:
    runner, queue, _, fenced = a_runner(raising(Fenced("another leads")))
    queue.add(KEY)
    runner.step()
    assert fenced == ["yes"]
    assert queue.next_due() is None


def test_success_makes_the_next_failure_a_first_one() -> None:
    outcomes = iter([Retry("x"), Retry("x"), Retry("x"), None, Retry("x")])

    def act() -> Result:
        error = next(outcomes)
        if error is not None:
            raise error
        return Done()

    runner, queue, clock, _ = a_runner(act)
    queue.add(KEY)
    for _ in range(3):
        clock.advance(10)
        assert runner.step()
    assert queue.failures(KEY) == 3
    clock.advance(10)
    runner.step()
    assert queue.failures(KEY) == 0


def test_a_simulated_crash_is_not_caught_but_the_key_is_let_go() -> None:
    class Crash(BaseException):
        pass

    runner, queue, _, _ = a_runner(raising(Crash()))
    queue.add(KEY)
    with pytest.raises(Crash):
        runner.step()
    assert queue.drain(0)


def test_every_line_of_a_reconcile_says_of_which_loop_and_key_it_is() -> None:
    """Also one that a part far below logs, which knows of no reconcile."""
    log = structlog.get_logger("cumulus.somewhere")

    def act() -> Result:
        log.info("from deep within")
        raise NodeUnreachable("cut")

    runner, queue, clock, _ = a_runner(act)
    queue.add(KEY)
    before, out = structlog.get_config(), io.StringIO()
    configure(format="json", stream=out)
    try:
        runner.step()
        clock.advance(1)
        runner.step()
        log.info("between reconciles")
    finally:
        structlog.configure(**before)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    told = [(line["event"], line.get("loop"), line.get("key"), line.get("reconcile")) for line in lines]
    assert told == [
        ("from deep within", "test", "default/a", 1),
        ("again later", "test", "default/a", 1),
        ("from deep within", "test", "default/a", 2),
        ("again later", "test", "default/a", 2),
        ("between reconciles", None, None, None),
    ]
