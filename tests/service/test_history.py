"""The timeline as each viewer may see it, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cumulus import paths
from cumulus.answers.history import Span, Timeline
from cumulus.clock import FakeClock, timestamp
from cumulus.errors import Forbidden, UsageError
from cumulus.history.facts import to_milliseconds
from cumulus.history.recorder import HistoryRecorder
from cumulus.history.schema import reading
from cumulus.resources.key import Document, Key
from cumulus.resources.query import WatchEvent
from cumulus.resources.submitter import SUBMITTER
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from cumulus.stores import empty_store
from tests.documents import NOW, ago, ahead, node, partition
from tests.history.leases import MINUTE, Held
from tests.service.test_access import binding
from tests.waiting import eventually

ADMIN, ANN, EVE = Identity("root", 0), Identity("ann", 1001), Identity("eve", 1002)
START = to_milliseconds(NOW)
HOUR = 3_600_000
ANNS = Key("GPUJob", "lab", "old")


def _of(document: Document, namespace: str, job: str, user: str) -> Document:
    owner = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "name": job, "uid": f"u-{job}", "controller": True}
    document["metadata"] |= {
        "namespace": namespace, "ownerReferences": [owner], "annotations": {SUBMITTER: user}
    }  # fmt: skip
    return document


def _held(name: str, percent: int, start: int, minutes: int) -> Document:
    status = {
        "phase": "Active", "node": "gpu-1", "device": 0, "deviceName": "H100",
        "memoryBytes": 80 * 2**30 * percent // 100, "compute": percent * 10, "enforcement": "guarded",
        "activatedAt": ago(minutes=start), "expiresAt": ahead(minutes=minutes),
    }  # fmt: skip
    return _of(partition(name, status=status, memory=f"{percent}%"), "lab", name, "ann")


def _waits(name: str, minutes: int) -> Document:
    promise = {"startBy": ahead(minutes=minutes), "node": "gpu-1", "device": 0}
    return _of(partition(name, status={"phase": "Pending", "promise": promise}), "lab", name, "bob")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Ann's old lease is over, her job runs, and Bob's has a promise. Ann may read the lab, and Eve nothing."""
    store: MemoryStore = empty_store()  # type: ignore[assignment]
    store.create(binding("viewer", "User", "ann", "lab"))
    machine = node("gpu-1")
    machine["status"]["devices"][0]["foreignLeases"] = [
        {"partitionId": "x", "memoryBytes": 8 * 2**30, "compute": 100, "expiresAt": ahead(hours=9), "user": "carol"}
    ]
    store.create(machine)
    clock = FakeClock(NOW)
    old = Held(1, "ann", "old", "lab", "", "gpu-1", 0, -120 * MINUTE, -60 * MINUTE, 50)
    with closing(HistoryRecorder(paths.history_file(tmp_path), clock, retention=1e9, every=60)) as recorder:
        documents = [machine, *(document for _, document in old.states())]
        recorder.take("s", [WatchEvent("MODIFIED", n, document) for n, document in enumerate(documents, 1)])
    for document in (_held("runs", 50, 10, 50), _held("small", 25, 5, 20), _waits("later", 20)):
        store.create(document)
    made = Service(lambda: store, tmp_path, clock)
    yield made
    made.close()


def _timeline(service: Service, who: Identity, start: int = START - 6 * HOUR, end: int = START + 6 * HOUR) -> Timeline:
    return service.history.timeline(who, start, end, 1000)


def _spans(found: Timeline) -> dict[str, Span]:
    (lane,) = found["lanes"]
    assert (lane["node"], lane["device"], lane["uuid"], lane["healthy"]) == ("gpu-1", 0, "GPU-1", True)
    whats = [(span["kind"], span["start"], span["end"]) for span in lane["spans"]]
    assert len(whats) == len({*whats}), "each is there once"
    return {
        f"{span['kind']} {(span['start'] - START) // MINUTE} {(span['end'] - START) // MINUTE}": span
        for span in lane["spans"]
    }


def test_devices_that_are_held_are_shown(tmp_path: Path) -> None:
    store: MemoryStore = empty_store()  # type: ignore[assignment]
    store.create(node("gpu-1"))
    status = {"start": ahead(minutes=30), "end": ahead(minutes=90), "devices": [{"node": "gpu-1", "device": 0}]}
    spec = {"devices": 1, "start": status["start"], "duration": "1h"}
    named = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "Reservation", "metadata": {"name": "course"}}
    store.create({**named, "spec": spec, "status": status})
    with closing(Service(lambda: store, tmp_path, FakeClock(NOW))) as service:
        found = _spans(_timeline(service, EVE))
    assert list(found) == ["Reservation 30 90"]
    assert (found["Reservation 30 90"]["share"], found["Reservation 30 90"]["user"]) == (1.0, None)


