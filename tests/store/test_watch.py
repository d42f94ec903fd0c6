"""The feeder of the watches: what it takes from commits of its own process, and what it reads from the log."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import orjson
import pytest

from cumulus.resources.key import Key
from cumulus.store.codec import ADDED, LogRow, event
from cumulus.store.watch import QUEUE_LIMIT, Hub, LogSlice, LogWatch


class Log:
    """A log of single objects, and how often it was read."""

    def __init__(self) -> None:
        self.rows: list[LogRow] = []
        self.reads = 0
        self.lock = threading.Lock()

    def append(self, count: int = 1) -> list[LogRow]:
        with self.lock:
            made = [_row(len(self.rows) + number + 1) for number in range(count)]
            self.rows += made
        return made

    def read(self, after: int, limit: int) -> LogSlice:
        with self.lock:
            self.reads += 1
            rows = self.rows[after : after + limit]
        return LogSlice([event(row) for row in rows], rows[-1].revision if rows else after)

    def newest(self) -> int:
        return len(self.rows)


def _row(revision: int) -> LogRow:
    name = f"n{revision}"
    document = {"kind": "GPUJob", "metadata": {"name": name, "resourceVersion": str(revision)}}
    return LogRow(revision, ADDED, 0, Key("GPUJob", "", name), orjson.dumps(document))


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def hub(log: Log) -> Iterator[Hub]:
    # Only what is offered or woken for: the slow poll must not help.
    hub = Hub(log.read, log.newest, poll_seconds=3600)
    yield hub
    hub.close()


def revisions(watch: LogWatch, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        events = watch.next(30)
        assert events, f"nothing came after {found[-3:]}"
        found += [event.revision for event in events]
    return found


def test_what_is_offered_is_not_read_again(log: Log, hub: Hub) -> None:
    watch = hub.watch(0, None)
    hub.offer(log.append())
    assert revisions(watch, 1) == [1]
    before = log.reads
    for _ in range(20):
        hub.offer(log.append(3))
    assert revisions(watch, 60) == list(range(2, 62))
    assert log.reads <= before + 1


def test_what_another_process_wrote_between_two_offers_is_read(log: Log, hub: Hub) -> None:
    watch = hub.watch(0, None)
    hub.offer(log.append())
    assert revisions(watch, 1) == [1]
    log.append()
    hub.offer(log.append())
    assert revisions(watch, 2) == [2, 3]


def test_more_offers_than_are_kept_are_read_from_the_log(log: Log, hub: Hub) -> None:
    watch = hub.watch(0, None)
    hub.offer(log.append())
    assert revisions(watch, 1) == [1]
    hub.offer(log.append(QUEUE_LIMIT + 1))
    assert revisions(watch, QUEUE_LIMIT + 1) == list(range(2, QUEUE_LIMIT + 3))


def test_an_offer_of_what_was_read_already_is_not_told_twice(log: Log, hub: Hub) -> None:
    watch = hub.watch(0, None)
    rows = log.append(2)
    hub.wake()
    assert revisions(watch, 2) == [1, 2]
    hub.offer(rows)
    hub.offer(log.append())
    assert revisions(watch, 1) == [3]


def test_offers_and_the_log_together_tell_everything_once_and_in_order(log: Log, hub: Hub) -> None:
    """Commits of this process and of others, in any mixture, while watches come."""
    dice = random.Random(4)
    watches = [hub.watch(0, None)]
    for _ in range(300):
        made = log.append(dice.choice((1, 1, 2, 40)))
        hub.offer(made) if dice.random() < 0.6 else hub.wake()
        if dice.random() < 0.02:
            watches.append(hub.watch(dice.randrange(log.newest()), None))
    hub.wake()
    for watch in watches:
        found = revisions(watch, 1)
        while found[-1] < log.newest():
            found += revisions(watch, 1)
        assert found == list(range(found[0], log.newest() + 1))
    assert len(watches) > 1
