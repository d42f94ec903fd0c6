"""What only the directory store can show: files, modes, a full disk, damage, other processes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.blob.base import BlobInfo
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.errors import BlobDamaged, BlobStoreFull, BlobStoreUnavailable
from tests.blob.test_conformance import ANN, BEN, put, read, sha


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and path.name != "lock"]


def test_nobody_else_reads_it_and_no_name_tells_whose_it_is(tmp_path: Path) -> None:
    os.umask(0o022)
    put(DirectoryBlobStore(tmp_path / "blobs"), ANN, b"text")
    for path in (tmp_path / "blobs").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
        assert "ann" not in path.name
    assert (tmp_path / "blobs").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("where", [0, 1_500_000, -1])
def test_damage_is_told_and_the_blob_can_be_sent_again(tmp_path: Path, where: int) -> None:
    store = DirectoryBlobStore(tmp_path)
    content = os.urandom(2_000_000)
    name = put(store, ANN, content)
    path = store.path(ANN, name)
    assert path is not None
    damaged = bytearray(content)
    damaged[where] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BlobDamaged, match=name):
        read(store, ANN, name)
    assert store.find(ANN, name) is None
    put(store, ANN, content)
    assert read(store, ANN, name) == content


def test_a_blob_for_which_there_is_no_room_is_refused_before_it_is_sent(small_disk: Path) -> None:
    def unread() -> Iterator[bytes]:
        raise AssertionError("a chunk was taken")
        yield b""

    with pytest.raises(BlobStoreFull, match=r"no room for 9Mi"):
        DirectoryBlobStore(small_disk / "blobs").write(ANN, "0" * 64, 9 * 2**20, unread())
    assert files(small_disk) == []


def test_a_disk_that_fills_up_leaves_nothing_and_works_again(small_disk: Path) -> None:
    store = DirectoryBlobStore(small_disk / "blobs")
    content = b"x" * 6 * 2**20
    hog = small_disk / "hog"

    def chunks() -> Iterator[bytes]:
        yield content[: 2**20]
        hog.write_bytes(b"y" * 5 * 2**20)
        yield content[2**20 :]

    with pytest.raises(BlobStoreFull, match="full"):
        store.write(ANN, sha(content), len(content), chunks())
    assert files(small_disk) == [hog]
    hog.unlink()
    put(store, ANN, content)


def test_a_place_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    store = DirectoryBlobStore(tmp_path / "blobs")
    with pytest.raises(BlobStoreUnavailable, match="can't be used"):
        put(store, ANN, b"text")


UPLOAD = """
import pathlib, sys, time
from cumulus.blob.directory import DirectoryBlobStore
def chunks():
    yield b"a" * 500
    print("sent", flush=True)
    time.sleep(60)
DirectoryBlobStore(pathlib.Path(sys.argv[1])).write(sys.argv[2], sys.argv[3], 1000, chunks())
"""


def test_an_upload_whose_process_is_killed_goes_on_in_another(tmp_path: Path) -> None:
    name = sha(b"a" * 1000)
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOAD, str(tmp_path), ANN, name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "sent\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = DirectoryBlobStore(tmp_path)
    assert store.find(ANN, name) == BlobInfo(1000, 500)
    assert store.write(ANN, name, 1000, [b"a" * 500], offset=500).complete
    assert read(store, ANN, name) == b"a" * 1000


def test_finders_and_the_collector_at_once(tmp_path: Path) -> None:
    """What was found whole stays until the retention is over, whenever the collector looks."""
    from datetime import UTC, datetime, timedelta

    store, stop, problems = DirectoryBlobStore(tmp_path), threading.Event(), []
    content = b"text"
    name = hashlib.sha256(content).hexdigest()

    def collect() -> None:
        while not stop.is_set():
            store.collect([], datetime.now(UTC) - timedelta(seconds=5))

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for _ in range(200):
            path = store.path(BEN, name)
            if path is not None:
                os.utime(path, (0, 0))
            if store.find(BEN, name) is None:
                put(store, BEN, content)
            if read(store, BEN, name) != content:
                problems.append("gone")
    finally:
        stop.set()
        collector.join()
    assert problems == []
