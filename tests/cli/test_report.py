from __future__ import annotations

import csv
import io
import json
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cumulus import paths
from cumulus.answers.history import LeaseRow
from cumulus.clock import FakeClock
from cumulus.history.recorder import HistoryRecorder
from cumulus.resources.query import WatchEvent
from tests.cli.conftest import Run
from tests.documents import NOW
from tests.history.leases import MINUTE, Held, machine

EVIL = "=HYPERLINK(1)\x1b[31m"
SINCE = ("--since", (NOW - timedelta(hours=1)).isoformat(), "--until", (NOW + timedelta(hours=9)).isoformat())


@pytest.fixture(autouse=True)
def history(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ann held half a device for two hours, and somebody with a name a tenth of one for an hour."""
    clock = FakeClock(NOW)
    held = [
        Held(1, "ann", "train", "lab", "vision", "gpu-1", 0, 0, 120 * MINUTE, 50),
        Held(2, EVIL, "x", "lab", "", "gpu-1", 1, 0, 60 * MINUTE, 10),
    ]
    with closing(HistoryRecorder(paths.history_file(home), clock, retention=1e12, every=60)) as recorder:
        documents = [machine("gpu-1"), *(document for one in held for _, document in one.states())]
        recorder.take("s", [WatchEvent("MODIFIED", n, document) for n, document in enumerate(documents, 1)])
    # The report ends now at the latest.
    monkeypatch.setattr("cumulus.clock.SystemClock.now", lambda self: NOW + timedelta(days=1))


def test_a_table(run: Run) -> None:
    done = run("report", *SINCE)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["USER", "LEASES", "GPU-HOURS"]
    assert lines[1].split()[:3] == ["ann", "1", "1.0"]
    assert lines[3].split()[:3] == ["TOTAL", "2", "1.1"]
    assert "\x1b" not in done.out


def test_json_lines_have_the_same_names_and_types(run: Run) -> None:
    done = run("report", *SINCE, "--by", "queue", "-o", "jsonl")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["name"] for row in rows] == ["vision", ""]
    assert [list(row) for row in rows] == [list(rows[0])] * 2
    assert [type(row["usedGpuHours"]) for row in rows] == [float, float]
    assert rows[0]["heldGpuHours"] == 1.0


def test_no_cell_is_a_formula(run: Run) -> None:
    done = run("report", *SINCE, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["heldGpuHours"] for row in rows] == ["1.0", "0.1"]
    assert rows[1]["name"].startswith("'=HYPERLINK")
    assert "\x1b" not in done.out


def test_each_lease_is_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for at once; and what they held is what the report says."""
    done = run("report", "--leases", *SINCE, "-o", "jsonl")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["user"], row["job"], row["node"], row["device"], row["share"]) for row in rows] == [
        ("ann", "train", "gpu-1", 0, 0.5), (EVIL, "x", "gpu-1", 1, 0.1),
    ]  # fmt: skip
    assert [row["start"] for row in rows] == [NOW.strftime("%Y-%m-%dT%H:%M:%S.000000Z")] * 2
    assert datetime.fromisoformat(rows[0]["end"]) == NOW + timedelta(hours=2)
    assert [row["heldGpuHours"] for row in rows] == [1.0, 0.1]
    assert [list(row) for row in rows] == [list(LeaseRow.__annotations__)] * 2
    monkeypatch.setattr("cumulus.history.exported.BATCH", 1)
    assert run("report", "--leases", *SINCE, "-o", "jsonl").out == done.out
    sheet = list(csv.DictReader(io.StringIO(run("report", "--leases", *SINCE, "-o", "csv").out)))
    assert list(sheet[0]) == list(LeaseRow.__annotations__)
    assert [row["heldGpuHours"] for row in sheet] == ["1.0", "0.1"]
    assert sheet[1]["user"].startswith("'=HYPERLINK")
    table = run("report", "--leases", *SINCE).out
    assert table.splitlines()[1].split()[:5] == ["ann", "lab/train", "gpu-1", "0", "50%"]
    assert len(table.splitlines()) == 3
    assert "\x1b" not in table
    assert run("report", "--leases", "--by", "node").code == 2


def test_json_has_the_total(run: Run) -> None:
    found = json.loads(run("report", *SINCE, "-o", "json").out)
    assert found["total"]["leases"] == 2
    assert found["whole"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--by", "job"), "there is no report by 'job'"), (("-o", "yaml"), "there is no output format 'yaml' here"),
        (("--since", "soon"), "--since: 'soon' is not a duration"),
        (("--since", "0s"), "--since 0s is not before now"),
        (("--since", "1d", "--until", "2d"), "--since 1d is not before --until 2d"),
        (("--since", "2030-13-01"), "or a date"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(run: Run, words: tuple[str, str], said: str) -> None:
    done = run("report", *words)
    assert done.code == 2
    assert said in done.err
