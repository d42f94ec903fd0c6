"""The queue's semantics, on a fake clock; waiting itself, with threads."""

from __future__ import annotations

import random
import threading
import time
from queue import Queue

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cumulus.clock import FakeClock, SystemClock
from cumulus.machinery.reconcile import Request
from cumulus.machinery.workqueue import BACKOFF, WorkQueue
from tests.waiting import PATIENCE

A, B = Request("default", "a"), Request("default", "b")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue:
    return WorkQueue("test", clock, rng=random.Random(1))


def test_a_key_waits_at_most_once(queue: WorkQueue) -> None:
    queue.add(A)
    queue.add(B)
    queue.add(A)
    assert [queue.get(0), queue.get(0), queue.get(0)] == [A, B, None]


def test_a_key_added_while_it_is_worked_on_comes_again_afterwards(queue: WorkQueue) -> None:
    queue.add(A)
    assert queue.get(0) == A
    queue.add(A)
    queue.add(A)
    assert queue.get(0) is None
    queue.done(A)
    assert queue.get(0) == A
    queue.done(A)
    assert queue.get(0) is None


def test_delayed_keys_come_when_due_in_order(queue: WorkQueue, clock: FakeClock) -> None:
    queue.add_after(A, 2)
    queue.add_after(B, 1)
    assert queue.get(0) is None
    assert queue.next_due() == clock.monotonic() + 1
    clock.advance(1)
    assert queue.get(0) == B
    clock.advance(1)
    assert queue.get(0) == A


def test_the_soonest_of_several_delays_counts(queue: WorkQueue, clock: FakeClock) -> None:
    queue.add_after(A, 5)
    queue.add_after(A, 1)
    queue.add_after(A, 9)
    clock.advance(1)
    assert queue.get(0) == A
    queue.done(A)
    clock.advance(20)
    assert queue.get(0) is None


def test_taking_a_key_drops_its_delay(queue: WorkQueue, clock: FakeClock) -> None:
    queue.add_after(A, 5)
    queue.add(A)
    assert queue.get(0) == A
    queue.done(A)
    clock.advance(10)
    assert queue.get(0) is None


def test_back_off_doubles_to_its_cap_and_is_forgotten(queue: WorkQueue) -> None:
    waits = [queue.back_off(A) for _ in range(30)]
    for number, wait in enumerate(waits):
        whole = min(BACKOFF.longest, BACKOFF.first * 2**number)
        assert whole / 2 <= wait <= whole
    assert len({round(wait / min(BACKOFF.longest, BACKOFF.first * 2**n), 6) for n, wait in enumerate(waits)}) > 20
    queue.forget(A)
    assert queue.back_off(A) <= BACKOFF.first
    assert queue.failures(A) == 1


def test_keys_back_off_apart_from_each_other(queue: WorkQueue) -> None:
    for _ in range(10):
        queue.back_off(A)
    assert queue.back_off(B) <= BACKOFF.first


def test_nothing_comes_out_after_shut_down(queue: WorkQueue) -> None:
    queue.add(A)
    assert queue.get(0) == A
    queue.add(B)
    queue.shut_down()
    queue.add(A)
    assert queue.get() is None


def test_drain_waits_for_what_is_worked_on(queue: WorkQueue) -> None:
    assert queue.drain(0)
    queue.add(A)
    queue.get(0)
    queue.shut_down()
    assert not queue.drain(0)
    queue.done(A)
    assert queue.drain(0)


def test_a_waiting_worker_is_woken() -> None:
    queue = WorkQueue("test", SystemClock())
    got: list[Request | None] = []
    worker = threading.Thread(target=lambda: got.append(queue.get(20)))
    worker.start()
    queue.add(A)
    worker.join(PATIENCE)
    assert got == [A]


def test_shut_down_wakes_every_worker() -> None:
    queue = WorkQueue("test", SystemClock())
    workers = [threading.Thread(target=queue.get) for _ in range(3)]
    for worker in workers:
        worker.start()
    queue.shut_down()
    for worker in workers:
        worker.join(PATIENCE)
        assert not worker.is_alive()