def test_what_was_is_and_will_be(service: Service) -> None:
    found = _spans(_timeline(service, ADMIN))
    assert {what: (span["job"], span["user"], span["share"]) for what, span in found.items()} == {
        "Lease -120 -60": ("lab/old", "ann", 0.5), "Lease -10 50": ("lab/runs", "ann", 0.5),
        "Lease -5 20": ("lab/small", "ann", 0.25), "Lease 0 360": (None, "carol", 0.1),
        "Promise 20 80": ("lab/later", "bob", 0.5),
    }  # fmt: skip
    assert found["Promise 20 80"]["latestStart"] == START + 20 * MINUTE
    assert found["Lease -120 -60"]["phase"] == "Released"
    for one in found.values():
        for other in found.values():
            if one is not other and one["start"] < other["end"] and other["start"] < one["end"]:
                apart = (
                    one["offset"] + one["share"] <= other["offset"] or other["offset"] + other["share"] <= one["offset"]
                )
                assert apart or {one["kind"], other["kind"]} == {"Lease", "Promise"}


def test_who_may_not_read_the_namespace_sees_who_holds_what_now_and_not_who_did(service: Service) -> None:
    found = _spans(_timeline(service, EVE))
    assert {what: (span["job"], span["user"], span["enforcement"]) for what, span in found.items()} == {
        "Lease -120 -60": (None, None, ""), "Lease -10 50": ("lab/runs", "ann", ""),
        "Lease -5 20": ("lab/small", "ann", ""), "Lease 0 360": (None, "carol", ""),
        "Promise 20 80": ("lab/later", "bob", ""),
    }  # fmt: skip
    assert _spans(_timeline(service, ANN))["Lease -120 -60"]["job"] == "lab/old"


def test_reports_and_series_are_of_what_the_viewer_may_read(service: Service) -> None:
    report = service.history.report(ADMIN, START - 24 * HOUR)
    assert (report["whole"], report["total"]["heldGpuHours"]) == (True, 0.5)
    assert [row["name"] for row in report["rows"]] == ["ann"]
    anns = service.history.report(ANN, START - 24 * HOUR, by="node")
    assert (anns["whole"], [row["name"] for row in anns["rows"]]) == (False, ["gpu-1"])
    assert service.history.report(EVE, START - 24 * HOUR)["rows"] == []
    assert [row["job"] for row in service.history.lease_rows(ANN, START - 24 * HOUR)["rows"]] == ["old"]
    evil = service.history.lease_rows(EVE, START - 24 * HOUR)
    assert (evil["rows"], evil["whole"], evil["next"]) == ([], False, None)
    cut = service.history.lease_rows(ADMIN, START - 90 * MINUTE, START - 75 * MINUTE)["rows"]
    assert [row["heldGpuHours"] for row in cut] == [0.125]
    with pytest.raises(UsageError):
        service.history.lease_rows(ADMIN, 0, after=-1)
    assert service.history.held_over_time(EVE, START - HOUR, START)["series"] == []
    series = service.history.held_over_time(ADMIN, START - 2 * HOUR, START, 4)["series"]
    assert {one["name"]: one["held"] for one in series} == {"ann": [0.5, 0.5, 0, 0]}
    assert service.history.job_use(ANN, ANNS)["leases"][0]["end"] == START - HOUR
    with pytest.raises(Forbidden):
        service.history.job_use(EVE, ANNS)


def test_it_is_clipped_to_the_window(service: Service) -> None:
    found = _spans(_timeline(service, ADMIN, START - 90 * MINUTE, START - 80 * MINUTE))
    assert list(found) == ["Lease -90 -80"]


def test_a_change_is_seen_at_once(service: Service) -> None:
    _timeline(service, ADMIN)
    store = service.store
    key = Key("GPUPartition", "lab", "runs")
    runs = store.get(key)
    store.update_status({**runs, "status": {**runs["status"], "phase": "Released", "endedAt": ago(minutes=1)}})
    store.delete(Key("GPUPartition", "lab", "later"))
    store.create(_held("new", 10, 0, 60))
    eventually(lambda: {"Lease -10 -1", "Lease 0 60"} < set(_spans(_timeline(service, ADMIN))))
    assert not any(what.startswith("Promise") for what in _spans(_timeline(service, ADMIN)))


