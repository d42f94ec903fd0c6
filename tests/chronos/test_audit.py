"""The audit log: every line once, through crashes and rotation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cumulus.chronos import audit
from cumulus.chronos.ledger import Ledger
from tests.chronos.conftest import GIB, request


def read(home: Path) -> list[tuple[int, str, str]]:
    lines = [json.loads(line) for line in (home / "audit.log").read_text().splitlines()]
    return [(line["seq"], line["event"], line["lease"]) for line in lines]


def test_a_line_tells_who_got_what(ledger: Ledger, home: Path) -> None:
    ledger.grant(request("a", user="ada", owner="lab", memory_bytes=GIB))
    assert audit.flush(ledger.database, 0.0) == 1
    line = json.loads((home / "audit.log").read_text())
    assert line.pop("uid") >= 0
    assert line == {
        "seq": 1,
        "time": "2030-01-01T00:00:00.000000Z",
        "event": "granted",
        "lease": "a",
        "device": 0,
        "deviceId": "GPU-a",
        "memoryBytes": GIB,
        "computePercent": 25.0,
        "user": "ada",
        "owner": "lab",
        "token": 1,
        "expiresAt": "2030-01-01T00:01:00.000000Z",
    }


def test_nothing_is_written_twice_after_a_crash_before_the_queue_was_emptied(ledger: Ledger, home: Path) -> None:
    ledger.grant(request("a"))
    with ledger.database.read() as db:
        queued = db.execute("SELECT * FROM audit").fetchall()
    audit.flush(ledger.database, 0.0)
    with ledger.database.write() as tx:
        tx.executemany("INSERT OR REPLACE INTO audit VALUES (?, ?, ?, ?, ?, ?)", queued)
    ledger.renew("a", 600)
    audit.flush(ledger.database, 0.0)
    assert read(home) == [(1, "granted", "a"), (2, "renewed", "a")]
    assert audit.flush(ledger.database, 0.0) == 0


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_torn_line_is_written_again(ledger: Ledger, home: Path, cut: int) -> None:
    ledger.grant(request("a"))
    audit.flush(ledger.database, 0.0)
    ledger.release("a")
    with ledger.database.read() as db:
        queued = db.execute("SELECT * FROM audit").fetchall()
    audit.flush(ledger.database, 0.0)
    with ledger.database.write() as tx:
        tx.executemany("INSERT OR REPLACE INTO audit VALUES (?, ?, ?, ?, ?, ?)", queued)
    log = home / "audit.log"
    log.write_bytes(log.read_bytes()[:-cut])
    audit.flush(ledger.database, 0.0)
    assert read(home) == [(1, "granted", "a"), (2, "released", "a")]


def test_a_long_log_is_rotated(ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_BYTES", 100)
    for number in range(8):
        ledger.grant(request(f"a{number}", memory_bytes=1, compute=1))
        audit.flush(ledger.database, 0.0)
    kept = {path.name: json.loads(path.read_text())["lease"] for path in home.glob("audit.log*")}
    assert kept == {f"audit.log.{age}": f"a{8 - age}" for age in range(1, 6)}
