"""The digest of a file is that of its bytes, whatever was written how."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from cumulus.checkpoint.digesting import DigestingFile


@pytest.mark.parametrize("seed", range(5))
def test_digest_and_size_are_those_of_the_file(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    file = DigestingFile(str(tmp_path / "f"))
    expected = b""
    for _ in range(60):
        data = rng.randbytes(rng.choice((0, 1, 100, 2**16 - 1, 2**16, 300_000)))
        kind = rng.choice((bytes, bytearray, memoryview))
        given = kind(bytearray(data)) if kind is memoryview else kind(data)
        assert file.write(given) == len(data)
        expected += data
        if isinstance(given, bytearray):
            given[:] = bytes(len(given))  # It may change as soon as it is written.
        assert file.tell() == len(expected)
    described = file.close()
    assert (tmp_path / "f").read_bytes() == expected
    assert (described.path, described.size) == ("f", len(expected))
    assert described.sha256 == hashlib.sha256(expected).hexdigest()


def test_wide_items_count_in_bytes(tmp_path: Path) -> None:
    import array

    file = DigestingFile(str(tmp_path / "f"))
    numbers = array.array("d", range(20_000))
    assert file.write(memoryview(numbers)) == 160_000
    assert file.close().size == 160_000


def test_a_file_that_is_there_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        DigestingFile(str(tmp_path / "f"))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="LEFT OUT: there is no /dev/full")
def test_no_descriptor_and_no_thread_stays(tmp_path: Path) -> None:
    import threading

    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for name in range(20):
        file = DigestingFile(str(tmp_path / str(name)))
        file.write(b"x" * 100_000)
        file.abandon() if name % 2 else file.close()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
