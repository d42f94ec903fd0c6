"""What `run --sync` packs of a directory, and what it lets come back into it."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.answers.carried import ChangedBytes, ChangedFile, ChangePiece, ChangesFound, GoneFile, StayingFile
from cumulus.cli import carried, context
from cumulus.errors import CumulusError, UsageError
from cumulus.resources.key import Key

KEY = Key("GPUJob", "default", "tune-abcde")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    (made / "below").mkdir(parents=True)
    (made / "train.py").write_text("print()\n")
    (made / "below" / "tool").touch(mode=0o755)
    return made


class Server:
    """Says that the job is over, and what it changed."""

    def __init__(self, *pieces: ChangePiece) -> None:
        self.pieces = pieces

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get(self, key: Key) -> dict[str, object]:
        return {"status": {"phase": "Succeeded"}}

    def changes(self, key: Key, *, most: int) -> Iterator[ChangePiece]:
        return iter(self.pieces)


def bring(monkeypatch: pytest.MonkeyPatch, directory: Path, *pieces: ChangePiece, sent: bool = True) -> None:
    found = ChangesFound("gpu-3", "/work", 1, 2**21, sent)
    monkeypatch.setattr(context, "client", lambda **_: Server(found, *pieces))
    carried.bring_back(KEY, directory, 2**20)


def written(path: str, text: str, *before: int) -> tuple[ChangePiece, ...]:
    return ChangedFile(path, len(text), 0o755, 10**18, *before), *([ChangedBytes(text.encode())] if text else [])


def test_what_goes_along(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / ".gitignore").write_text("data/\n")
    for name in ("data", ".git", "__pycache__", ".venv"):
        (directory / name).mkdir()
        (directory / name / "large").write_bytes(b"x" * 2000)
    (directory / "inside").symlink_to("below/tool")
    (directory / "outside").symlink_to("../../elsewhere")
    os.mkfifo(directory / "pipe")
    with carried.packed(directory, 1000) as archive, tarfile.open(fileobj=archive) as entries:
        modes = {entry.name: oct(entry.mode) for entry in entries if entry.isfile()}
        assert entries.getmember("inside").linkname == "below/tool"
        content = entries.extractfile(".cumulus-sync")
        assert content is not None
        said = json.load(content)
    assert sorted(modes) == [".cumulus-sync", ".gitignore", "below/tool", "train.py"]
    assert modes["below/tool"] == "0o755"
    assert said["files"]["train.py"] == [8, int((directory / "train.py").stat().st_mtime)]
    err = capsys.readouterr().err
    assert f"3 files of {directory} go along: 14." in err
    assert "  outside\n  pipe\n" in err


def test_too_much_does_not_go(directory: Path) -> None:
    (directory / "weights").write_bytes(b"x" * 5000)
    with pytest.raises(
        UsageError, match=r"has 4.9Ki, more than 1000; the largest files are weights \(4.9Ki\), train.py \(8\)"
    ) as refused:
        carried.packed(directory, 1000)
    assert "name what need not travel in .cumulusignore, or raise --sync-limit" in str(refused.value.hint)


def test_what_changed_comes_back_over_nothing_that_changed_here(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = (directory / "train.py").stat()
    (directory / "notes").write_text("mine")
    bring(
        monkeypatch, directory, *written("train.py", "new", status.st_size, int(status.st_mtime)),
        *written("runs/a/log", "1\n"), *written("notes", "theirs"), *written("empty", ""), GoneFile("old"),
        StayingFile("link"),
    )  # fmt: skip
    assert (directory / "train.py").read_text() == "new"
    assert (directory / "runs" / "a" / "log").read_text() == "1\n"
    assert (directory / "runs" / "a" / "log").stat().st_mtime_ns == 10**18
    assert (directory / "notes").read_text() == "mine"
    assert (directory / "notes.tune-abcde").read_text() == "theirs"
    assert (directory / "empty").read_text() == ""
    err = capsys.readouterr().err
    assert "4 files came back:\n  train.py 3\n" in err
    assert "  notes.tune-abcde 6 (notes was changed here meanwhile)\n" in err
    assert "The job deleted these, which stay here:\n  old\nThese stay on its node:\n  link\n" in err
    assert not [name for name in os.listdir(directory) if name.startswith(".cumulus")]


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a//x", "a/../../x", "link/x", "x\0y", "train.py/x", ""])
def test_nothing_comes_outside(directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (directory / "link").symlink_to(tmp_path / "elsewhere")
    before = sorted(str(each) for each in tmp_path.rglob("*"))
    with pytest.raises(CumulusError):
        bring(monkeypatch, directory, *written(path, "evil"))
    assert sorted(str(each) for each in tmp_path.rglob("*")) == before


def test_a_link_in_a_files_place_is_not_followed(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("mine")
    (directory / "out").symlink_to(tmp_path / "secret")
    bring(monkeypatch, directory, *written("out", "theirs"))
    assert (tmp_path / "secret").read_text() == "mine"
    assert (directory / "out.tune-abcde").read_text() == "theirs"


def test_what_is_cut_off_leaves_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CumulusError, match="did not come whole"):
        bring(monkeypatch, directory, ChangedFile("big", 10, 0o644, 0), ChangedBytes(b"12345"))
    assert sorted(os.listdir(directory)) == ["below", "train.py"]


def test_too_much_stays_and_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CumulusError, match=r"stays in /work on gpu-3 .*weights \(2Mi\)") as refused:
        bring(monkeypatch, directory, ChangedFile("weights", 2**21, 0o644, 0), sent=False)
    assert refused.value.hint == "cumulus attach --sync tune-abcde --sync-limit 2Mi"
