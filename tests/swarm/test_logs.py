"""A log that is read in steps, as the engine's driver writes it."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.swarm import log_stream
from cumulus.backends.swarm.records import Record
from cumulus.clock import parse_timestamp


class Driver:
    """Gives the messages from a time on, in the order in which they were taken down."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.since: list[float] = []

    def add(self, second: float, text: bytes) -> None:
        self.messages.append((f"2030-01-01T00:00:{second:012.9f}Z", text))

    def __call__(self, since: float) -> bytes:
        self.since.append(since)
        frames = [f"{at} ".encode() + text for at, text in self.messages if parse_timestamp(at).timestamp() >= since]
        return b"".join(b"\1\0\0\0" + struct.pack(">I", len(frame)) + frame for frame in frames)


def test_each_step_gives_what_came_since() -> None:
    reader = log_stream.StreamReader(driver := Driver())
    assert reader.step() == b""
    driver.add(1, b"a")
    driver.add(1, b"a")
    assert reader.step() == b"aa"
    driver.add(1, b"a")
    driver.add(1.5, b"b")
    assert reader.step() == b"ab"
    assert reader.step() == b""


def test_a_message_behind_a_later_one_is_not_lost() -> None:
    """Of two streams, each has its own reader in the engine."""
    reader = log_stream.StreamReader(driver := Driver())
    driver.add(10.002, b"out")
    assert reader.step() == b"out"
    driver.add(10.0015, b"err")
    assert reader.step() == b"err"
    driver.add(11.9, b"late ")
    driver.add(10.4, b"later")
    assert reader.step() == b"late later"
    assert reader.step() == b""


def test_lines_have_the_times_of_their_messages(tmp_path: Path) -> None:
    reader = log_stream.StreamReader(driver := Driver())
    for second, text in ((1, b"a\n"), (1.5, b"b\n"), (9, b"c, as a part "), (10, b"and its end\n")):
        driver.add(second, text)
    pieces = reader.timed()
    stamped = b"2030-01-01T00:00:09Z c, as a part and its end\n"
    assert log_stream.LogSelection(None, True).of(pieces) == (
        b"2030-01-01T00:00:01Z a\n2030-01-01T00:00:01Z b\n" + stamped
    )
    since = parse_timestamp("2030-01-01T00:00:08Z").timestamp()
    assert log_stream.LogSelection(since, True).of(pieces) == stamped

    record = Record(str(tmp_path), {"name": "x"})
    log_stream.write(record, pieces)
    assert b"".join(log_stream.saved(record, None)) == b"a\nb\nc, as a part and its end\n"
    assert b"".join(log_stream.saved(record, None, since, timestamps=True)) == stamped


def test_only_the_last_seconds_are_read_again() -> None:
    reader = log_stream.StreamReader(driver := Driver())
    for second in range(40):
        driver.add(second, b"%d " % second)
    reader.step()
    driver.add(39, b"x")
    assert reader.step() == b"x"
    assert driver.since[-1] == parse_timestamp("2030-01-01T00:00:37Z").timestamp()
    assert len(reader._given) == 4


def test_a_long_log_is_not_held() -> None:
    reader = log_stream.StreamReader(driver := Driver())
    lines = [b"%d\n" % number for number in range(3 * log_stream.HELD)]
    for number, line in enumerate(lines):
        driver.add(number / 1000, line)
    assert reader.step() == b"".join(lines)
    assert len(reader._given) < 3100
    assert reader.step() == b""


def test_of_a_flood_the_older_messages_are_not_looked_for_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def counted(
        found: Counter[log_stream.LogMessage], at: str, since: Any = log_stream._since
    ) -> Counter[log_stream.LogMessage]:
        looks.append(len(found))
        kept: Counter[log_stream.LogMessage] = since(found, at)
        return kept

    monkeypatch.setattr(log_stream, "_since", counted)
    reader = log_stream.StreamReader(driver := Driver())
    lines = [b"%d\n" % number for number in range(4 * log_stream.HELD)]
    for line in lines:
        driver.add(1, line)
    assert reader.step() == b"".join(lines)
    assert len(looks) < 5
