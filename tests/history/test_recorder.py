"""What is recorded equals the simplest account of the same schedule, whatever dies on the way."""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.clock import FakeClock
from cumulus.errors import StoreUnavailable
from cumulus.history import exported, of_job, schema, spans, totals
from cumulus.history.facts import WHOLE, to_milliseconds
from cumulus.history.recorder import HistoryRecorder
from cumulus.history.schema import reading
from cumulus.history.series import Sample
from cumulus.history.timeline import TimeWindow
from cumulus.resources.query import WatchEvent
from tests.documents import NOW
from tests.history.leases import BEGIN, MINUTE, Held, Schedule, at, in_batches, machine

STORE = "cumulus:here"
ALL = 10_000 * MINUTE
DAY = 86400.0


class Killed(BaseException):
    """The process dies here."""


class Deadly(dict[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise Killed


def _recorder(directory: Path, clock: FakeClock | None = None, retention: float = 3650 * DAY) -> HistoryRecorder:
    return HistoryRecorder(directory / "history" / "h.db", clock or FakeClock(NOW), retention=retention, every=60)


def _hours(directory: Path, since: int, until: int, by: Any) -> dict[str, float]:
    with reading(directory / "history" / "h.db") as db:
        assert db is not None
        found, _ = totals.totals(db, totals.TimeRange(BEGIN + since, BEGIN + until, BEGIN + ALL), by, lambda _: True)
        return {name: total.held / 1000 / 3_600_000 for name, total in found.items()}


def _exported(directory: Path, since: int, until: int, of: str) -> Mapping[str, float]:
    """The same of the leases' rows."""
    found: defaultdict[str, float] = defaultdict(float)
    after: int | None = 0
    with reading(directory / "history" / "h.db") as db:
        assert db is not None
        while after is not None:
            time = totals.TimeRange(BEGIN + since, BEGIN + until, BEGIN + ALL)
            rows, after = exported.rows(db, time, after, lambda _: True)
            for row in rows:
                found[cast("dict[str, str]", row)[of]] += row["heldGpuHours"]
    return found


def _record(recorder: HistoryRecorder, events: list[WatchEvent], rng: random.Random) -> None:
    """As a daemon that dies again and again, and reads the log from where the file says it was."""
    while True:
        position = recorder.position(STORE) or 0
        left = events[position:]
        if not left:
            return
        try:
            for some in in_batches(left, rng):
                deadly = rng.random() < 0.3
                recorder.take(STORE, [*some, WatchEvent("MODIFIED", 0, Deadly())] if deadly else some)
        except Killed:
            continue
        if (recorder.position(STORE) or 0) == position:
            return


@settings(max_examples=6)
@given(st.integers(0, 2**32), st.integers(0, 600 * MINUTE), st.integers(1, 600 * MINUTE))
def test_a_history_is_what_a_naive_account_says(
    tmp_path_factory: pytest.TempPathFactory, seed: int, since: int, length: int
) -> None:
    directory = tmp_path_factory.mktemp("h")
    schedule, rng = Schedule(seed), random.Random(seed)
    recorder = _recorder(directory)
    with closing(recorder):
        _record(recorder, schedule.events(), rng)
        for by, of in (("user", "user"), ("queue", "queue"), ("node", "node")):
            for first, last in ((0, ALL), (since, since + length)):
                wanted = schedule.hours(first, last, of)
                found = {name: hours for name, hours in _hours(directory, first, last, by).items() if hours}
                assert found == {name: pytest.approx(hours) for name, hours in wanted.items() if hours}
                summed = _exported(directory, first, last, of)
                for name in wanted.keys() | summed.keys():
                    assert summed[name] == pytest.approx(wanted.get(name, 0), abs=1e-3)
        _check_lanes(directory, schedule)


def _check_lanes(directory: Path, schedule: Schedule) -> None:
    """Each lease is where it was, and no two are at one place at once."""
    window = TimeWindow(BEGIN, BEGIN + ALL, BEGIN + ALL)
    with reading(directory / "history" / "h.db") as db:
        assert db is not None
        lanes = {(d.node, d.number): found for d, found in spans.past(db, window, 10**9, lambda span, _, over: span)}
    area = sum((h.end - h.start) * h.share / 100 for h in schedule.held)
    told = [span for found in lanes.values() for span in found]
    assert sum((s["end"] - s["start"]) * s["share"] for s in told) == pytest.approx(area, rel=1e-3)
    for found in lanes.values():
        for index, one in enumerate(found):
            assert one["offset"] >= 0
            assert one["offset"] + one["share"] <= 1 + 1 / WHOLE
            for other in found[index + 1 :]:
                at_once = one["start"] < other["end"] and other["start"] < one["end"]
                above = one["offset"] + one["share"] <= other["offset"] + 1e-9
                below = other["offset"] + other["share"] <= one["offset"] + 1e-9
                assert not at_once or above or below


@settings(max_examples=3)
@given(st.integers(0, 2**32), st.integers(1, 2000))
def test_what_is_merged_has_the_area_of_all_it_stands_for(
    tmp_path_factory: pytest.TempPathFactory, seed: int, pixels: int
) -> None:
    directory = tmp_path_factory.mktemp("h")
    schedule = Schedule(seed, count=80)
    with closing(_recorder(directory)) as recorder:
        recorder.take(STORE, schedule.events())
    window = TimeWindow(BEGIN, BEGIN + 700 * MINUTE, BEGIN + ALL)
    with reading(directory / "history" / "h.db") as db:
        assert db is not None
        told = [span for _, found in spans.past(db, window, pixels, lambda span, _, over: span) for span in found]
    area = sum((min(h.end, 700 * MINUTE) - h.start) * h.share / 100 for h in schedule.held)
    assert sum((s["end"] - s["start"]) * s["share"] for s in told) == pytest.approx(area, rel=0.02)
    assert sum(s["merged"] for s in told) >= len(schedule.held)
    step = 700 * MINUTE // pixels
    assert all(s["end"] - s["start"] < 2 * step for s in told if s["merged"] > 1)


def test_the_same_log_twice_is_the_same_history(tmp_path: Path) -> None:
    schedule = Schedule(1)
    with closing(_recorder(tmp_path)) as recorder:
        recorder.take(STORE, schedule.events())
        before = _dump(tmp_path)
        recorder.take(STORE, schedule.events())
        recorder.reload()
        recorder.take(STORE, schedule.events())
        assert _dump(tmp_path) == before


def _dump(directory: Path) -> list[Any]:
    with closing(sqlite3.connect(directory / "history" / "h.db")) as db:
        return [
            db.execute(f"SELECT * FROM {table}").fetchall() for table in ("leases", "devices", "promises", "states")
        ]


def _one(number: int = 0, start: int = 0, end: int = 60 * MINUTE, **more: Any) -> Held:
    given: dict[str, Any] = {"user": "ann", "job": "train", "namespace": "lab", "queue": "q", "node": "gpu-1",
                             "device": 0, "share": 50}  # fmt: skip
    return Held(number=number, start=start, end=end, **{**given, **more})


def _events(*documents: Any) -> list[WatchEvent]:
    return [WatchEvent("MODIFIED", n, document) for n, document in enumerate(documents, 1)]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def recorder(tmp_path: Path, clock: FakeClock) -> Iterator[HistoryRecorder]:
    with closing(_recorder(tmp_path, clock)) as made:
        yield made


class TestGaps:
    def test_what_ended_while_nobody_recorded_is_taken_from_status(
        self, recorder: HistoryRecorder, tmp_path: Path
    ) -> None:
        held = _one()
        *_, (_, active), (_, over) = held.states()
        recorder.take(STORE, _events(machine("gpu-1"), active))
        recorder.reload()
        recorder.compare(STORE, [machine("gpu-1"), over], 900)
        assert recorder.position(STORE) == 900
        assert _hours(tmp_path, 0, ALL, "user") == {"ann": 0.5}

    def test_what_is_gone_without_a_word_ended_when_it_had_to(
        self, recorder: HistoryRecorder, tmp_path: Path, clock: FakeClock
    ) -> None:
        *_, (_, active), _ = _one().states()
        recorder.take(STORE, _events(machine("gpu-1"), active))
        clock.advance(50 * 3600)
        recorder.compare(STORE, [machine("gpu-1")], 900)
        assert _hours(tmp_path, 0, ALL, "user") == {"ann": 5.0}, "it lasts ten hours at most"

    def test_another_store_has_nothing_recorded(self, recorder: HistoryRecorder) -> None:
        recorder.take(STORE, _events(machine("gpu-1")))
        assert recorder.position(STORE) == 1
        assert recorder.position("cumulus:other") is None

    def test_a_damaged_object_keeps_no_other_from_being_recorded(
        self, recorder: HistoryRecorder, tmp_path: Path
    ) -> None:
        *_, (_, over) = _one().states()
        broken = {"kind": "GPUPartition", "metadata": {"name": "x", "uid": "x"}, "status": {"device": "no"}}
        recorder.take(STORE, _events(machine("gpu-1"), broken, {"kind": "GPUNode", "metadata": {}}, over))
        assert _hours(tmp_path, 0, ALL, "user") == {"ann": 0.5}

    def test_a_damaged_file_is_kept_aside_and_a_new_one_begins(self, tmp_path: Path, clock: FakeClock) -> None:
        file = tmp_path / "history" / "h.db"
        file.parent.mkdir()
        file.write_bytes(b"no database" * 1000)
        with closing(_recorder(tmp_path, clock)) as recorder:
            recorder.take(STORE, _events(machine("gpu-1")))
        assert (tmp_path / "history" / "h.db.damaged").read_bytes().startswith(b"no database")

    def test_a_file_of_other_tables_is_said_to_be_one_and_stays(self, tmp_path: Path, clock: FakeClock) -> None:
        file = tmp_path / "history" / "h.db"
        with closing(_recorder(tmp_path, clock)) as recorder:
            recorder.take(STORE, _events(machine("gpu-1")))
        with closing(sqlite3.connect(file)) as db:
            db.execute("ALTER TABLE leases DROP COLUMN parked")
        before = file.read_bytes()
        with (
            closing(_recorder(tmp_path, clock)) as recorder,
            pytest.raises(StoreUnavailable, match="other tables") as told,
        ):
            recorder.take(STORE, _events(machine("gpu-1")))
        assert "move the file away" in (told.value.hint or "")
        with pytest.raises(StoreUnavailable, match="other tables"), schema.reading(file):
            raise AssertionError("it was read")
        assert file.read_bytes() == before

    def test_who_reads_a_damaged_file_is_told_what_to_do(self, tmp_path: Path) -> None:
        file = tmp_path / "h.db"
        file.write_bytes(b"no database" * 1000)
        with pytest.raises(StoreUnavailable, match="not a database") as told, schema.reading(file):
            raise AssertionError("it was read")
        assert "move the file away" in (told.value.hint or "")


class TestUse:
    def test_samples_are_the_series_of_the_lease_and_its_used_hours(
        self, recorder: HistoryRecorder, tmp_path: Path, clock: FakeClock
    ) -> None:
        held = _one()
        *_, (_, active), (_, over) = held.states()
        recorder.take(STORE, _events(machine("gpu-1"), active))
        for _ in range(59):
            clock.advance(60)
            recorder.sampled("gpu-1", {held.uid: Sample(1.2, 0.25), "another": Sample(1, 1)})
        clock.advance(60)
        recorder.take(STORE, [WatchEvent("MODIFIED", 9, over)])
        with reading(tmp_path / "history" / "h.db") as db:
            assert db is not None
            (found,) = of_job.series(db, "lab", "train")
            total = totals.totals(db, totals.TimeRange(BEGIN, BEGIN + ALL, BEGIN + ALL), "user", lambda _: True)[1]
        assert (found["used"], found["busy"]) == ([1.2] * 59, [0.25] * 59)
        row = total.row("user", "", "", "")
        assert (row["heldGpuHours"], row["usedGpuHours"], row["idleGpuHours"]) == (0.5, 0.125, 0.375)
        assert row["unknownGpuHours"] == 0

    def test_what_nobody_knows_is_neither_used_nor_idle(
        self, recorder: HistoryRecorder, tmp_path: Path, clock: FakeClock
    ) -> None:
        held = _one()
        *_, (_, active), _ = held.states()
        recorder.take(STORE, _events(machine("gpu-1"), active))
        clock.advance(600)
        recorder.sampled("gpu-1", {held.uid: Sample(0.5, None)})
        now = to_milliseconds(clock.now())
        with reading(tmp_path / "history" / "h.db") as db:
            assert db is not None
            row = totals.totals(db, totals.TimeRange(BEGIN, now, now), "user", lambda _: True)[1].row(
                "user", "", "", ""
            )
        assert row["usedGpuHours"] == row["idleGpuHours"] == 0
        assert row["unknownGpuHours"] == row["heldGpuHours"] > 0


class TestPromises:
    def _promised(self, held: Held, start_by: int) -> Any:
        return held.document(phase="Pending", promise={"startBy": at(start_by), "node": "gpu-1", "device": 0})

    def _outcome(self, directory: Path) -> tuple[int, int, float | None, float | None]:
        with reading(directory / "history" / "h.db") as db:
            assert db is not None
            whole = totals.totals(db, totals.TimeRange(BEGIN - 1, BEGIN + ALL, BEGIN + ALL), "queue", lambda _: True)[1]
        row = whole.row("queue", "", "", "")
        return (
            row["promises"], row["promisesKept"], row["medianPromisedWaitSeconds"], row["medianActualWaitSeconds"]
        )  # fmt: skip

    def test_a_start_in_time_keeps_it(self, recorder: HistoryRecorder, tmp_path: Path) -> None:
        held = _one(start=20 * MINUTE)
        recorder.take(STORE, _events(machine("gpu-1"), self._promised(held, 30 * MINUTE)))
        assert self._outcome(tmp_path)[0] == 0, "nobody knows yet"
        recorder.take(STORE, [WatchEvent("MODIFIED", n, d) for n, (_, d) in enumerate(held.states()[1:], 5)])
        assert self._outcome(tmp_path) == (1, 1, 1800.0, 1200.0)

    def test_the_best_word_that_was_given_counts(self, recorder: HistoryRecorder, tmp_path: Path) -> None:
        held = _one(start=20 * MINUTE)
        words = [self._promised(held, minutes * MINUTE) for minutes in (30, 10, 40)]
        recorder.take(STORE, _events(machine("gpu-1"), *words))
        recorder.take(STORE, [WatchEvent("MODIFIED", n, d) for n, (_, d) in enumerate(held.states()[1:], 9)])
        assert self._outcome(tmp_path) == (1, 0, 600.0, 1200.0)

    def test_who_gave_up_in_time_was_not_let_down(
        self, recorder: HistoryRecorder, tmp_path: Path, clock: FakeClock
    ) -> None:
        for number, minutes in ((0, 5), (1, 40)):
            held = _one(number, job=f"job-{number}")
            recorder.take(STORE, _events(machine("gpu-1"), self._promised(held, 30 * MINUTE)))
            clock.advance(60 * minutes)
            recorder.take(STORE, [WatchEvent("DELETED", 9, self._promised(held, 30 * MINUTE))])
        assert self._outcome(tmp_path)[:2] == (1, 0)

    def test_a_gang_has_one(self, recorder: HistoryRecorder, tmp_path: Path) -> None:
        owner = _one(0).document()["metadata"]["ownerReferences"]
        told = []
        for number in range(3):
            held = _one(number, start=20 * MINUTE)
            for document in (self._promised(held, 30 * MINUTE), *(d for _, d in held.states()[1:])):
                document["metadata"]["ownerReferences"] = owner
                told.append(document)
        told.sort(key=lambda d: ("Pending", "Bound", "Active", "Released").index(d["status"]["phase"]))
        recorder.take(STORE, _events(machine("gpu-1"), *told))
        assert self._outcome(tmp_path)[:2] == (1, 1)


class TestNodes:
    def test_leases_made_on_the_node_last_as_long_as_they_are_told(
        self, recorder: HistoryRecorder, tmp_path: Path, clock: FakeClock
    ) -> None:
        with_lease = machine("gpu-1")
        with_lease["status"]["devices"][0]["foreignLeases"] = [
            {
                "partitionId": "x",
                "memoryBytes": 40 * 2**30,
                "compute": 500,
                "expiresAt": at(600 * MINUTE),
                "user": "eve",
            }
        ]
        recorder.take(STORE, _events(with_lease))
        clock.advance(1800)
        recorder.reload()
        recorder.take(STORE, [WatchEvent("MODIFIED", 2, with_lease)])
        clock.advance(1800)
        recorder.take(STORE, [WatchEvent("MODIFIED", 3, machine("gpu-1"))])
        assert _hours(tmp_path, 0, ALL, "user") == {"eve": 0.5}

    def test_drains_and_failures_have_a_begin_and_an_end(
        self, recorder: HistoryRecorder, tmp_path: Path, clock: FakeClock
    ) -> None:
        broken = machine("gpu-1")
        broken["status"]["devices"][1]["fault"] = "Xid 79"
        for minutes, document in (
            (0, machine("gpu-1", unschedulable=True)), (10, machine("gpu-1")), (20, broken),
            (30, machine("gpu-1", ready=False)), (40, machine("gpu-1")),
        ):  # fmt: skip
            clock.advance(to_seconds(clock, minutes))
            recorder.take(STORE, [WatchEvent("MODIFIED", minutes + 1, document)])
        window = TimeWindow(BEGIN, BEGIN + ALL, BEGIN + ALL)
        with reading(tmp_path / "history" / "h.db") as db:
            assert db is not None
            found = sorted(
                (kind, index, (start - BEGIN) // MINUTE, None if end is None else (end - BEGIN) // MINUTE)
                for _, index, kind, start, end in spans.states(db, window)
            )
        assert found == [("Down", -1, 30, 40), ("Down", 1, 20, 30), ("Drain", -1, 0, 10)]


def to_seconds(clock: FakeClock, minutes: int) -> float:
    """From now until so many minutes after the begin."""
    return (BEGIN + minutes * MINUTE - to_milliseconds(clock.now())) / 1000


def test_what_is_over_for_long_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    clock = FakeClock(NOW)
    with closing(_recorder(tmp_path, clock, retention=DAY)) as recorder:
        old = [_one(n, job=f"old-{n}") for n in range(5)]
        recorder.take(STORE, _events(machine("gpu-1"), *(d for held in old for _, d in held.states())))
        runs = _one(7, start=2 * MINUTE, job="runs")
        *_, (_, active), _ = runs.states()
        recorder.take(STORE, [WatchEvent("MODIFIED", 90, active)])
        recorder.sampled("gpu-1", {runs.uid: Sample(1, 1)})
        clock.advance(DAY + 3601)
        assert recorder.forget() == 5
        assert recorder.forget() == 0
        *_, (_, over) = runs.states()
        recorder.take(STORE, [WatchEvent("MODIFIED", 91, over)])
    with closing(sqlite3.connect(tmp_path / "history" / "h.db")) as db:
        names = {text for (text,) in db.execute("SELECT text FROM names")}
        assert db.execute("SELECT count(*) FROM leases").fetchone() == (1,)
    assert "runs" in names
    assert not any(name.startswith("old") for name in names)


class TestParking:
    def test_a_program_in_main_memory_holds_no_share(self, recorder: HistoryRecorder, tmp_path: Path) -> None:
        """Held for an hour, parked for one, held for half an hour, and parked until it was over."""
        held = _one()
        placed = held.states()[2][1]["status"]
        parked = {**placed, "phase": "Parked", "parked": {"since": at(60 * MINUTE)}}
        coming = {**parked, "phase": "Unparking"}
        again = {**parked, "phase": "Active", "activatedAt": at(120 * MINUTE)}
        twice = {**again, "phase": "Parked", "parked": {"since": at(150 * MINUTE)}}
        over = {**twice, "phase": "Expired", "endedAt": at(180 * MINUTE)}
        told = [machine("gpu-1"), *(held.document(**status) for status in (placed, parked, coming, again, twice, over))]
        recorder.take(STORE, _events(*told))
        window = TimeWindow(BEGIN, BEGIN + ALL, BEGIN + ALL)
        with reading(tmp_path / "history" / "h.db") as db:
            assert db is not None
            ((_, found),) = spans.past(db, window, 10**9, lambda span, _, over: span)
            assert spans.is_over(db, held.uid)
        assert sorted(
            ((span["start"] - BEGIN) // MINUTE, (span["end"] - BEGIN) // MINUTE, span["kind"], span["share"])
            for span in found
        ) == [(0, 60, "Lease", 0.5), (60, 120, "Parked", 0), (120, 150, "Lease", 0.5), (150, 180, "Parked", 0)]
        assert _hours(tmp_path, 0, ALL, "user") == {"ann": 0.75}
