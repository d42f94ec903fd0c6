"""The log of a job: which attempt, what is said between attempts, and when following ends."""

from __future__ import annotations

import pytest

from cumulus.answers.logs import (
    AttemptEnded,
    AttemptFollows,
    LogAwaits,
    LogBytes,
    LogPiece,
    NobodyActs,
    NoneFollowed,
    NothingWritten,
    ReplicaChosen,
)
from cumulus.clock import FakeClock
from cumulus.errors import NoLog, NotFound, UsageError
from cumulus.resources.key import Document, Key
from cumulus.service.access.access import Access
from cumulus.service.logs import Logs
from cumulus.service.objects import Objects
from cumulus.store.memory import MemoryStore
from tests.documents import ago, failed, job, partition
from tests.service.conftest import ME, FakeLogs

TRAIN = Key("GPUJob", "default", "train")
BEGUN = {"startTime": ago(minutes=5)}
OVER = {**BEGUN, "endTime": ago(minutes=4)}
DONE = {**OVER, "reason": "Completed", "exitCode": 0}
BROKEN = {**OVER, "reason": "Error", "exitCode": 3}


def status(*attempts: Document, phase: str = "Running") -> Document:
    numbered = [{"number": n, "node": f"gpu-{n}", **a} for n, a in enumerate(attempts, 1)]
    return {"phase": phase, "attemptCount": len(attempts), "attempts": numbered}


class Bed:
    """A job with a log, and whether a daemon runs."""

    def __init__(self, store: MemoryStore, clock: FakeClock) -> None:
        self.store = store
        self.files = FakeLogs()
        self.served = True
        access = Access(lambda: store, 0)
        self.logs = Logs(access, Objects(store, clock, access), self.files.reader, lambda: self.served)

    def tell(self, *attempts: Document, phase: str = "Running") -> None:
        self.store.update_status({**self.store.get(TRAIN), "status": status(*attempts, phase=phase)})

    def read(
        self, *, attempt: int = 0, replica: int | None = None, follow: bool = False, tail: int | None = None
    ) -> list[LogPiece]:
        return list(self.logs.read(ME, TRAIN, attempt=attempt, replica=replica, follow=follow, tail=tail))


@pytest.fixture
def bed(store: MemoryStore, clock: FakeClock) -> Bed:
    return Bed(store, clock)


def test_the_last_attempt_from_where_it_ran(bed: Bed) -> None:
    bed.store.create(job("train", status=status(BROKEN, BEGUN)))
    bed.files.chunks = {(1, 0): [b"one"], (2, 0): [b"two", b""]}
    assert bed.read(tail=7) == [LogBytes(2, b"two"), LogBytes(2, b"")]
    assert bed.read(attempt=1) == [LogBytes(1, b"one")]
    assert bed.files.asked == [("gpu-2", 2, 0, False, 7), ("gpu-1", 1, 0, False, None)]
    assert bed.files.open == 0


def test_one_of_several_replicas_is_chosen_and_named(bed: Bed) -> None:
    bed.store.create(failed("train", replicas=3))
    bed.files.chunks = {(1, 0): [b"zero"], (1, 2): [b"two"]}
    assert bed.read() == [ReplicaChosen(0, 3), LogBytes(1, b"zero")]
    assert bed.read(replica=2) == [LogBytes(1, b"two")]
    with pytest.raises(UsageError, match="has 3 replicas, counted from 0: there is no replica 3"):
        bed.logs.read(ME, TRAIN, replica=3)


@pytest.mark.parametrize("replica", [-1, 1])
def test_a_job_of_one_replica_has_no_other(bed: Bed, replica: int) -> None:
    bed.store.create(failed("train"))
    with pytest.raises(UsageError, match=f"has one replica, 0: there is no replica {replica}"):
        bed.logs.read(ME, TRAIN, replica=replica)