class QueueMachine(RuleBasedStateMachine):
    """No key is held twice, and none that was added is lost."""

    keys = [Request("", name) for name in "abc"]

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.queue = WorkQueue("test", self.clock, rng=random.Random(0))
        self.held: set[Request] = set()
        self.owed: set[Request] = set()

    @rule(key=st.sampled_from(keys))
    def add(self, key: Request) -> None:
        self.queue.add(key)
        self.owed.add(key)

    @rule(key=st.sampled_from(keys), seconds=st.integers(1, 5))
    def add_after(self, key: Request, seconds: int) -> None:
        self.queue.add_after(key, seconds)

    @rule(seconds=st.integers(1, 5))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def take(self) -> None:
        key = self.queue.get(0)
        if key is None:
            assert self.owed <= self.held
            return
        assert key not in self.held
        self.held.add(key)
        self.owed.discard(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        self.held.discard(key)
        self.queue.done(key)

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) >= len(self.owed - self.held)


TestQueueMachine = QueueMachine.TestCase


def test_a_delayed_key_is_not_late_when_the_worker_that_waited_for_it_got_another() -> None:
    """Of two idle workers one minds the clock; it is given work, and the other must mind it then."""
    queue = WorkQueue("test", SystemClock())
    taken: Queue[Request] = Queue()
    release = threading.Event()

    def work() -> None:
        while (key := queue.get(600)) is not None:
            taken.put(key)
            if key.name == "long":
                release.wait(PATIENCE)
            queue.done(key)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        queue.add_after(Request("", "later"), 1.0)
        queue.add_after(Request("", "soon"), 0.5)
        queue.add(Request("", "long"))
        # Without anyone who minds the clock they would come when `get` gives up, after ten minutes.
        found = [taken.get(timeout=PATIENCE) for _ in range(3)]
        assert [key.name for key in found] == ["long", "soon", "later"]
    finally:
        release.set()
        queue.shut_down()
        for worker in workers:
            worker.join(PATIENCE)


def test_a_key_wakes_one_worker() -> None:
    """A queue with many workers must not wake them all for each key."""
    queue = WorkQueue("test", SystemClock())
    wakes = 0
    wait = queue._changed.wait

    def counted(timeout: float | None = None) -> bool:
        nonlocal wakes
        found = wait(timeout)
        wakes += 1
        return found

    queue._changed.wait = counted  # type: ignore[method-assign]

    def work() -> None:
        while (key := queue.get(600)) is not None:
            queue.done(key)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    try:
        for number in range(50):
            queue.add(Request("", str(number)))
            deadline = time.monotonic() + PATIENCE
            while len(queue) or queue._working:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        assert wakes <= 100
    finally:
        queue.shut_down()
        for worker in workers:
            worker.join(PATIENCE)


def test_a_loop_is_stalled_where_something_is_due_and_nothing_is_finished(queue: WorkQueue, clock: FakeClock) -> None:
    queue.add_after(A, 5)
    clock.advance(100)
    # Nobody took it: its workers are gone.
    assert queue.stalled() == 0
    clock.advance(7)
    assert queue.stalled() == 7
    assert queue.get(0) == A
    clock.advance(3)
    # Its worker is at it, and no other is free.
    assert queue.stalled() == 10
    queue.add(B)
    queue.done(A)
    assert queue.stalled() == 0
    clock.advance(4)
    assert queue.stalled() == 4
    assert queue.get(0) == B
    queue.done(B)
    clock.advance(1000)
    assert queue.stalled() == 0


def test_a_long_reconcile_stalls_nothing_while_another_worker_is_free() -> None:
    queue = WorkQueue("test", clock := FakeClock())
    queue.add(A)
    assert queue.get(0) == A
    got: Queue[Request | None] = Queue()
    worker = threading.Thread(target=lambda: got.put(queue.get()))
    worker.start()
    clock.advance(60)
    deadline = time.monotonic() + PATIENCE
    while queue.stalled():
        assert time.monotonic() < deadline
    queue.shut_down()
    worker.join()
    assert got.get() is None
