"""Archives from a job: what lies or leads outside of the target is refused, and leaves nothing."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from cumulus.cli import archives
from cumulus.cli.archives import RefusedEntry
from cumulus.errors import CumulusError, UsageError


def archive(*entries: tuple[str, str, str]) -> io.BytesIO:
    """Of name, kind and content (or where it leads)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as file:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind.encode()
            entry.mode = 0o6755
            if kind in "12":
                entry.linkname = content
            else:
                entry.size = len(content)
            file.addfile(entry, io.BytesIO(content.encode()))
    made.seek(0)
    return made


FILE, HARD, SYMBOLIC, DIRECTORY, FIFO, DEVICE = "0", "1", "2", "5", "6", "3"


def test_a_tree_goes_there_and_back(tmp_path: Path) -> None:
    source = tmp_path / "run"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "data").write_bytes(data := os.urandom(100_000))
    (source / "a" / "script").write_text("#!")
    (source / "a" / "script").chmod(0o755)
    (source / "latest").symlink_to("a/data")
    (source / "a" / "up").symlink_to("../a/b")
    os.mkfifo(source / "pipe")
    sent = io.BytesIO()
    archives.pack(source, "other", sent)
    sent.seek(0)
    archives.unpack(sent, "other", tmp_path / "back")
    back = tmp_path / "back"
    assert (back / "latest").read_bytes() == data
    assert os.readlink(back / "a" / "up") == "../a/b"
    assert os.access(back / "a" / "script", os.X_OK)
    assert not (back / "pipe").exists()
    assert sorted(os.listdir(tmp_path)) == ["back", "run"]


def test_a_file_is_replaced_and_a_directory_is_not(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    archives.unpack(archive(("x", FILE, "new")), "x", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "new"
    assert (tmp_path / "x").stat().st_mode & 0o7022 == 0
    (tmp_path / "d").mkdir()
    with pytest.raises(UsageError, match="directory already"):
        archives.unpack(archive(("d", DIRECTORY, "")), "d", tmp_path / "d")
    # As with /dev/null, which root could replace.
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is no file"):
        archives.unpack(archive(("x", FILE, "")), "x", tmp_path / "pipe")


@pytest.mark.parametrize(
    "entries",
    [
        [("/etc/passwd", FILE, "")],
        [("x/../../outside", FILE, "")],
        [("../x/outside", FILE, "")],
        [("y/other", FILE, "")],
        [("x", DIRECTORY, ""), ("x/link", SYMBOLIC, "/etc"), ("x/link/passwd", FILE, "")],
        [("x", DIRECTORY, ""), ("x/link", SYMBOLIC, "../..")],
        [("x", DIRECTORY, ""), ("x/a/link", SYMBOLIC, "../../../outside")],
        [("x", SYMBOLIC, "outside")],
        # Its words stay inside, and it leads out through the other one, which leads up.
        [("x/a/b", DIRECTORY, ""), ("x/out", SYMBOLIC, "a/b/up/../other"), ("x/a/b/up", SYMBOLIC, "../..")],
        [("x", DIRECTORY, ""), ("x/hard", HARD, "/etc/passwd")],
        [("x", DIRECTORY, ""), ("x/hard", HARD, "x/nothing")],
        [("x", DIRECTORY, ""), ("x/pipe", FIFO, "")],
        [("x", DIRECTORY, ""), ("x/device", DEVICE, "")],
        [("x\\\\..\\\\y", FILE, "")],
    ],
)
def test_what_would_leave_its_target_is_refused(tmp_path: Path, entries: list[tuple[str, str, str]]) -> None:
    (tmp_path / "in").mkdir()
    good = ("x/good", FILE, "good")
    with pytest.raises(RefusedEntry):
        archives.unpack(archive(good, *entries), "x", tmp_path / "in" / "x")
    assert os.listdir(tmp_path) == ["in"]
    assert os.listdir(tmp_path / "in") == []


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    entries = [("x/a", DIRECTORY, ""), ("x/link", SYMBOLIC, "a"), ("x/link/file", FILE, "data")]
    with pytest.raises(OSError):
        archives.unpack(archive(*entries), "x", tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_what_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    whole = archive(("x", FILE, "data" * 1000)).getvalue()
    for data in (b"", whole[:700], b"no archive at all" * 100):
        with pytest.raises(CumulusError):
            archives.unpack(io.BytesIO(data), "x", tmp_path / "x")
        assert os.listdir(tmp_path) == []


def test_what_was_cut_off_between_two_entries_leaves_nothing(tmp_path: Path) -> None:
    whole = archive(("x", DIRECTORY, ""), ("x/first", FILE, "data"), ("x/second", FILE, "data")).getvalue()
    cut = whole[: 3 * tarfile.BLOCKSIZE]
    with pytest.raises(CumulusError, match="not all of it came"):
        archives.unpack(io.BytesIO(cut), "x", tmp_path / "x", lambda: False)
    assert os.listdir(tmp_path) == []


def test_a_private_directory_stays_private_and_times_that_are_none_harm_nobody(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, kind, mode, time in (
            ("x", DIRECTORY, 0o500, "0"), ("x/a", FILE, 0o600, "nan"), ("x/b", FILE, 0o600, "1e300"),
        ):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.pax_headers = kind.encode(), mode, {"mtime": time}
            file.addfile(entry)
    made.seek(0)
    archives.unpack(made, "x", tmp_path / "x")
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(tmp_path / "x")) == ["a", "b"]


def test_headers_without_end_are_no_archive(tmp_path: Path) -> None:
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1
    block = name.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(tarfile.BLOCKSIZE, b"\0")
    with pytest.raises(CumulusError, match="no whole archive"):
        archives.unpack(io.BytesIO(block * 3000), "x", tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_holes_stay_holes(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as file:
        file.write(b"begin")
        file.seek(2**27)
        file.write(b"end")
    words = ["tar", "--format=pax", "--sparse", "-C", str(tmp_path), "-cf", "-", "x"]
    sent = subprocess.run(words, capture_output=True, check=True).stdout
    (tmp_path / "x").unlink()
    archives.unpack(io.BytesIO(sent), "x", tmp_path / "x")
    with open(tmp_path / "x", "rb") as read:
        assert read.read(6) == b"begin\0"
        read.seek(2**27 - 1)
        assert read.read() == b"\0end"
    assert (tmp_path / "x").stat().st_blocks < 10_000
