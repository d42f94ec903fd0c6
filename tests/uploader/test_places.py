"""What goes to a place comes back the same, and what is damaged there is refused by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cumulus.blob.s3.client import Object, S3Client
from cumulus.checkpoint.layout import Damaged
from cumulus.errors import ObjectChanged, UsageError
from cumulus.uploader import catalog
from cumulus.uploader.catalog import Superseded
from cumulus.uploader.place import CheckpointName, Place, parse
from cumulus.uploader.restore import restore, verify
from cumulus.uploader.s3_place import S3Place
from cumulus.uploader.upload import Journal, Upload, UploadIncomplete
from tests.s3 import Server
from tests.uploader.saves import contents, loaded, save


@pytest.fixture
def upload(place: Place, tmp_path: Path) -> Callable[..., None]:
    journal = Journal(str(tmp_path / "notes.json"))

    def run(path: Path, step: int, keep: int = 10) -> None:
        Upload(place, journal).run(str(path), step, keep)

    return run


def test_a_round_trip(place: Place, tmp_path: Path, upload: Callable[..., None]) -> None:
    save(tmp_path / "a", 1)
    save(tmp_path / "a", 2)
    upload(tmp_path / "a", 1)
    upload(tmp_path / "a", 2)
    upload(tmp_path / "a", 2)
    assert [one.name for one in catalog.committed(place)] == [CheckpointName(1, 2), CheckpointName(1, 1)]
    assert catalog.committed(place)[0].size == sum(map(len, contents(2).values()))
    assert catalog.latest(place)[0] == CheckpointName(1, 2)
    found = restore(place, str(tmp_path / "b"))
    assert found is not None
    assert loaded(tmp_path / "b", 2) == contents(2)
    assert verify(place, CheckpointName(1, 1), str(tmp_path)).step == 1
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["step-000000000002"]
    assert (tmp_path / "b" / "step-000000000002").stat().st_mode & 0o777 == 0o700


def test_an_empty_place(place: Place, tmp_path: Path) -> None:
    assert restore(place, str(tmp_path / "b")) is None
    assert catalog.committed(place) == []
    assert catalog.latest(place) == (None, "")
    place.abandon(0)
    place.delete(["steps/000000000001-1/x"])


def test_where_the_checkpoint_is_there_the_damaged_one_is_replaced(
    place: Place, tmp_path: Path, upload: Callable[..., None]
) -> None:
    save(tmp_path / "a", 1)
    upload(tmp_path / "a", 1)
    Path(tmp_path, "a/step-000000000001/model.bin").write_bytes(b"damaged")
    restore(place, str(tmp_path / "a"))
    assert loaded(tmp_path / "a", 1) == contents(1)


PARTS = [("model.bin", 0), ("model.bin", 6 * 2**20), ("model.bin", -1), ("optimizer/state.json", 1)]


@pytest.mark.parametrize(("file", "where"), PARTS)
def test_one_byte_flipped_is_refused_by_name_and_the_previous_one_is_used(
    place: Place, tmp_path: Path, upload: Callable[..., None], file: str, where: int
) -> None:
    for step in (1, 2):
        save(tmp_path / "a", step)
        upload(tmp_path / "a", step)
    flip(place, f"steps/000000000002-1/{file}", where)
    refused: list[Damaged] = []
    found = restore(place, str(tmp_path / "b"), refused=refused.append)
    assert found is not None
    assert found.step == 1
    assert loaded(tmp_path / "b", 1) == contents(1)
    assert [str(damaged) for damaged in refused] == [f"checkpoint of step 2: {file}: does not match its sha256"]
    assert not [path for path in (tmp_path / "b").iterdir() if path.name.startswith(".tmp")]
    with pytest.raises(Damaged, match=file):
        verify(place, CheckpointName(1, 2))


@pytest.mark.parametrize("where", [2, 30, -2, -80])
def test_a_byte_of_the_manifest_flipped(place: Place, tmp_path: Path, upload: Callable[..., None], where: int) -> None:
    for step in (1, 2):
        save(tmp_path / "a", step, {"x": b"%d" % step})
        upload(tmp_path / "a", step)
    flip(place, "steps/000000000002-1/manifest.json", where)
    refused: list[Damaged] = []
    found = restore(place, str(tmp_path / "b"), refused=refused.append)
    assert found is not None
    assert found.step == 1
    assert [damaged.file for damaged in refused] == ["manifest.json"]


def test_a_file_that_is_missing_or_longer(place: Place, tmp_path: Path, upload: Callable[..., None]) -> None:
    for step in (1, 2, 3):
        save(tmp_path / "a", step, {"x": b"%d" % step})
        upload(tmp_path / "a", step)
    place.delete(["steps/000000000003-1/x"])
    version = place.read("steps/000000000002-1/x")
    assert version is not None
    place.put("steps/000000000002-1/x", b"22", version[1])
    refused: list[Damaged] = []
    found = restore(place, str(tmp_path / "b"), refused=refused.append)
    assert found is not None
    assert found.step == 1
    assert [damaged.problem for damaged in refused] == ["is missing", "has 2 bytes instead of 1"]


def test_large_files_come_several_at_a_time_and_one_of_them_is_damaged(
    place: Place, tmp_path: Path, upload: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cumulus.uploader.restore.SMALL", 0)
    kept = {name: name.encode() * 1000 for name in "abcdef"}
    for step in (1, 2):
        save(tmp_path / "a", step, kept)
        upload(tmp_path / "a", step)
    flip(place, f"{CheckpointName(1, 2).prefix}c", 500)
    refused: list[Damaged] = []
    found = restore(place, str(tmp_path / "b"), refused=refused.append)
    assert found is not None
    assert found.step == 1
    assert loaded(tmp_path / "b", 1) == kept
    assert [(damaged.step, damaged.file) for damaged in refused] == [(2, "c")]


@pytest.mark.xdist_group("s3")
def test_what_is_replaced_while_it_is_read_is_refused_by_name(seaweedfs: Server, tmp_path: Path) -> None:
    """By somebody else with keys to the bucket. The previous one is used."""
    client = Swapping(seaweedfs.bucket(), patience=10)
    place = S3Place(client, "checkpoints/team/uid")
    for step in (1, 2):
        save(tmp_path / "a", step, {"x": b"%d" % step})
        Upload(place, Journal(str(tmp_path / "notes.json"))).run(str(tmp_path / "a"), step, 10)
    client.swaps = f"checkpoints/team/uid/{CheckpointName(1, 2).prefix}x"
    refused: list[Damaged] = []
    found = restore(place, str(tmp_path / "b"), refused=refused.append)
    assert found is not None
    assert found.step == 1
    assert [(damaged.file, damaged.problem) for damaged in refused] == [("x", "changed while it was read")]


class Swapping(S3Client):
    """After somebody has looked at the object `swaps`, another is there."""

    swaps = ""

    def head(self, key: str) -> Object | None:
        found = super().head(key)
        if key == self.swaps:
            self.put(key, b"!")
        return found


def flip(place: Place, key: str, where: int) -> None:
    found = place.read(key)
    assert found is not None
    content = bytearray(found[0])
    content[where] ^= 1
    place.put(key, bytes(content), found[1])


def test_what_is_damaged_on_the_node_is_not_committed(
    place: Place, tmp_path: Path, upload: Callable[..., None]
) -> None:
    for step, file in enumerate(("model.bin", "optimizer/state.json")):
        save(tmp_path / "a", step)
        path = tmp_path / "a" / f"step-{step:012}" / file
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(Damaged, match=f"{file}: does not match its sha256"):
            upload(tmp_path / "a", step)
    assert catalog.committed(place) == []
    assert restore(place, str(tmp_path / "b")) is None


def test_pruning_keeps_the_newest(place: Place, tmp_path: Path, upload: Callable[..., None]) -> None:
    for step in range(1, 6):
        save(tmp_path / "a", step, {"x": b"%d" % step})
        upload(tmp_path / "a", step, 2)
    assert [one.name.step for one in catalog.committed(place)] == [5, 4]
    # A later attempt went on from an earlier step.
    save(tmp_path / "a", 3, {"x": b"again"}, token=2)
    upload(tmp_path / "a", 3, 1)
    assert [one.name for one in catalog.committed(place)] == [CheckpointName(2, 3)]
    assert catalog.latest(place)[0] == CheckpointName(2, 3)
    assert {found.key for found in place.list("steps/")} == {
        f"steps/000000000003-2/{x}" for x in ("x", "manifest.json")
    }


def test_a_zombie_loses(place: Place, tmp_path: Path, upload: Callable[..., None]) -> None:
    save(tmp_path / "a", 100, {"x": b"zombie"}, token=1)
    save(tmp_path / "b", 50, {"x": b"new"}, token=2)
    upload(tmp_path / "b", 50)
    with pytest.raises(Superseded, match=r"a later attempt \(token 2, this one: 1\) has saved step 50"):
        upload(tmp_path / "a", 100)
    assert catalog.latest(place)[0] == CheckpointName(2, 50)
    # Nor where it was stopped between its look at the token and its commit.
    place.put(CheckpointName(1, 100).manifest, save(tmp_path / "a", 100, {}, token=1).encode())
    with pytest.raises(Superseded):
        catalog.move_latest(place, CheckpointName(1, 100), b"")
    found = restore(place, str(tmp_path / "c"))
    assert found is not None
    assert found.step == 50


def test_two_that_race_for_latest(place: Place) -> None:
    """Whatever they do, it never goes back to an older token."""
    seen: list[CheckpointName] = []
    lost: list[Superseded] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            name, _ = catalog.latest(place)
            if name is not None:
                seen.append(name)

    def race(token: int) -> None:
        try:
            for step in range(10):
                catalog.move_latest(place, CheckpointName(token, step * (3 - token)), b"manifest")
        except Superseded as error:
            lost.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    racers = [threading.Thread(target=race, args=(token,)) for token in (1, 2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    stop.set()
    watcher.join()
    assert seen == sorted(seen)
    assert catalog.latest(place)[0] == CheckpointName(2, 9)


def test_a_commit_is_never_written_over(place: Place, tmp_path: Path, upload: Callable[..., None]) -> None:
    save(tmp_path / "a", 1, {"x": b"1"})
    upload(tmp_path / "a", 1)
    with pytest.raises(ObjectChanged):
        place.put(CheckpointName(1, 1).manifest, b"other")
    save(tmp_path / "a", 1, {"x": b"2"})
    with pytest.raises(Damaged, match=r"is not what .* has of this step and token 1"):
        upload(tmp_path / "a", 1)
    assert loaded_from(place, tmp_path / "b") == {"x": b"1"}


def loaded_from(place: Place, path: Path) -> dict[str, bytes]:
    found = restore(place, str(path))
    assert found is not None
    return loaded(path, found.step)


def test_ranks_on_several_nodes(place: Place, tmp_path: Path, upload: Callable[..., None]) -> None:
    """Each node has its own ranks' files, and the one manifest. The last one commits."""
    files = {"rank-0/x": b"0", "rank-1/x": b"1"}
    for rank in (0, 1):
        save(tmp_path / f"node-{rank}", 7, files, world=2, here=frozenset({f"rank-{rank}/x"}))
    with pytest.raises(UploadIncomplete, match="rank-1/x of step 7 is on another node"):
        upload(tmp_path / "node-0", 7)
    assert catalog.committed(place) == []
    upload(tmp_path / "node-1", 7)
    assert loaded_from(place, tmp_path / "b") == files
    upload(tmp_path / "node-0", 7)


def test_where_a_place_is() -> None:
    assert parse("s3://bucket/a/b/") == ("s3", "bucket", "a/b")
    assert parse("file:///shared/a%20b") == ("file", "", "/shared/a b")
    for wrong in (
        "s3://bucket",
        "s3://bucket/",
        "s3://b/a/../c",
        "s3:///a",
        "file://host/a",
        "file:a",
        "http://a/b",
        "",
    ):
        with pytest.raises(UsageError, match="no place for checkpoints"):
            parse(wrong)
