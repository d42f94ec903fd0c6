"""Whether a call's Python is here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cumulus.infrastructure import pythons
from cumulus.infrastructure.pythons import missing_python


def call(python: str, *, image: str = "", path: str = "", interpreter: str = "") -> dict[str, Any]:
    spec: dict[str, Any] = {"call": {"python": python, "interpreter": interpreter}}
    if image:
        spec["image"] = image
    if path:
        spec["env"] = [{"name": "PATH", "value": path}]
    return {"spec": spec}


def test_what_no_process_can_run_is_told_with_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythons, "PATH", str(tmp_path))
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert missing_python(call("3.99"), "") == (
        "no Python 3.99 is on this node, and the call was made with that; it has none"
    )
    (tmp_path / "python3").symlink_to(sys.executable)
    (tmp_path / "python3.9").touch()
    assert missing_python(call(here), "") == ""
    assert missing_python(call("3.99"), "").endswith(f"it has 3.9, {here}")
    other = tmp_path / "other"
    other.mkdir()
    (other / "python3.99").touch(mode=0o755)
    for job, path in (
        (call("3.99"), str(other)), (call("3.99", path=str(other)), ""), (call("3.99", image="x"), ""),
        (call("3.99", interpreter=str(other / "python3.99")), ""), ({"spec": {}}, ""), ({"spec": {"call": 3}}, ""),
    ):  # fmt: skip
        assert missing_python(job, path) == ""


def test_nothing_that_the_caller_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon may be root, and the caller anybody of this machine."""
    (ours := tmp_path / "ours").mkdir()
    (theirs := tmp_path / "theirs").mkdir()
    monkeypatch.setattr(pythons, "PATH", str(ours))
    ran = tmp_path / "ran"
    for directory, name in ((theirs, "python3"), (theirs, "python"), (tmp_path, "python3")):
        (directory / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (directory / name).chmod(0o755)
    # What they are shows when the call starts, as its user.
    assert missing_python(call("3.99", path=str(theirs)), "") == ""
    assert missing_python(call("3.99", interpreter=str(tmp_path / "python3")), "") == ""
    assert not ran.exists()


def test_a_path_that_is_another_python_here_is_no_reason_to_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop and a node both have /usr/bin/python3."""
    monkeypatch.setattr(pythons, "PATH", str(tmp_path))
    (tmp_path / "python3").symlink_to(sys.executable)
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert missing_python(call("3.99", interpreter=str(tmp_path / "python3")), "").endswith(f"it has {here}")
    assert missing_python(call(here, interpreter=str(tmp_path / "python3")), "") == ""
