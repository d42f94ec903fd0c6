"""`cumulus checkpoints`, and what a client makes of what a server sends."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.answers.checkpoints import (
    CheckpointBytes,
    CheckpointCopied,
    CheckpointFile,
    CheckpointFound,
    CheckpointManifest,
    CheckpointPiece,
    JobCheckpoints,
)
from cumulus.checkpoint import layout
from cumulus.cli.verbs.checkpoints import receive
from cumulus.client.embedded import EmbeddedClient
from cumulus.errors import CumulusError, UsageError
from tests.cli.conftest import Run

CONTENT = b"weights" * 1000


def manifest(path: str = "rank-0/weights", content: bytes = CONTENT) -> bytes:
    file = layout.File(path, len(content), hashlib.sha256(content).hexdigest())
    return layout.FilesManifest(7, "2030-01-01T00:00:00Z", 1.0, 1, 1, 1, (file,)).encode()


def sent(path: str = "rank-0/weights", content: bytes = CONTENT, head: bytes = b"") -> Iterator[CheckpointPiece]:
    yield CheckpointManifest(7, head or manifest())
    yield CheckpointFile(path, len(content))
    yield CheckpointBytes(content[:100])
    yield CheckpointBytes(content[100:])


def test_what_comes_is_whole_and_the_users_alone(tmp_path: Path) -> None:
    place = receive(sent(), tmp_path / "new")
    assert place == tmp_path / "new" / "step-000000000007"
    assert layout.verify(str(tmp_path / "new"), 7).manifest.size == len(CONTENT)
    assert (place / "rank-0" / "weights").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="there already"):
        receive(sent(), tmp_path / "new")


@pytest.mark.parametrize("path", ["../weights", "/etc/weights", "rank-0/../../weights", "manifest.json"])
def test_a_file_that_would_lie_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    target = tmp_path / "in" / "new"
    with pytest.raises(CumulusError):
        receive(sent(path), target)
    with pytest.raises(CumulusError):
        receive(sent(path, head=_forged(path)), target)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["in", "in/new"]


def _forged(path: str) -> bytes:
    """With a right digest, as a server that is not ours could make it."""
    file = layout.File(path, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    return layout.FilesManifest(7, "2030-01-01T00:00:00Z", 1.0, 1, 1, 1, (file,)).encode()


def test_a_link_that_waits_in_the_target_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "new").mkdir()
    os.symlink(tmp_path / "victim", tmp_path / "new" / "step-000000000007")
    with pytest.raises(UsageError, match="there already"):
        receive(sent(), tmp_path / "new")
    assert list((tmp_path / "victim").iterdir()) == []


def test_what_another_fetch_has_put_there_meanwhile_stays(tmp_path: Path) -> None:
    other = tmp_path / "step-000000000007" / "weights"

    def pieces() -> Iterator[CheckpointPiece]:
        yield from sent()
        other.parent.mkdir()
        other.write_text("of another fetch")

    with pytest.raises(CumulusError, match="not come whole"):
        receive(pieces(), tmp_path)
    assert other.read_text() == "of another fetch"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000007"]


def test_one_that_was_not_read_to_its_end_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str, step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(layout, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        receive(sent(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [CheckpointFile("a", 1)],
        [CheckpointManifest(7, b"{}")],
        [CheckpointManifest(8, manifest())],
        [CheckpointManifest(7, manifest())],
        list(sent())[:3],
        list(sent(content=b"x" * len(CONTENT))),
        [*list(sent())[:2], CheckpointBytes(CONTENT + b"more")],
    ],
)
def test_what_does_not_come_whole_leaves_nothing(tmp_path: Path, pieces: list[CheckpointPiece]) -> None:
    with pytest.raises(CumulusError):
        receive(iter(pieces), tmp_path / "new")
    assert not (tmp_path / "new").exists() or list((tmp_path / "new").iterdir()) == []


def test_a_disk_that_is_too_small_is_told_before_anything_comes(small_disk: Path) -> None:
    def large() -> Iterator[CheckpointPiece]:
        file = layout.File("weights", 2**30, hashlib.sha256().hexdigest())
        yield CheckpointManifest(7, layout.FilesManifest(7, "2030-01-01T00:00:00Z", 1.0, 1, 1, 1, (file,)).encode())
        raise AssertionError("it was asked for more")

    target = small_disk / "new"
    with pytest.raises(CumulusError, match=rf"the checkpoint has 1Gi, and the disk of {target} has room for \d"):
        receive(large(), target)
    assert list(target.iterdir()) == []


def test_what_is_not_known_is_not_shown_as_nothing(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a damaged one nothing is known. Why the copy does not get on has a line of its own."""
    found = JobCheckpoints(
        "gpu-1", "/c", "s3://b/p",
        (
            CheckpointFound(3, "2030-01-01T00:00:00Z", 2048, 1.5, 2, 4),
            CheckpointFound(2, problem="manifest.json: is missing"),
            CheckpointFound(1, "2030-01-01T00:00:00Z", 0, attempt=1),
        ),
        CheckpointCopied(1, copying=3, problem="it does not answer"),
    )  # fmt: skip
    monkeypatch.setattr(EmbeddedClient, "checkpoints", lambda *_, **__: found)
    done = run("checkpoints", "train")
    assert [line.split()[:6] for line in done.out.splitlines()[1:]] == [
        ["3", "2030-01-01T00:00:00Z", "2Ki", "1.5s", "2", "4"],
        ["2", "-", "-", "-", "-", "-"],
        ["1", "2030-01-01T00:00:00Z", "0", "-", "1", "-"],
    ]
    assert done.err.splitlines()[-3:] == [
        "On gpu-1: /c", "Beyond it: s3://b/p (step 1, step 3 is on its way)", "  it does not answer"
    ]  # fmt: skip


def test_a_command_that_there_is_not_is_no_job(run: Run, home: Path) -> None:
    assert "no such command 'delete'" in run("checkpoints", "delete", "train").err
    assert "no such command 'verfy'. Did you mean 'verify'?" in run("checkpoints", "verfy", "train").err
    assert "'nosuch' not found" in run("checkpoints", "job", "nosuch").err
    assert "'delete' not found" in run("checkpoints", "delete", "-n", "default").err


def test_its_help_promises_no_format_that_it_has_not(run: Run, home: Path) -> None:
    assert "json." in run("checkpoints", "list", "--help").out
    assert "yaml" not in run("checkpoints", "list", "--help").out
    assert "the format is json" in run("checkpoints", "list", "train", "-o", "yaml").err
