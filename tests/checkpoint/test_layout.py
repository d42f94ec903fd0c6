"""What a checkpoint on disk is, and when it is believed."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import pytest

from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import (
    Damaged,
    FilesManifest,
    newest,
    prune,
    read_manifest,
    step_name,
    step_of,
    steps,
    verify,
)
from tests.checkpoint.places import FILES, put

ANOTHER_USER = 4242


def test_a_whole_checkpoint_is_found_with_what_it_says(tmp_path: Path) -> None:
    put(tmp_path, 42)
    found = newest(str(tmp_path))
    assert found is not None
    assert (found.step, found.path, found.manifest.token) == (42, str(tmp_path / "step-000000000042"), 7)
    assert found.manifest.size == sum(map(len, FILES.values()))
    assert read_manifest(str(tmp_path), 42) == found.manifest
    with layout.opened_file(found, "parts/optimizer") as descriptor:
        assert os.read(descriptor, 1000) == FILES["parts/optimizer"]


def test_where_nothing_is_there_is_none(tmp_path: Path) -> None:
    assert newest(str(tmp_path / "nowhere")) is None
    assert newest(str(tmp_path)) is None


def test_steps_are_numbers_of_twelve_digits(tmp_path: Path) -> None:
    assert step_of(step_name(7)) == 7
    assert [step_of(name) for name in ("step-7", ".tmp-000000000007-0", "step-0000000000007", "step-٠٠٠٠٠٠٠٠٠٠٠٧")] == [
        None
    ] * 4
    for bad in (-1, 10**12, True, 1.0, "7"):
        with pytest.raises(ValueError, match="a step is a whole number"):
            step_name(bad)  # type: ignore[arg-type]
    for step in (3, 20, 100):
        put(tmp_path, step)
    (tmp_path / ".tmp-000000000200-aaaa").mkdir()
    assert steps(str(tmp_path)) == [100, 20, 3]


@pytest.mark.parametrize("name", [*(name for name in FILES if FILES[name]), "manifest.json"])
def test_one_flipped_byte_in_any_file_is_refused_by_name_and_the_one_before_is_used(tmp_path: Path, name: str) -> None:
    put(tmp_path, 1)
    file = put(tmp_path, 2) / name
    whole = file.read_bytes()
    rng = random.Random(4)
    for _ in range(60):
        place = rng.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        told: list[Damaged] = []
        found = newest(str(tmp_path), refused=told.append)
        assert found is not None
        assert found.step == 1
        assert [(damaged.step, damaged.file) for damaged in told] == [(2, name)], place
    file.write_bytes(whole)
    assert newest(str(tmp_path)).step == 2  # type: ignore[union-attr]


def test_what_is_missing_short_added_or_a_link_is_refused(tmp_path: Path) -> None:
    top = put(tmp_path, 2)

    def problem() -> str:
        with pytest.raises(Damaged) as caught:
            verify(str(tmp_path), 2)
        return str(caught.value)

    (top / "weights").write_bytes(b"w")
    assert problem() == "checkpoint of step 2: weights: has 1 bytes instead of 5000"
    (top / "weights").unlink()
    assert "weights: is missing" in problem()
    (tmp_path / "elsewhere").write_bytes(FILES["weights"])
    (top / "weights").symlink_to(tmp_path / "elsewhere")
    assert "weights: is no file, or on its way is a link" in problem()
    (top / "weights").unlink()
    os.mkfifo(top / "weights")
    assert "weights: is no file" in problem()
    (top / "weights").unlink()
    (top / "weights").write_bytes(FILES["weights"])
    (top / "parts" / "more").write_bytes(b"")
    assert "parts/more: is not in the manifest" in problem()
    (top / "parts" / "more").unlink()
    (top / "more").symlink_to("weights")
    assert "more: is neither a file nor a directory" in problem()
    (top / "more").unlink()
    (top / "parts").rename(tmp_path / "parts")
    (top / "parts").symlink_to(tmp_path / "parts")
    assert "parts/optimizer: is no file, or on its way is a link" in problem()
    (top / "parts").unlink()
    (tmp_path / "parts").rename(top / "parts")
    verify(str(tmp_path), 2)
    (top / "manifest.json").unlink()
    assert "manifest.json: is missing" in problem()


def test_a_checkpoint_that_is_a_link_is_none(tmp_path: Path) -> None:
    put(tmp_path / "theirs", 9)
    (tmp_path / "step-000000000009").symlink_to(tmp_path / "theirs" / "step-000000000009")
    told: list[Damaged] = []
    assert newest(str(tmp_path), refused=told.append) is None
    assert "links are not followed" in str(told[0])


def test_the_manifest_of_another_step_is_refused(tmp_path: Path) -> None:
    put(tmp_path, 5).rename(tmp_path / step_name(6))
    with pytest.raises(Damaged, match=r"manifest\.json: is the one of step 5"):
        verify(str(tmp_path), 6)


@pytest.mark.skipif(os.geteuid() != 0, reason="LEFT OUT: only root gives files away")
@pytest.mark.parametrize("name", [".", "parts", "weights", "manifest.json"])
def test_what_another_user_owns_is_refused(tmp_path: Path, name: str) -> None:
    top = put(tmp_path, 5)
    os.chown(top / name, ANOTHER_USER, -1)
    with pytest.raises(Damaged, match=f"belongs to user {ANOTHER_USER}, not to user 0"):
        verify(str(tmp_path), 5)
    assert verify(str(tmp_path), 5, owner=None).step == 5


def test_what_others_may_write_is_refused(tmp_path: Path) -> None:
    top = put(tmp_path, 5)
    (top / "parts").chmod(0o777)
    verify(str(tmp_path), 5)  # Nobody else comes as far as that.
    top.chmod(0o755)
    with pytest.raises(Damaged, match="parts/optimizer: may be written by other users"):
        verify(str(tmp_path), 5)
    top.chmod(0o770)
    with pytest.raises(Damaged, match=r"\.: may be written by other users"):
        verify(str(tmp_path), 5)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../up",
        "a/../b",
        "a//b",
        ".",
        "",
        "manifest.json",
        "a\0b",
        7,
        ["a"],
        "a" * 5000,
        "a" * 256,
        "a\ud800",
    ],
)
def test_a_manifest_with_a_way_out_is_none(path: object) -> None:
    document = json.loads(FilesManifest(1, "2026-11-29T12:00:00Z", 1.0, 1, 1, 1, ()).encode())
    document["files"] = [{"path": path, "size": 1, "sha256": "0" * 64}]
    with pytest.raises(Damaged, match=r"manifest\.json"):
        FilesManifest.decode(json.dumps(document).encode(), 1)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"format":2}', b'{"format":1}']
)
def test_nonsense_is_no_manifest(content: bytes) -> None:
    with pytest.raises(Damaged, match=r"checkpoint of step 1: manifest\.json: "):
        FilesManifest.decode(content, 1)


def test_what_is_wrong_is_said_in_few_words(tmp_path: Path) -> None:
    (tmp_path / step_name(1)).mkdir(mode=0o700)
    (tmp_path / step_name(1) / "manifest.json").write_text(json.dumps({"format": "x" * 10**6}))
    with pytest.raises(Damaged) as told:
        read_manifest(str(tmp_path), 1)
    assert len(str(told.value)) < 1000


def test_what_the_disk_does_not_give_back_is_refused_and_the_one_before_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2)
    real = layout.sha256_of

    def broken(descriptor: int) -> str:
        if step_name(2) in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor)

    monkeypatch.setattr(layout, "sha256_of", broken)
    refused: list[Damaged] = []
    found = newest(str(tmp_path), refused=refused.append)
    assert found is not None
    assert found.step == 1
    assert [str(each) for each in refused] == ["checkpoint of step 2: .: can't be read: Input/output error"]


def test_pruning_keeps_the_newest_whole_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        put(tmp_path, step)
    (tmp_path / step_name(4) / "weights").write_bytes(b"cut")
    assert prune(str(tmp_path), 3, newest=5) == [4, 1]
    assert steps(str(tmp_path)) == [5, 3, 2]
    assert prune(str(tmp_path), 2, newest=2, refused=frozenset({5})) == [5]
    assert prune(str(tmp_path), 0, newest=2) == [3]
    assert [path.name for path in tmp_path.iterdir()] == [step_name(2)]


def test_a_file_with_a_strange_name_stays(tmp_path: Path) -> None:
    put(tmp_path, 1, {"a\nb \udcff": b"1", "é": b"2"})
    assert [file.path for file in verify(str(tmp_path), 1).manifest.files] == ["a\nb \udcff", "é"]
