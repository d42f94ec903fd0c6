"""What a program changed in a directory that was carried to it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cumulus.uploader import changed

AT = 1_700_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three files as they were unpacked, with their list."""
    held = {}
    for name in ("kept", "written", "below/gone"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("first")
        os.utime(path, (AT, AT))
        held[name] = [5, AT]
    (tmp_path / changed.LIST).write_text(json.dumps({"files": held, "skip": ["__pycache__", "*.py[co]"]}))
    return tmp_path


def sent(root: Path, most: int) -> tuple[list[Mapping[str, Any]], bytes]:
    told: list[Mapping[str, Any]] = []
    content = bytearray()
    changed.send(str(root), most, told.append, content.extend)
    return told, bytes(content)


def test_only_what_differs_is_sent(root: Path) -> None:
    (root / "written").write_text("other")
    (root / "below" / "gone").unlink()
    (root / "runs").mkdir()
    (root / "runs" / "new.csv").write_text("1,2\n")
    (root / "runs" / "new.csv").chmod(0o640)
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.py").touch()
    (root / "x.pyc").touch()
    (root / "link").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe")
    told, content = sent(root, 100)
    files = {line["path"]: line for line in told if "path" in line}
    assert told[0] == {"files": 2, "size": 9, "sent": True}
    assert content == b"1,2\nother"
    assert list(files) == ["runs/new.csv", "written"]
    assert (files["runs/new.csv"]["mode"], files["runs/new.csv"]["before"]) == (0o640, None)
    assert files["written"]["before"] == [5, AT]
    assert [line["gone"] for line in told if "gone" in line] == ["below/gone"]
    assert [line["stays"] for line in told if "stays" in line] == ["link", "pipe"]


def test_too_much_is_told_and_not_sent(root: Path) -> None:
    (root / "big").write_bytes(b"x" * 1000)
    told, content = sent(root, 999)
    assert told[0] == {"files": 1, "size": 1000, "sent": False}
    assert (told[1]["path"], content) == ("big", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no directory was carried to it"), ("{}", "wrote over the list"), ("[" * 10_000, "wrote over the list")],
)
def test_without_its_list_nothing_is(root: Path, content: str | None, words: str) -> None:
    (root / changed.LIST).unlink()
    if content is not None:
        (root / changed.LIST).write_text(content)
    with pytest.raises(ValueError, match=words):
        sent(root, 100)
