"""`drain --at`, and what takes it back: a Reservation of the node for nobody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cumulus.cli import moments
from cumulus.clock import SystemClock, timestamp
from cumulus.errors import NotFound, UsageError
from cumulus.resources.key import API_VERSION, Document, Key
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import node

KEY = Key("Reservation", "", "drain-gpu-1")
NOW = datetime(2030, 1, 31, 12, 30, tzinfo=UTC)


def spec(store: SqliteStore) -> Document:
    found = store.get(KEY)["spec"]
    assert isinstance(found, dict)
    return found


def reservation(start: datetime, **more: object) -> Document:
    wanted = {"nodes": ["gpu-1"], "start": timestamp(start), "duration": "2h", **more}
    return {"apiVersion": API_VERSION, "kind": "Reservation", "metadata": {"name": KEY.name}, "spec": wanted}


def test_it_is_made_moved_and_taken_back(store: SqliteStore, run: Run) -> None:
    store.create(node("gpu-1"))
    done = run("drain", "gpu-1", "--at", "2099-01-31T09:00:00+01:00", "--for", "2h")
    said = "gpunode.cumulus.dev/gpu-1 will be drained from 2099-01-31T08:00:00Z on, for 2h\n"
    assert (done.code, done.out) == (0, said)
    assert spec(store)["nodes"] == ["gpu-1"]
    assert (spec(store)["start"], spec(store)["duration"]) == ("2099-01-31T08:00:00.000000Z", "2h")
    assert "until `cumulus uncordon gpu-1`" in run("node", "drain", "gpu-1", "--at", "2099-02-01T09:00Z").out
    assert (spec(store)["start"], spec(store)["duration"]) == ("2099-02-01T09:00:00.000000Z", "365d")
    assert run("node", "drain", "gpu-1", "--cancel").code == 0
    with pytest.raises(NotFound):
        store.get(KEY)
    assert run("drain", "gpu-1", "--cancel").out == "gpunode.cumulus.dev/gpu-1 is not to be drained\n"


def test_uncordon_ends_one_that_has_begun_alone(store: SqliteStore, run: Run) -> None:
    store.create(node("gpu-1"))
    now = SystemClock().now()
    store.create(reservation(now + timedelta(days=1)))
    done = run("uncordon", "gpu-1")
    assert done.out == "gpunode.cumulus.dev/gpu-1 already uncordoned\n"
    assert "take that back with: cumulus node drain gpu-1 --cancel" in done.err
    store.delete(KEY)
    store.create(reservation(now - timedelta(minutes=5)))
    assert run("uncordon", "gpu-1").out == "gpunode.cumulus.dev/gpu-1 uncordoned\n"
    with pytest.raises(NotFound):
        store.get(KEY)


def test_what_was_made_for_something_else_stays(store: SqliteStore, run: Run) -> None:
    store.create(node("gpu-1"))
    store.create(reservation(SystemClock().now(), **{"for": {"users": ["eve"]}}))
    for words in (("drain", "gpu-1", "--at", "2h"), ("drain", "gpu-1", "--cancel")):
        refused = run(*words)
        assert (refused.code, refused.out) == (2, "")
        assert "the Reservation drain-gpu-1 was made for something else" in refused.err
    run("uncordon", "gpu-1")
    assert spec(store)["for"] == {"users": ["eve"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("gpu-1 --at yesterday", "--at: 'yesterday' is no time; write 2030-01-31T09:00:00Z, 22:00 for the next 22:00"),
        ("gpu-1 --at 2001-01-01T00:00Z", "--at: '2001-01-01T00:00Z' is over"),
        ("gpu-1 --at 2h --now", "--now and --timeout are for a drain now"),
        ("gpu-1 --for 2h", "--for is for a drain at a time; as in --at 22:00 --for 2h"),
        ("gpu-1 --at 2h --for soon", "--for: 'soon' is not a duration"),
        ("gpu-1 --at 2h --cancel", "--cancel takes back what --at said; give one of them"),
        ("gpu-2 --at 2h", "gpunode.cumulus.dev 'gpu-2' not found"),
    ],
)
def test_what_is_wrong_is_said(store: SqliteStore, run: Run, words: str, said: str) -> None:
    store.create(node("gpu-1"))
    done = run("node", "drain", *words.split())
    assert (done.code != 0, done.out) == (True, "")
    assert f"error: {said}" in done.err


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("2h", timedelta(hours=2)), ("1h30m", timedelta(minutes=90)), ("13:00", timedelta(minutes=30)),
        ("9:00", timedelta(hours=20, minutes=30)), ("2030-02-01T12:30:00Z", timedelta(days=1)),
        ("2030-02-01T12:30+01:00", timedelta(hours=23)),
    ],
)  # fmt: skip
def test_moments_to_come(text: str, after: timedelta) -> None:
    # The clock of a wall depends on the machine's zone.
    now = NOW if ":" not in text or "-" in text else NOW.astimezone().replace(hour=12, minute=30)
    assert moments.to_come(text, "--at", now) - now == after


@pytest.mark.parametrize("text", ["", "0s", "90", "25:00", "9", "9999-12-31T23:59:59-23:00", "x"])
def test_what_is_no_moment_to_come(text: str) -> None:
    with pytest.raises(UsageError):
        moments.to_come(text, "--at", NOW)
