"""Group commit by itself: who leads, who waits, and that nobody is left waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cumulus.errors import Conflict
from cumulus.store import commit
from cumulus.store.base import Key, Write
from cumulus.store.commit import GroupCommit, Job, Writer
from tests.waiting import PATIENCE


class Disk:
    """A commit that waits for permission, so that others can queue up meanwhile."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Semaphore(0)
        self.permitted = threading.Semaphore(0)
        self.fail: BaseException | None = None

    def commit(self, jobs: list[Job]) -> None:
        self.batches.append([name(job) for job in jobs])
        self.started.release()
        assert self.permitted.acquire(timeout=PATIENCE)
        if self.fail is not None:
            raise self.fail
        for job in jobs:
            if name(job).startswith("bad"):
                job.error = Conflict("it changed")
            else:
                job.answers = [name(job).encode()]


def name(job: Job) -> str:
    assert job.writes[0].key is not None
    return job.writes[0].key.name


def writes(text: str) -> list[Write]:
    return [Write("delete", key=Key("Thing", "", text))]


class Writers:
    """Threads that each run one transaction, and what came of it."""

    def __init__(self, group: GroupCommit) -> None:
        self.group = group
        self.outcomes: dict[str, object] = {}
        self.threads: list[threading.Thread] = []

    def start(self, text: str, queued: Callable[[], bool]) -> None:
        """Start one and wait until it is queued or leads."""

        def run() -> None:
            try:
                self.outcomes[text] = self.group.run(writes(text), None)
            except BaseException as error:
                self.outcomes[text] = error

        thread = threading.Thread(target=run)
        self.threads.append(thread)
        thread.start()
        while not queued():
            assert thread.is_alive()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a writer was left waiting"


@pytest.fixture
def disk() -> Disk:
    return Disk()


def queue_up(disk: Disk, group: GroupCommit, *texts: str) -> Writers:
    """One writer leads and is held in its commit; the others wait behind it, in order."""
    writers = Writers(group)
    writers.start("first", lambda: bool(disk.batches))
    for n, text in enumerate(texts, 1):
        writers.start(text, lambda n=n: len(group._waiting) == n)  # type: ignore[misc]
    return writers


def test_those_who_come_during_a_commit_share_the_next(disk: Disk) -> None:
    writers = queue_up(disk, GroupCommit(disk.commit), "a", "bad", "b")
    disk.permitted.release(2)
    writers.join()
    assert disk.batches == [["first"], ["a", "bad", "b"]]
    assert isinstance(writers.outcomes.pop("bad"), Conflict)
    assert writers.outcomes == {"first": [b"first"], "a": [b"a"], "b": [b"b"]}


def test_nobody_returns_before_the_commit_did(disk: Disk) -> None:
    writers = queue_up(disk, GroupCommit(disk.commit), "a", "b")
    assert writers.outcomes == {}
    disk.permitted.release()
    for _ in range(2):
        assert disk.started.acquire(timeout=PATIENCE)
    writers.threads[0].join(PATIENCE)
    assert list(writers.outcomes) == ["first"]
    disk.permitted.release()
    writers.join()
    assert len(writers.outcomes) == 3


def test_a_failed_commit_is_everyones_error_and_the_next_goes_on(disk: Disk) -> None:
    group = GroupCommit(disk.commit)
    writers = queue_up(disk, group, "a", "b")
    disk.fail = ZeroDivisionError()
    disk.permitted.release(2)
    writers.join()
    assert all(isinstance(outcome, ZeroDivisionError) for outcome in writers.outcomes.values())
    disk.fail = None
    disk.permitted.release()
    assert group.run(writes("next"), None) == [b"next"]


def test_a_leader_that_is_interrupted_tells_the_others(disk: Disk) -> None:
    """Ctrl-C reaches the thread that leads; its followers are told that their writes are in doubt."""
    group = GroupCommit(disk.commit)
    writers = queue_up(disk, group, "a", "b", "c")
    disk.permitted.release()
    assert disk.started.acquire(timeout=PATIENCE)
    assert disk.started.acquire(timeout=PATIENCE)
    disk.fail = KeyboardInterrupt()
    disk.permitted.release()
    writers.join()
    outcomes = {text: type(outcome).__name__ for text, outcome in writers.outcomes.items()}
    assert outcomes == {"first": "list", "a": "KeyboardInterrupt", "b": "StoreUnavailable", "c": "StoreUnavailable"}
    disk.fail = None
    disk.permitted.release()
    assert group.run(writes("next"), None) == [b"next"]


def test_a_leader_interrupted_before_it_took_anyone(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    group = GroupCommit(disk.commit)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(group, "_gather", interrupt)
        with pytest.raises(KeyboardInterrupt):
            group.run(writes("gone"), None)
    disk.permitted.release()
    assert group.run(writes("next"), None) == [b"next"]
    assert disk.batches == [["next"]]


def test_no_batch_grows_without_bound(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "BATCH", 2)
    writers = queue_up(disk, GroupCommit(disk.commit), "a", "b", "c", "d", "e")
    disk.permitted.release(4)
    writers.join()
    assert disk.batches == [["first"], ["a", "b"], ["c", "d"], ["e"]]


def test_one_writer_brings_several_and_each_has_its_own_outcome(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are committed at once, also where they are more than a batch; those of others wait for the next."""
    monkeypatch.setattr(commit, "BATCH", 2)
    group = GroupCommit(disk.commit)
    writers = queue_up(disk, group)
    found: list[Job] = []
    several = threading.Thread(
        target=lambda: found.extend(group.run_each([writes(t) for t in ("a", "bad", "c")], None))
    )
    several.start()
    writers.threads.append(several)
    while len(group._waiting) < 1:
        assert several.is_alive()
    writers.start("d", lambda: len(group._waiting) == 2)
    disk.permitted.release(3)
    writers.join()
    assert disk.batches == [["first"], ["a", "bad", "c"], ["d"]]
    assert [job.answers for job in found] == [[b"a"], None, [b"c"]]
    assert [type(job.error) for job in found] == [type(None), Conflict, type(None)]


@pytest.mark.parametrize("others", [(), ("a",), ("a", "b")])
def test_an_interrupted_writer_leaves_the_queue(disk: Disk, others: tuple[str, ...]) -> None:
    """Ctrl-C while waiting: it is not committed, and the others are served as if it had never been there."""
    group = GroupCommit(disk.commit)
    writers = queue_up(disk, group, "gone", *others)
    writer = group._waiting[0]
    group._withdraw(writer)
    disk.permitted.release(2)
    for thread in (writers.threads[0], *writers.threads[2:]):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [text for batch in disk.batches for text in batch] == ["first", *others]
    writer.finished, writer.jobs[0].answers = True, []
    writer.turn.release()
    writers.join()


def test_a_writer_interrupted_as_it_was_to_lead_passes_it_on(disk: Disk) -> None:
    group = GroupCommit(disk.commit)
    first, second = Writer([Job(writes("first"), None)]), Writer([Job(writes("second"), None)])
    second.turn.acquire()
    group._busy = first.leads = True
    group._waiting = [first, second]
    group._withdraw(first)
    assert second.leads
    assert second.turn.acquire(blocking=False), "it was woken"
    group._withdraw(second)
    disk.permitted.release()
    assert group.run(writes("next"), None) == [b"next"], "nobody led, so the next does"
