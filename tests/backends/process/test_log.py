from __future__ import annotations

import errno
import itertools
import os
import re
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention, LogWriter
from cumulus.backends.redactor import Redactor
from cumulus.backends.rundir.log import FileLog
from cumulus.errors import UsageError

SMALL = LogRetention(first=10, last=30)
AMPLE = LogRetention(first=7, last=10_000)


def read(directory: Path, tail: int | None = None, kept: LogRetention = SMALL) -> bytes:
    return b"".join(FileLog(str(directory), kept).read(tail=tail))


def write(directory: Path, *chunks: bytes, kept: LogRetention = SMALL) -> LogWriter:
    writer = FileLog(str(directory), kept).writer()
    for chunk in chunks:
        writer.append(chunk)
    writer.seal()
    return writer


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("log.*[0-9]"))


def size(directory: Path) -> int:
    """Of the log, without its times."""
    return sum(path.stat().st_size for path in segments(directory))


GAP = re.compile(rb"\n\[cumulus: (\d+) bytes of the log were dropped here: it passed its limit\]\n")

MEMORY = "/dev/shm"
"""Where syncing costs nothing."""

sizes = st.lists(st.integers(0, 60), max_size=12)
kept_sizes = st.builds(LogRetention, st.integers(1, 20), st.integers(1, 90))


