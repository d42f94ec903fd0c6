from __future__ import annotations

import io
import stat
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_create_list_delete(home: Path, tmp_path: Path, run: Run) -> None:
    value = tmp_path / "token"
    value.write_text("s3cret-value\n")
    token = ("--from-file", f"token={value}")
    assert run("secret", "create", "hub", *token) == (0, "secret/hub created\n", "")
    path = home / "job-secrets" / "default" / "hub" / "token"
    assert path.read_text() == "s3cret-value\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = run("secret", "create", "hub", *token)
    assert again.err == ("error: the secret hub in the namespace default is there already; give --overwrite\n")
    assert run("secret", "create", "hub", *token, "--overwrite").out == "secret/hub changed\n"
    assert run("secret", "create", "hub", *token, "-n", "team").code == 0
    assert run("secret", "create", "gpu-3", "--system", *token).code == 0
    listed = run("secret", "list")
    assert listed.out == "NAME   KEY\nhub    token\n"
    assert "s3cret" not in listed.out
    assert (
        run("secret", "list", "-A").out
        == "NAMESPACE   NAME   KEY\ndefault     hub    token\nteam        hub    token\n"
    )
    assert run("secret", "list", "--system").out == "NAME    KEY\ngpu-3   token\n"
    assert run("secret", "delete", "hub").out == "secret/hub all keys deleted\n"
    assert run("secret", "list") == (0, "", "No secrets found.\n")
    assert run("secret", "delete", "hub", "token").err == (
        "error: there is no secret hub in the namespace default with a key token\n"
    )


def test_from_standard_input(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"value")))
    assert run("secret", "create", "a", "--from-file", "b=-").code == 0
    assert (home / "job-secrets" / "default" / "a" / "b").read_text() == "value"


def test_the_value_has_no_way_through_the_command_line(home: Path, tmp_path: Path, run: Run) -> None:
    assert run("secret", "create", "a", "b", "value").code == 2
    assert run("secret", "create", "a").code == 2
    assert run("secret", "create", "a", "--from-file", "value").code == 2
    assert run("secret", "create", "a", "--from-file", f"b={tmp_path / 'missing'}").code == 1
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8 text" in run("secret", "create", "a", "--from-file", f"b={binary}").err
    assert run("secret", "create", "../a", "--from-file", "b=/dev/null").code == 1
    assert run("secret").code in (0, 2)


def test_migrate(home: Path, run: Run) -> None:
    old = home / "secrets" / "hub"
    old.mkdir(parents=True, mode=0o700)
    (home / "secrets").chmod(0o700)
    (old / "token").write_text("x")
    (old / "token").chmod(0o600)
    assert run("secret", "migrate", "--dry-run").out == "secret/hub would go to namespace default\n"
    assert (old / "token").exists()
    assert run("secret", "migrate").out == "secret/hub went to namespace default\n"
    assert (home / "job-secrets" / "default" / "hub" / "token").read_text() == "x"
    assert run("secret", "migrate") == (0, "", "No secret has to move.\n")
