"""Events are counted, bounded, and never the reason that anything fails."""

from __future__ import annotations

import threading

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import Fenced, StoreUnavailable
from cumulus.machinery.leader import Elector
from cumulus.machinery.recorder import BURST, REFILL_SECONDS, EventRecorder
from cumulus.resources.event import Event
from cumulus.resources.job import GPUJob
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.node import GPUNode
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from cumulus.testing.faults import Faults
from tests.controllers.faulty import FaultyStore
from tests.controllers.objects import a_job
from tests.waiting import PATIENCE


class Desk:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock)
        self.faults = Faults()
        self.client = StoreClient(FaultyStore(self.store, self.faults))  # type: ignore[arg-type]
        self.recorder = EventRecorder(self.client, self.clock)
        self.job = StoreClient(self.store).create(a_job())

    def say(self, message: str = "exit code 1", job: GPUJob | None = None) -> None:
        self.recorder.record(job or self.job, "Warning", "AttemptFailed", message, component="job")

    def events(self) -> list[Event]:
        return StoreClient(self.store).list(Event)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_event_says_who_what_why_and_when(desk: Desk) -> None:
    desk.say()
    assert desk.recorder.flush() == 1
    (event,) = desk.events()
    about = event.involved_object
    assert (about.kind, about.namespace, about.name, about.uid) == ("GPUJob", "default", "train", desk.job.uid)
    assert (event.type, event.reason, event.message, event.count) == ("Warning", "AttemptFailed", "exit code 1", 1)
    assert event.source.component == "job"
    assert event.first_timestamp == event.last_timestamp != ""
    assert event.metadata.namespace == "default"


def test_a_repetition_counts(desk: Desk) -> None:
    desk.say()
    desk.say()
    desk.recorder.flush()
    desk.clock.advance(60)
    desk.say()
    desk.recorder.flush()
    (event,) = desk.events()
    assert event.count == 3
    assert event.first_timestamp < event.last_timestamp


def test_what_differs_is_another_event(desk: Desk) -> None:
    desk.say("exit code 1")
    desk.say("exit code 2")
    desk.recorder.flush()
    assert len(desk.events()) == 2


def test_many_events_are_one_write(desk: Desk) -> None:
    revision = desk.store.revision()
    writes: list[str] = []
    desk.faults.hook = lambda call, subject, when: writes.append(when)
    for number in range(10):
        desk.say(f"message {number}")
    desk.recorder.flush()
    assert writes == ["before", "after"]
    assert desk.store.revision() == revision + 10
    assert desk.recorder.flush() == 0


def test_a_flush_can_be_waited_for(desk: Desk) -> None:
    assert not desk.recorder.wait(0)
    desk.say()
    assert desk.recorder.wait(0)
    desk.recorder.flush()
    assert not desk.recorder.wait(0)
    writer = threading.Timer(0.05, desk.say)
    writer.start()
    assert desk.recorder.wait(PATIENCE)
    writer.join()


def test_a_crash_loop_cannot_flood(desk: Desk) -> None:
    for number in range(1000):
        desk.say(f"attempt {number}")
    desk.recorder.flush()
    assert len(desk.events()) == BURST
    desk.clock.advance(2 * REFILL_SECONDS)
    for number in range(1000):
        desk.say(f"later {number}")
    desk.recorder.flush()
    assert len(desk.events()) == BURST + 2


def test_one_objects_flood_leaves_others_their_events(desk: Desk) -> None:
    other = StoreClient(desk.store).create(a_job("other"))
    for number in range(1000):
        desk.say(f"attempt {number}")
    desk.say("quiet", other)
    desk.recorder.flush()
    assert "quiet" in [event.message for event in desk.events()]


def test_a_store_that_fails_loses_events_and_nothing_else(desk: Desk) -> None:
    desk.say()
    desk.faults.fail("write", StoreUnavailable("full"))
    assert desk.recorder.flush() == 0
    assert desk.events() == []
    desk.say()
    assert desk.recorder.flush() == 1


def test_only_lost_leadership_is_told(desk: Desk) -> None:
    elector = Elector(desk.store, "a", desk.clock)
    elector.step()
    assert elector.term is not None
    recorder = EventRecorder(StoreClient(desk.store, elector.term.fence), desk.clock)
    elector.release()
    Elector(desk.store, "b", desk.clock).step()
    recorder.record(desk.job, "Normal", "Started", "", component="job")
    with pytest.raises(Fenced):
        recorder.flush()


def test_an_event_about_a_node_lies_in_the_default_namespace_and_names_may_be_long(desk: Desk) -> None:
    node = StoreClient(desk.store).create(GPUNode(metadata=ObjectMeta(name="n" * 250)))
    desk.recorder.record(node, "Warning", "NotReady", "x" * 5000, component="node")
    desk.recorder.flush()
    (event,) = desk.events()
    assert (event.metadata.namespace, event.involved_object.name) == ("default", "n" * 250)
    assert len(event.message) == 1024


def test_the_next_daemon_counts_on(desk: Desk) -> None:
    """It does not remember what was said before it led, and finds it in the store."""
    desk.say()
    desk.say("exit code 2")
    desk.recorder.flush()
    successor = EventRecorder(desk.client, desk.clock)
    successor.record(desk.job, "Warning", "AttemptFailed", "exit code 3", component="job")
    successor.record(desk.job, "Warning", "AttemptFailed", "exit code 2", component="job")
    assert successor.flush() == 2
    assert {event.message: event.count for event in desk.events()} == {
        "exit code 1": 1,
        "exit code 2": 2,
        "exit code 3": 1,
    }