def segment(kept: LogRetention) -> int:
    """Bytes of a segment at most."""
    return -(-kept.last // 14)


def gap(size: int) -> bytes:
    return b"\n[cumulus: %d bytes of the log were dropped here: it passed its limit]\n" % size


def numbered(size: int) -> bytes:
    """Bytes of which each piece is in one place only, as far as a test can move it."""
    return b"".join(b"%d " % n for n in range(size))[:size]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    ends = list(itertools.accumulate(sizes, initial=0))
    return [data[a:b] for a, b in itertools.pairwise(ends)]


def shown(data: bytes, kept: LogRetention) -> bytes:
    """What is to be shown of a log."""
    missing = len(data) - kept.first - kept.last
    return data if missing <= 0 else data[: kept.first] + gap(missing) + data[-kept.last :]


class TestLog:
    def test_is_empty_before_anything_was_written(self, tmp_path: Path) -> None:
        assert read(tmp_path) == b""
        assert read(tmp_path, tail=3) == b""

    def test_keeps_everything_below_its_limit(self, tmp_path: Path) -> None:
        write(tmp_path, b"0123456", b"789abcdef", b"\xff\x00")
        assert read(tmp_path) == b"0123456789abcdef\xff\x00"

    def test_beyond_its_limit_the_middle_goes_and_the_gap_is_told(self, tmp_path: Path) -> None:
        data = bytes(range(100))
        write(tmp_path, data)
        assert size(tmp_path) <= sum(SMALL) + segment(SMALL)
        assert read(tmp_path) == data[:10] + gap(60) + data[70:]

    def test_a_full_disk_loses_output_but_does_not_fail(self, tmp_path: Path) -> None:
        (tmp_path / "log.000000000000000").symlink_to("/dev/full")
        writer = write(tmp_path, b"lost")
        assert "No space left" in writer.error

    def test_what_a_full_disk_lost_is_told_where_it_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = FileLog(str(tmp_path), AMPLE).writer()
        writer.append(b"before")
        with monkeypatch.context() as full:
            full.setattr(os, "write", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
            writer.append(b"lost")
            writer.append(b"lost too")
        writer.append(b"after")
        writer.seal()
        told = b"\n[cumulus: 12 bytes of the log were dropped here: No space left on device]\n"
        assert read(tmp_path, kept=AMPLE) == b"before" + told + b"after"
        assert writer.error == "its log could not be written: No space left on device"

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            (0, b""),
            (1, b"third\n"),
            (2, b"second\nthird\n"),
            (3, b"first\nsecond\nthird\n"),
            (99, b"first\nsecond\nthird\n"),
        ],
    )
    def test_tail(self, tmp_path: Path, lines: int, expected: bytes) -> None:
        write(tmp_path, b"first\nsecond\nthird\n", kept=AMPLE)
        assert read(tmp_path, tail=lines, kept=AMPLE) == expected

    def test_the_last_line_counts_without_its_newline(self, tmp_path: Path) -> None:
        write(tmp_path, b"first\nsecond\nthi", kept=AMPLE)
        assert read(tmp_path, tail=2, kept=AMPLE) == b"second\nthi"

    def test_follow_reads_what_was_written_before_the_end(self, tmp_path: Path) -> None:
        write(tmp_path, b"a")
        rounds = iter([False, False, True])

        def wait() -> None:
            with open(tmp_path / "log.000000000000000", "ab") as file:
                file.write(b"b")

        assert b"".join(FileLog(str(tmp_path)).follow(lambda: next(rounds), wait)) == b"abb"

    def test_follow_tells_a_gap_once(self, tmp_path: Path) -> None:
        writer = FileLog(str(tmp_path), SMALL).writer()
        rounds = iter([False, False, True])
        written = iter([b"y" * 25, b"x" * 55])
        out = FileLog(str(tmp_path), SMALL).follow(lambda: next(rounds), lambda: writer.append(next(written)))
        text = b"".join(out)
        writer.seal()
        assert text == b"y" * 25 + gap(24) + b"x" * 31  # It is given all that is there, not only what is kept.

    def test_a_reader_is_given_one_moment_of_a_log_that_goes_on(self, tmp_path: Path) -> None:
        """Its segments are deleted while it reads: what it opened stays readable."""
        writer = FileLog(str(tmp_path), SMALL).writer()
        writer.append(b"a" * 90)
        reading = FileLog(str(tmp_path), SMALL).read()
        first = next(reading)
        writer.append(b"b" * 1000)
        assert first + b"".join(reading) == b"a" * 10 + gap(50) + b"a" * 30

    @settings(max_examples=100, deadline=None)
    @given(sizes, kept_sizes)
    def test_kept_are_exactly_the_first_and_the_last_bytes(self, sizes: list[int], kept: LogRetention) -> None:
        data = numbered(sum(sizes))
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            write(Path(name), *cut(data, sizes), kept=kept)
            assert read(Path(name), kept=kept) == shown(data, kept)
            assert size(Path(name)) <= sum(kept) + 2 * segment(kept)

    def test_kept_are_8_and_56_mib_of_a_real_log(self, tmp_path: Path) -> None:
        """Sizes at which segments come and go: 44 MB once kept 28, a number of 1 GB was false."""
        data = b"".join(b"%015d\n" % n for n in range(75 * 2**20 // 16))
        writer = FileLog(str(tmp_path)).writer()
        position = 0
        for total in (44_000_000, 64 * 2**20 + 1, len(data)):
            writer.append(data[position:total])
            position = total
            found = read(tmp_path, kept=DEFAULT_RETENTION)
            expected = shown(data[:total], DEFAULT_RETENTION)
            assert found == expected, (total, len(found), len(expected))
        writer.seal()

    @settings(max_examples=100, deadline=None)
    @given(st.lists(sizes, min_size=1, max_size=6), kept_sizes, st.integers(0, 5))
    def test_a_follower_misses_nothing_but_what_it_is_told_of(
        self, rounds: list[list[int]], kept: LogRetention, begins: int
    ) -> None:
        """Over any rotations: every byte it gets is in its place, and each gap is as long as it says."""
        data = numbered(sum(map(sum, rounds)))
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            writer = FileLog(name, kept).writer()
            written = 0
            left = list(rounds)

            def more() -> None:
                nonlocal written
                for size in left.pop(0):
                    writer.append(data[written : written + size])
                    written += size

            for _ in range(min(begins, len(rounds) - 1)):
                more()
            out = list(FileLog(name, kept).follow(lambda: not left, more))
            writer.seal()
            position = 0
            for chunk in out:
                if told := GAP.fullmatch(chunk):
                    position += int(told[1])
                else:
                    assert chunk == data[position : position + len(chunk)]
                    position += len(chunk)
            assert position == len(data)
            assert data[: kept.first] == b"".join(out)[: kept.first]
            assert b"".join(out).endswith(data[-min(kept.last, len(data)) :])

    @settings(max_examples=100, deadline=None)
    @given(sizes, kept_sizes, st.integers(0, 12))
    def test_the_last_lines_are_of_what_is_kept(self, sizes: list[int], kept: LogRetention, lines: int) -> None:
        data = numbered(sum(sizes)).replace(b"0", b"\n")
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            write(Path(name), *cut(data, sizes), kept=kept)
            end = data[max(len(data) - kept.last, 0) :]
            wanted = b"".join(end.splitlines(keepends=True)[-lines:] if lines else [])
            found = read(Path(name), tail=lines, kept=kept)
            if len(end.splitlines()) > lines:
                assert found == wanted
            else:
                assert found.endswith(end)
                assert shown(data, kept).endswith(found)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 12), st.integers(0, 8))
    def test_tail_is_the_end_of_the_whole(self, chunks: list[bytes], segment: int, lines: int) -> None:
        ample = LogRetention(first=segment, last=14 * max(segment, 50))
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            directory = Path(name)
            write(directory, *chunks, kept=ample)
            whole = b"".join(chunks)
            kept = whole.split(b"\n")
            kept = [line + b"\n" for line in kept[:-1]] + ([kept[-1]] if kept[-1] else [])
            assert read(directory, kept=ample) == whole
            end = kept[len(kept) - lines :] if lines < len(kept) else kept
            assert read(directory, tail=lines, kept=ample) == b"".join(end)


