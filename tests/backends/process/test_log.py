from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.backends.process.log import LogWriter, Redactor, read_log


def read(directory: Path, tail: int | None = None) -> bytes:
    return b"".join(read_log(str(directory), tail=tail, wait=lambda: None))


def write(directory: Path, *chunks: bytes, segment: int = 10, limit: int = 40) -> LogWriter:
    writer = LogWriter(str(directory), segment=segment, limit=limit)
    for chunk in chunks:
        writer.write(chunk)
    writer.close()
    return writer


class TestLog:
    def test_is_empty_before_anything_was_written(self, tmp_path: Path) -> None:
        assert read(tmp_path) == b""
        assert read(tmp_path, tail=3) == b""

    def test_keeps_everything_below_its_limit(self, tmp_path: Path) -> None:
        write(tmp_path, b"0123456", b"789abcdef", b"\xff\x00", limit=40)
        assert read(tmp_path) == b"0123456789abcdef\xff\x00"

    def test_beyond_its_limit_the_middle_goes_and_the_gap_is_told(self, tmp_path: Path) -> None:
        data = bytes(range(100))
        write(tmp_path, data, segment=10, limit=40)
        assert sum(p.stat().st_size for p in tmp_path.iterdir()) == 40
        gap = b"\n[cumulus: 60 bytes of the log were dropped here: it passed its limit]\n"
        assert read(tmp_path) == data[:10] + gap + data[70:]

    def test_a_full_disk_loses_output_but_does_not_fail(self, tmp_path: Path) -> None:
        (tmp_path / "log.000000000000000").symlink_to("/dev/full")
        writer = write(tmp_path, b"lost", segment=1000)
        assert "No space left" in writer.error

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
        write(tmp_path, b"first\nsecond\nthird\n", segment=7, limit=700)
        assert read(tmp_path, tail=lines) == expected

    def test_the_last_line_counts_without_its_newline(self, tmp_path: Path) -> None:
        write(tmp_path, b"first\nsecond\nthi", segment=700, limit=7000)
        assert read(tmp_path, tail=2) == b"second\nthi"

    def test_follow_reads_what_was_written_before_the_end(self, tmp_path: Path) -> None:
        write(tmp_path, b"a")
        rounds = iter([False, False, True])

        def wait() -> None:
            with open(tmp_path / "log.000000000000000", "ab") as file:
                file.write(b"b")

        assert b"".join(read_log(str(tmp_path), ended=lambda: next(rounds), wait=wait)) == b"abb"

    def test_follow_tells_a_gap_once(self, tmp_path: Path) -> None:
        writer = LogWriter(str(tmp_path), segment=10, limit=20)
        rounds = iter([False, True])
        out = b"".join(read_log(str(tmp_path), ended=lambda: next(rounds), wait=lambda: writer.write(b"x" * 55)))
        writer.close()
        assert out.count(b"were dropped here") == 1
        assert out.count(b"x") == 15

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 12), st.integers(0, 8))
    def test_tail_is_the_end_of_the_whole(self, chunks: list[bytes], segment: int, lines: int) -> None:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            write(directory, *chunks, segment=segment, limit=10_000)
            whole = b"".join(chunks)
            kept = whole.split(b"\n")
            kept = [line + b"\n" for line in kept[:-1]] + ([kept[-1]] if kept[-1] else [])
            assert read(directory) == whole
            assert read(directory, tail=lines) == b"".join(kept[len(kept) - lines :] if lines < len(kept) else kept)


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
    assert [os.stat(p).st_mode & 0o777 for p in tmp_path.iterdir()] == [0o600]