def test_what_is_reserved_and_for_whom(service: Service) -> None:
    _timeline(service, EVE)
    held = {"start": ahead(hours=1), "end": ahead(hours=2), "devices": [{"node": "gpu-1", "device": 0}]}
    made = service.store.create(
        {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "Reservation", "metadata": {"name": "course"},
            "spec": {"for": {"users": ["carl"], "queues": ["class"]}, "devices": 1, "schedule": "0 9 * * TUE",
                     "duration": "1h"}, "status": held,
        }
    )  # fmt: skip
    eventually(lambda: "Reservation 60 120" in _spans(_timeline(service, EVE)))
    span = _spans(_timeline(service, EVE))["Reservation 60 120"]
    assert (span["user"], span["share"], span["job"]) == ("carl, class", 1, None)
    service.store.delete(Key("Reservation", "", made["metadata"]["name"]))
    eventually(lambda: "Reservation 60 120" not in _spans(_timeline(service, EVE)))


def test_what_was_reserved_stays_on_the_timeline(service: Service, tmp_path: Path) -> None:
    """Of one that was held each day, one that was deleted halfway, and one that never began."""

    def told(name: str, start: int, end: int, *, deleted: bool = False) -> WatchEvent:
        moments = [timestamp(NOW + timedelta(minutes=minute)) for minute in (start, end)]
        status = {"start": moments[0], "end": moments[1], "devices": [{"node": "gpu-1", "device": 0}]}
        document = {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "Reservation", "metadata": {"name": name, "uid": name},
            "spec": {"for": {"users": ["carl"]}}, "status": status,
        }  # fmt: skip
        return WatchEvent("DELETED" if deleted else "MODIFIED", 50, document)

    clock = FakeClock(NOW - timedelta(minutes=300))
    with closing(HistoryRecorder(paths.history_file(tmp_path), clock, retention=1e9, every=60)) as recorder:
        recorder.take("s", [told("daily", -240, -180), told("cut", -240, -60), told("never", -100, -50)])
        clock.advance(100 * 60)
        recorder.take("s", [told("cut", -240, -60, deleted=True), told("never", -100, -50, deleted=True)])
        clock.advance(60 * 60)
        recorder.take("s", [told("daily", 1200, 1260), told("daily", 1200, 1260)])
    found = _spans(_timeline(service, ADMIN))
    assert {what: span["user"] for what, span in found.items() if span["kind"] == "Reservation"} == {
        "Reservation -240 -180": "carl", "Reservation -240 -200": "carl",
    }  # fmt: skip
    assert _spans(_timeline(service, EVE))["Reservation -240 -180"]["user"] is None
    with closing(HistoryRecorder(paths.history_file(tmp_path), clock, retention=60, every=60)) as recorder:
        recorder.compare("s", [], 60)
        recorder.forget()
    assert not any(what.startswith("Reservation") for what in _spans(_timeline(service, ADMIN)))
    with reading(paths.history_file(tmp_path)) as db:
        assert db is not None
        assert db.execute("SELECT count(*) FROM reserved").fetchone() == (0,), "the next time is not there either"


def test_without_a_history_what_is_held_now_is_told(service: Service, tmp_path: Path) -> None:
    other = Service(lambda: service.store, tmp_path / "elsewhere", FakeClock(NOW))
    found = _spans(_timeline(other, ADMIN))
    assert "Lease -10 50" in found
    assert other.history.report(ADMIN, START - HOUR)["rows"] == []
    assert other.history.job_use(ADMIN, ANNS)["leases"] == []


def test_a_node_that_takes_nothing_or_is_away(service: Service) -> None:
    machine = service.store.get(Key("GPUNode", "", "gpu-1"))
    service.store.update({**machine, "spec": {"unschedulable": True}})
    status = {**machine["status"], "devices": [{**machine["status"]["devices"][0], "fault": "Xid 79"}]}
    service.store.update_status({**machine, "metadata": {"name": "gpu-1"}, "status": status})
    other = Service(lambda: service.store, Path("/nowhere"), FakeClock(NOW))
    (lane,) = _timeline(other, EVE)["lanes"]
    assert not lane["healthy"]
    assert {span["kind"] for span in lane["spans"]} >= {"Drain", "Down"}


@pytest.mark.parametrize(
    "given",
    [
        {"start": 5, "end": 5}, {"start": -1, "end": 5}, {"start": 0, "end": 1 << 62}, {"pixels": 0},
        {"pixels": 10**6},
    ],
)  # fmt: skip
def test_what_makes_no_picture_is_refused(service: Service, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        service.history.timeline(EVE, **{"start": 0, "end": 10, "pixels": 10, **given})


def test_what_makes_no_report_is_refused(service: Service) -> None:
    with pytest.raises(UsageError, match="there is no report by no"):
        service.history.report(ADMIN, START - HOUR, by="no; DROP TABLE leases")
    with pytest.raises(UsageError):
        service.history.report(ADMIN, START + HOUR)
    with pytest.raises(UsageError):
        service.history.held_over_time(ADMIN, START - HOUR, START, 10**6)
