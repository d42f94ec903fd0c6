"""Several ranks, one checkpoint: all of them agree on it, or there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cumulus.checkpoint import layout
from cumulus.checkpoint.checkpointer import Checkpointer
from cumulus.checkpoint.gang_save import GangSave, Voided
from cumulus.checkpoint.groups import FileGroup, RanksApart
from cumulus.checkpoint.settings import Settings
from tests.checkpoint.conftest import Patient

WORLD = 3


def ranks(act: Callable[[int], Any], world: int = WORLD) -> list[Any]:
    """What each rank returns, or the exception that it raises; each in a thread."""

    def one(rank: int) -> Any:
        try:
            return act(rank)
        except Exception as error:
            return error

    with ThreadPoolExecutor(world) as pool:
        return [*pool.map(one, range(world))]


@pytest.fixture
def gang(tmp_path: Path) -> list[Checkpointer]:
    return gang_of(tmp_path / "l1")


def gang_of(place: Path, world: int = WORLD, **settings: Any) -> list[Checkpointer]:
    return [Patient(Settings(path=str(place), keep=2, rank=rank, world=world, **settings)) for rank in range(world)]


@pytest.mark.parametrize("wait", [True, False])
def test_one_manifest_for_all_ranks(gang: list[Checkpointer], tmp_path: Path, wait: bool) -> None:
    def train(rank: int) -> Any:
        for step in range(4):
            gang[rank].save({"rank": rank, "step": step}, step=step, wait=wait)
        return gang[rank].load()

    assert ranks(train) == [{"rank": rank, "step": 3} for rank in range(WORLD)]
    found = layout.newest(str(tmp_path / "l1"))
    assert found is not None
    assert found.manifest.world == WORLD
    assert [file.path for file in found.manifest.files] == [f"rank-{rank}/state.pickle" for rank in range(WORLD)]
    assert layout.steps(str(tmp_path / "l1")) == [3, 2]
    again = gang_of(tmp_path / "l1")
    assert ranks(lambda rank: again[rank].load()["rank"]) == [0, 1, 2]


def test_a_rank_that_fails_voids_the_step(gang: list[Checkpointer], tmp_path: Path) -> None:
    def train(rank: int) -> Any:
        gang[rank].save("one", step=1)
        with gang[rank].saving(2) as directory:
            Path(directory, "x").write_bytes(b"")
            if rank == 1:
                raise OSError(28, "No space left on device")

    zero, one, two = ranks(train)
    assert isinstance(one, OSError)
    for other in (zero, two):
        assert isinstance(other, Voided)
        assert str(other) == ("the checkpoint of step 2 is void: rank 1 failed: [Errno 28] No space left on device")
    assert layout.steps(str(tmp_path / "l1")) == [1]
    assert not [*(tmp_path / "l1").glob(".tmp-*")]
    assert ranks(lambda rank: gang[rank].save("three", step=3)) == [None] * WORLD
    assert ranks(lambda rank: gang[rank].load()) == ["three"] * WORLD


def test_a_rank_that_fails_when_the_others_are_gone_says_why_it_failed(tmp_path: Path) -> None:
    groups = [FileGroup(str(tmp_path / "l1"), rank, 2, patience=0.2) for rank in range(2)]
    save, _ = ranks(lambda rank: GangSave(groups[rank], str(tmp_path / "l1"), 1), 2)
    Path(save.directory, "x").write_bytes(b"")
    save.void(OSError(28, "No space left on device"))
    assert not [*(tmp_path / "l1").glob(".tmp-*")]


def test_ranks_agree_on_the_step(gang: list[Checkpointer], tmp_path: Path) -> None:
    found = ranks(lambda rank: gang[rank].save("x", step=5 if rank else 4))
    assert [str(error) for error in found] == ["ranks save different steps: 4, 5"] * WORLD
    found = ranks(lambda rank: gang[rank].save("x", step=-1 if rank == 2 else 4))
    assert [type(error) for error in found] == [Voided, Voided, ValueError]
    assert layout.steps(str(tmp_path / "l1")) == []


def test_all_write_into_one_directory(gang: list[Checkpointer], tmp_path: Path) -> None:
    def train(rank: int) -> Any:
        with gang[rank].saving(1, shared=True) as directory:
            Path(directory, f"shard-{rank}").write_bytes(bytes([rank]) * 1000)
        found = gang[rank].latest()
        return found and found.path

    assert ranks(train) == [str(tmp_path / "l1" / "step-000000000001")] * WORLD
    assert sorted(path.name for path in (tmp_path / "l1" / "step-000000000001").iterdir()) == [
        "manifest.json", "shard-0", "shard-1", "shard-2"
    ]  # fmt: skip


def test_damage_in_the_part_of_one_rank_is_damage_for_all(gang: list[Checkpointer], tmp_path: Path) -> None:
    def train(rank: int) -> None:
        for step in (1, 2):
            gang[rank].save(step, step=step)

    ranks(train)
    file = tmp_path / "l1" / "step-000000000002" / "rank-2" / "state.pickle"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    again = gang_of(tmp_path / "l1")
    assert ranks(lambda rank: again[rank].load()) == [1] * WORLD


def test_a_directory_that_cannot_be_read_is_an_error_for_all(gang: list[Checkpointer], tmp_path: Path) -> None:
    ranks(lambda rank: gang[rank].save(1, step=1))
    (tmp_path / "l1").rename(tmp_path / "away")
    (tmp_path / "l1").symlink_to(tmp_path / "away")
    again = gang_of(tmp_path / "l1")
    ranks(lambda rank: again[rank].save(2, step=2))
    gang_directory = tmp_path / "away" / ".gang"
    for name in ("step-000000000001", "step-000000000002"):
        (tmp_path / "away" / name / "manifest.json").unlink()
    assert ranks(lambda rank: again[rank].load()) == [None] * WORLD
    assert gang_directory.is_dir()


def test_another_number_of_ranks_is_told(gang: list[Checkpointer], tmp_path: Path) -> None:
    ranks(lambda rank: gang[rank].save(1, step=1))
    two = gang_of(tmp_path / "l1", 2)
    for error in ranks(lambda rank: two[rank].load(), 2):
        assert str(error) == "the checkpoint of step 1 is of 3 ranks, and there are 2 now"


def test_all_get_the_same_answer(tmp_path: Path) -> None:
    """The node asks one of them, at some moment; in the end they have saved the same step and exit together."""
    request = tmp_path / "request"
    gang = gang_of(tmp_path / "l1", request=str(request))

    def train(rank: int) -> tuple[int, int]:
        for step in range(100_000):
            if rank == 1 and step == 500:
                request.write_text("drain")
            if gang[rank].should_checkpoint():
                gang[rank].save(step, step=step)
                try:
                    gang[rank].exit_if_ending()
                except SystemExit as ended:
                    return step, int(str(ended.code))
        raise AssertionError("none was due")

    first, *others = ranks(train)
    assert first[1] == 75
    assert others == [first] * (WORLD - 1)
    assert first[0] >= 500


def test_what_an_earlier_run_left_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    def run(rank: int) -> list[Any]:
        group = FileGroup(str(tmp_path / "l1"), rank, WORLD, patience=20)
        heard = [group.gather([rank, turn]) for turn in range(3)]
        return [*heard, group.second().gather(rank)]

    for _ in range(3):
        assert ranks(run) == [[*([[0, turn], [1, turn], [2, turn]] for turn in range(3)), [0, 1, 2]]] * WORLD
    assert len([*(tmp_path / "l1" / ".gang").iterdir()]) < 30


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    (tmp_path / "l1" / ".gang").mkdir(parents=True)
    (tmp_path / "l1" / ".gang" / "hello-1").write_text(json.dumps({"value": "of an earlier run"}))
    with pytest.raises(RanksApart, match=r"rank 0 of 2 waited 0\.2 s for other ranks in .* \(missing: .*-ready-1\)"):
        FileGroup(str(tmp_path / "l1"), 0, 2, patience=0.2).gather(1)
    with pytest.raises(RanksApart, match="do they not share this directory"):
        FileGroup(str(tmp_path / "l1"), 1, 2, patience=0.2).gather(1)