def test_what_has_no_log(bed: Bed) -> None:
    with pytest.raises(NotFound):
        bed.logs.read(ME, TRAIN)
    bed.store.create(partition("p"))
    with pytest.raises(UsageError):
        bed.logs.read(ME, Key("GPUPartition", "default", "p"))
    bed.store.create(job("train"))
    with pytest.raises(NoLog, match="has not started yet: Pending"):
        bed.read()
    bed.tell(BEGUN)
    with pytest.raises(NoLog, match="there is no log of an attempt 2"):
        bed.read(attempt=2)


def test_silence_says_how_it_ended(bed: Bed) -> None:
    bed.store.create(job("train", status=status(BEGUN)))
    bed.files.chunks = {(9, 9): []}
    assert bed.read() == [NothingWritten(1)]
    assert bed.read(tail=0) == []
    bed.tell({**BROKEN, "message": "no space"})
    assert bed.read() == [AttemptEnded(1, "Error, exit code 3: no space", wrote=False)]


def test_following_goes_from_attempt_to_attempt(bed: Bed) -> None:
    bed.store.create(job("train", status=status(BEGUN)))
    bed.files.chunks = {(1, 0): [b"one"], (2, 0): [b"two"]}

    def ended(attempt: int) -> None:
        if attempt == 1:
            bed.tell(BROKEN, BEGUN)
        else:
            bed.tell(BROKEN, DONE, phase="Succeeded")

    bed.files.ended = ended
    assert bed.read(follow=True, tail=5) == [
        LogBytes(1, b"one"), AttemptEnded(1, "Error, exit code 3", wrote=True), AttemptFollows(2), LogBytes(2, b"two"),
    ]  # fmt: skip
    assert [asked[1:] for asked in bed.files.asked] == [(1, 0, True, 5), (2, 0, True, None)]


def test_following_one_attempt_ends_with_it(bed: Bed) -> None:
    bed.store.create(job("train", status=status(BROKEN, BEGUN)))
    bed.files.chunks = {(1, 0): [b"one"]}
    assert bed.read(follow=True, attempt=1) == [LogBytes(1, b"one"), AttemptEnded(1, "Error, exit code 3", wrote=True)]


def test_a_job_that_is_over_without_another_attempt(bed: Bed) -> None:
    bed.store.create(job("train", status=status(BROKEN, phase="Pending")))
    bed.files.chunks = {(1, 0): [b"one"]}
    pieces = bed.logs.read(ME, TRAIN, follow=True)
    seen = [next(pieces), next(pieces), next(pieces)]
    assert seen[-1] == LogAwaits("start", "Pending")
    bed.tell(BROKEN, phase="Failed")
    assert list(pieces) == [NoneFollowed("Failed")]


def test_without_a_daemon_nobody_starts_it_or_tells_its_end(bed: Bed) -> None:
    bed.served = False
    bed.store.create(job("train"))
    bed.files.chunks = {(1, 0): [b"one"]}
    pieces = bed.logs.read(ME, TRAIN, follow=True)
    assert [next(pieces), next(pieces)] == [NobodyActs("start"), LogAwaits("start", "Pending")]
    bed.tell(BEGUN)
    assert list(pieces) == [LogBytes(1, b"one"), NobodyActs("end")]


def test_a_job_that_is_deleted_meanwhile(bed: Bed) -> None:
    bed.store.create(job("train"))
    pieces = bed.logs.read(ME, TRAIN, follow=True)
    assert next(pieces) == LogAwaits("start", "Pending")
    bed.store.delete(TRAIN)
    bed.store.create(job("train", status=status(BEGUN)))
    with pytest.raises(NoLog, match="gpujob/train was deleted"):
        list(pieces)


def test_who_stops_reading_leaves_nothing_open(bed: Bed) -> None:
    bed.store.create(job("train", status=status(BEGUN)))
    bed.files.chunks = {(1, 0): [b"one", b"two"]}
    pieces = bed.logs.read(ME, TRAIN, follow=True)
    assert next(pieces) == LogBytes(1, b"one")
    assert bed.files.open == 1
    pieces.close()  # type: ignore[attr-defined]
    assert bed.files.open == 0
