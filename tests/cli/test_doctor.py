from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.cli import checks
from cumulus.cli.checks import Finding
from cumulus.cli.verbs import doctor
from cumulus.clock import SystemClock
from cumulus.errors import StoreUnavailable
from cumulus.store import schema
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run, job


def test_this_machine(run: Run, store: SqliteStore) -> None:
    store.create(job("a"))
    done = run("doctor")
    assert done.code == 0, done.out
    assert "1 gpujob; every object reads well" in done.out
    assert "none runs on this state directory" in done.out
    assert "fix: run: cumulus serve" in done.out
    for part in ("state", "store", "daemon", "ledger", "device", "enforcement", "opencl", "docker", "ssh"):
        assert f"  {part} " in done.out, part
    assert "\x1b" not in done.out
    found = json.loads(run("doctor", "-o", "json").out)
    assert {finding["level"] for finding in found} <= {"OK", "WARN"}
    assert run("doctor", "-o", "yaml").code == 2


def test_nothing_is_made_by_looking(run: Run, home: Path, tmp_path: Path) -> None:
    assert run("doctor").code == 0
    assert not home.exists()
    assert not (tmp_path / "chronos").exists()


def test_every_warning_and_failure_has_a_fix(run: Run, home: Path) -> None:
    for finding in json.loads(run("doctor", "-o", "json").out):
        assert finding["level"] == "OK" or finding["fix"], finding


def test_a_damaged_store_fails(home: Path, run: Run) -> None:
    (home / "store").mkdir(parents=True)
    (home / "store" / schema.FILE).write_bytes(b"no database" * 1000)
    [finding] = checks.guarded(checks.store)
    assert finding.level == "FAIL"
    assert run("doctor").code == 1


def hangs() -> Iterator[Finding]:
    time.sleep(3600)
    yield Finding("OK", "never", "")


def breaks() -> Iterator[Finding]:
    yield Finding("OK", "first", "fine")
    raise StoreUnavailable("it broke", hint="mend it")


def test_a_check_that_hangs_or_breaks_is_a_finding() -> None:
    began = time.monotonic()
    found = list(doctor.examine((hangs, breaks), SystemClock(), 0.2))
    assert time.monotonic() - began < 5
    assert [(f.level, f.what) for f in found] == [("FAIL", "hangs"), ("FAIL", "breaks")]
    assert found[1] == Finding("FAIL", "breaks", "it broke", "mend it")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def tool(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_docker(tools: Path) -> None:
    assert [f.level for f in checks.docker()] == ["WARN"]
    tool(tools, "docker", """echo '{"ServerVersion": "27.1", "Swarm": {"LocalNodeState": "active"}}'""")
    assert list(checks.docker()) == [Finding("OK", "docker", "Engine 27.1, swarm active")]
    tool(tools, "docker", """echo '{"ServerErrors": ["no permission"]}'""")
    [finding] = checks.docker()
    assert (finding.level, finding.text) == ("WARN", "the engine does not answer: no permission")
    tool(tools, "docker", "echo broken >&2; exit 1")
    assert "broken" in next(iter(checks.docker())).text


def test_ssh(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no client" in next(iter(checks.ssh())).text
    tool(tools, "ssh", "echo OpenSSH_9, x >&2")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert "no agent runs" in next(iter(checks.ssh())).text
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    for script, text in (("exit 2", "does not answer"), ("exit 1", "holds no key"), ("echo a; echo b", "holds 2 keys")):
        tool(tools, "ssh-add", script)
        assert text in next(iter(checks.ssh())).text


def test_a_directory_that_others_may_write(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)
    assert next(iter(checks.state())).fix == f"run: chmod go-w {home}"
    home.rmdir()
    home.write_text("a file")
    assert next(iter(checks.state())).level == "FAIL"
    os.unlink(home)
