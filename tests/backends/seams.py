"""What every `LogStore` and every `CheckpointStore` must do: a subclass gives the store, the tests come from here."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cumulus.backends.checkpoints import CheckpointStore, CheckpointUnseen, SealedCheckpoint, saved, written_at
from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention, LogStore
from cumulus.checkpoint import layout
from cumulus.clock import timestamp


class LogStoreConformance(ABC):
    @abstractmethod
    def store(self, place: Path, retention: LogRetention = DEFAULT_RETENTION) -> LogStore:
        """The store of the run at `place`; another one at the same place is what another process has."""

    def test_a_log_that_was_never_begun_is_empty(self, tmp_path: Path) -> None:
        assert list(self.store(tmp_path).read()) == []
        assert list(self.store(tmp_path).read(tail=3)) == []

    def test_a_reader_elsewhere_is_given_what_was_appended(self, tmp_path: Path) -> None:
        writer = self.store(tmp_path).writer()
        writer.append(b"one\n")
        assert b"".join(self.store(tmp_path).read()) == b"one\n"
        writer.append(b"two\n\xff\x00")
        writer.seal()
        assert b"".join(self.store(tmp_path).read()) == b"one\ntwo\n\xff\x00"
        assert writer.error == ""

    @pytest.mark.parametrize(
        ("lines", "expected"), [(0, b""), (1, b"thr"), (2, b"two\nthr"), (3, b"one\ntwo\nthr"), (9, b"one\ntwo\nthr")]
    )
    def test_a_tail_is_the_last_lines(self, tmp_path: Path, lines: int, expected: bytes) -> None:
        writer = self.store(tmp_path).writer()
        writer.append(b"one\ntwo\nthr")
        writer.seal()
        assert b"".join(self.store(tmp_path).read(tail=lines)) == expected

    def test_secrets_are_replaced_also_where_a_chunk_cuts_them(self, tmp_path: Path) -> None:
        writer = self.store(tmp_path).writer(["hunter2"])
        writer.append(b"a hunter2 b hun")
        writer.append(b"ter2 c hunt")
        writer.seal()
        assert b"".join(self.store(tmp_path).read()) == b"a [secret] b [secret] c hunt"

    def test_what_may_begin_a_secret_is_held_until_a_pause(self, tmp_path: Path) -> None:
        writer = self.store(tmp_path).writer(["hunter2"])
        writer.append(b"line hun")
        assert writer.holding
        assert b"".join(self.store(tmp_path).read()) == b"line "
        writer.flush()
        assert not writer.holding
        assert b"".join(self.store(tmp_path).read()) == b"line hun"

    def test_the_beginning_and_the_end_stay_and_the_gap_is_told(self, tmp_path: Path) -> None:
        retention = LogRetention(first=10, last=30)
        data = bytes(range(100))
        writer = self.store(tmp_path, retention).writer()
        writer.append(data)
        writer.seal()
        gap = b"\n[cumulus: 60 bytes of the log were dropped here: it passed its limit]\n"
        assert b"".join(self.store(tmp_path, retention).read()) == data[:10] + gap + data[70:]

    def test_a_follower_is_given_all_until_the_end(self, tmp_path: Path) -> None:
        writer = self.store(tmp_path).writer()
        writer.append(b"0\n1\n")
        left = [b"2\n", b"3\n", b"4\n"]
        followed = self.store(tmp_path).follow(lambda: not left, lambda: writer.append(left.pop(0)), tail=1)
        assert b"".join(followed) == b"1\n2\n3\n4\n"


class CheckpointStoreConformance(ABC):
    @abstractmethod
    def store(self, place: Path) -> CheckpointStore:
        """The store of a job whose checkpoint is at `place`, a directory or a file of this machine."""

    @abstractmethod
    def unseen(self, place: Path) -> CheckpointStore:
        """One at which nobody can look."""

    def test_none_where_nothing_was_written(self, tmp_path: Path) -> None:
        assert self.store(tmp_path).newest() is None
        assert self.store(tmp_path / "never-made").newest() is None
        assert written_at(self.store(tmp_path)) == ""

    def test_the_newest_file_says_when(self, tmp_path: Path) -> None:
        (tmp_path / "step-1").mkdir()
        (tmp_path / "step-1" / "weights").write_text("1")
        (tmp_path / "step-2").write_text("2")
        newest = max(os.stat(tmp_path / name).st_ctime for name in ("step-1/weights", "step-2"))
        found = self.store(tmp_path).newest()
        assert found is not None
        assert found.written_at == timestamp(datetime.fromtimestamp(newest, UTC))
        assert found.location.endswith(tmp_path.name)
        assert written_at(self.store(tmp_path)) == found.written_at

    def test_a_program_cannot_set_the_time_back(self, tmp_path: Path) -> None:
        (tmp_path / "weights").write_text("1")
        os.utime(tmp_path / "weights", (0, 0))
        found = self.store(tmp_path).newest()
        assert found is not None
        assert found.written_at > "2026"

    def test_the_newest_checkpoint_with_a_manifest_is_told(self, tmp_path: Path) -> None:
        assert self.store(tmp_path).saved() is None
        save(tmp_path, 5)
        save(tmp_path, 12, size=7)
        (tmp_path / "step-000000000013").mkdir()
        (tmp_path / ".tmp-000000000014-1a2b3c4d").mkdir()
        found = self.store(tmp_path).saved()
        assert found is not None
        assert (found.step, found.size, found.seconds) == (12, 7, 1.5)
        assert found.path.endswith("/step-000000000012")
        changed = os.stat(tmp_path / "step-000000000012" / layout.MANIFEST).st_ctime
        assert found.time == timestamp(datetime.fromtimestamp(changed, UTC))
        assert self.store(tmp_path).saved(found) == found
        save(tmp_path, 13)
        assert saved(self.store(tmp_path), found) not in (None, found)

    @pytest.mark.parametrize("trick", ["link", "link of the directory", "pipe", "endless", "text", "another step"])
    def test_what_is_no_manifest_is_not_believed(self, tmp_path: Path, trick: str) -> None:
        victim = tmp_path / "victim"
        victim.mkdir()
        save(victim, 9)
        place = tmp_path / "c"
        (place / "step-000000000009").mkdir(parents=True)
        manifest = place / "step-000000000009" / layout.MANIFEST
        match trick:
            case "link":
                manifest.symlink_to(victim / "step-000000000009" / layout.MANIFEST)
            case "link of the directory":
                manifest.parent.rmdir()
                manifest.parent.symlink_to(victim / "step-000000000009")
            case "pipe":
                os.mkfifo(manifest)
            case "endless":
                manifest.touch()
                os.truncate(manifest, 2**40)
            case "text":
                manifest.write_text("[" * 100_000)
            case "another step":
                manifest.write_bytes((victim / "step-000000000009" / layout.MANIFEST).read_bytes())
                manifest.parent.rename(place / "step-000000000010")
        assert self.store(place).saved() is None

    def test_what_nobody_can_see_is_not_taken_for_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointUnseen):
            self.unseen(tmp_path).newest()
        assert written_at(self.unseen(tmp_path)) is None
        assert written_at(None) is None
        known = SealedCheckpoint(1, "2030-01-01T00:00:00Z", 1, 1.0, "/c")
        assert saved(None, known) == saved(self.unseen(tmp_path), known) == known


def save(place: Path, step: int, size: int = 3, content: bytes = b"") -> None:
    """A checkpoint of one file. Without `content` that is not there: nobody who only looks reads it."""
    directory = place / layout.step_name(step)
    directory.mkdir(parents=True, exist_ok=True)
    if content:
        (directory / "weights").write_bytes(content)
    files = (layout.File("weights", len(content) or size, hashlib.sha256(content).hexdigest()),)
    manifest = layout.FilesManifest(step, "2030-01-01T00:00:00Z", 1.5, 1, 1, 1, files)
    (directory / layout.MANIFEST).write_bytes(manifest.encode())
