from __future__ import annotations

import io
import stat
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_set_list_delete(home: Path, tmp_path: Path, run: Run) -> None:
    value = tmp_path / "token"
    value.write_text("s3cret-value\n")
    done = run("secret", "set", "registry", "token", "--from-file", str(value))
    assert done == (0, "secret/registry token set\n", "")
    path = home / "secrets" / "registry" / "token"
    assert path.read_text() == "s3cret-value\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listed = run("secret", "list")
    assert listed.out == "NAME       KEY\nregistry   token\n"
    assert "s3cret" not in listed.out
    assert run("secret", "delete", "registry").out == "secret/registry all keys deleted\n"
    assert run("secret", "list") == (0, "", "No secrets found.\n")
    assert run("secret", "delete", "registry", "token").err == "error: there is no secret registry with a key token\n"


def test_from_standard_input(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"value")))
    assert run("secret", "set", "a", "b", "--from-file", "-").code == 0
    assert (home / "secrets" / "a" / "b").read_text() == "value"


def test_the_value_has_no_way_through_the_command_line(home: Path, tmp_path: Path, run: Run) -> None:
    assert run("secret", "set", "a", "b", "value").code == 2
    assert run("secret", "set", "a", "b").code == 2
    assert run("secret", "set", "a", "b", "--from-file", str(tmp_path / "missing")).code == 1
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8 text" in run("secret", "set", "a", "b", "--from-file", str(binary)).err
    assert run("secret", "set", "../a", "b", "--from-file", "/dev/null").code == 1
    assert run("secret").code in (0, 2)