class TestRedactor:
    def test_replaces_values(self) -> None:
        redactor = Redactor(["hunter2", "hunter2-long"])
        assert redactor.feed(b"a hunter2-long b hunter2 c") + redactor.flush() == b"a [secret] b [secret] c"

    def test_leaves_short_values_alone(self) -> None:
        assert Redactor(["abc", ""]).feed(b"abcabc") == b"abcabc"

    def test_gives_out_at_once_what_cannot_be_a_secret(self) -> None:
        redactor = Redactor(["secretvalue"])
        assert redactor.feed(b"line\nsecr") == b"line\n"
        assert redactor.holding
        assert redactor.feed(b"et\n") == b"secret\n"
        assert not redactor.holding

    @given(st.text("ab", min_size=4, max_size=6), st.text("abc", max_size=40), st.lists(st.integers(0, 40)))
    def test_cutting_the_stream_changes_nothing(self, value: str, text: str, cuts: list[int]) -> None:
        redactor = Redactor([value])
        data = text.encode()
        places = sorted({0, len(data), *(c for c in cuts if c < len(data))})
        out = b"".join(redactor.feed(data[a:b]) for a, b in itertools.pairwise(places)) + redactor.flush()
        assert out == data.replace(value.encode(), b"[secret]")


def test_segments_are_private(tmp_path: Path) -> None:
    write(tmp_path, b"x")
    assert {os.stat(p).st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


class TestTimes:
    """Lines that were begun at 12:00:00.5, a moment later, at 12:00:10 and at 12:00:20."""

    T = 1893499200.0
    AT = ((0.5, b"a\n"), (0.7, b"b\nbegun "), (10.0, b"and ended\nc\n"), (20.0, b"d\n"))

    def log(self, directory: Path, kept: LogRetention = DEFAULT_RETENTION) -> FileLog:
        log = FileLog(str(directory), kept)
        writer = log.writer()
        for seconds, data in self.AT:
            writer.append(data, self.T + seconds)
        writer.seal()
        return log

    @pytest.mark.parametrize("segment", [5, 1000])
    def test_each_line_has_the_time_at_which_it_was_begun(self, tmp_path: Path, segment: int) -> None:
        log = self.log(tmp_path, LogRetention(segment, 14 * segment))
        assert b"".join(log.read(timestamps=True)) == (
            b"2030-01-01T12:00:00Z a\n2030-01-01T12:00:00Z b\n2030-01-01T12:00:00Z begun and ended\n"
            b"2030-01-01T12:00:10Z c\n2030-01-01T12:00:20Z d\n"
        )

    @pytest.mark.parametrize(
        ("since", "shown"),
        [
            (0, b"a\nb\nbegun and ended\nc\nd\n"), (0.6, b"a\nb\nbegun and ended\nc\nd\n"), (9, b"c\nd\n"),
            (10, b"c\nd\n"), (12, b"d\n"), (20.2, b"d\n"), (30, b""),
        ],
    )  # fmt: skip
    def test_since(self, tmp_path: Path, since: float, shown: bytes) -> None:
        log = self.log(tmp_path)
        assert b"".join(log.read(since=self.T + since)) == shown
        assert b"".join(log.read(since=self.T + since, tail=1)) == shown[-2:]

    def test_since_over_segments(self, tmp_path: Path) -> None:
        log = self.log(tmp_path, LogRetention(5, 70))
        assert b"".join(log.read(since=self.T + 9)) == b"c\nd\n"
        assert b"".join(log.read(since=self.T + 12)) == b"d\n"

    def test_a_follower_has_them_too(self, tmp_path: Path) -> None:
        log = FileLog(str(tmp_path))
        writer = log.writer()
        writer.append(b"old\n", self.T)
        later = iter([(b"new\npart", 60), (b" two\n", 70)])
        ends = iter([False, False, True])

        def more() -> None:
            data, seconds = next(later)
            writer.append(data, self.T + seconds)

        shown = log.follow(lambda: next(ends), more, since=self.T + 30, timestamps=True)
        assert b"".join(shown) == b"2030-01-01T12:01:00Z new\n2030-01-01T12:01:00Z part two\n"

    def test_a_log_of_an_older_version_has_none(self, tmp_path: Path) -> None:
        log = self.log(tmp_path)
        for path in tmp_path.glob("*.times"):
            path.unlink()
        assert b"".join(log.read()).startswith(b"a\n")
        with pytest.raises(UsageError, match="has no times"):
            list(log.read(timestamps=True))

    def test_they_cost_little_and_go_with_their_segment(self, tmp_path: Path) -> None:
        writer = FileLog(str(tmp_path), LogRetention(1000, 14_000)).writer()
        for number in range(10_000):
            writer.append(b"x" * 9 + b"\n", self.T + number / 100)
        writer.seal()
        times = list(tmp_path.glob("*.times"))
        assert [path.with_suffix("") for path in sorted(times)] == segments(tmp_path)
        assert sum(path.stat().st_size for path in times) < size(tmp_path) / 10

    def test_a_pair_that_a_full_disk_cut_off_is_written_over(self, tmp_path: Path) -> None:
        log = FileLog(str(tmp_path))
        writer = log.writer()
        writer.append(b"a\n", self.T)
        (times,) = tmp_path.glob("*.times")
        times.write_bytes(times.read_bytes() + b"cut")
        writer.append(b"b\n", self.T + 5)
        writer.seal()
        assert b"".join(log.read(since=self.T + 5, timestamps=True)) == b"2030-01-01T12:00:05Z b\n"
