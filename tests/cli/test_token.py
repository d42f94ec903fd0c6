"""`cumulus token` and `cumulus kubeconfig`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cumulus import log
from cumulus.answers.server import ApiAddress
from cumulus.client import contexts
from cumulus.daemon_lock import DaemonLock
from cumulus.server.api_server import ApiServer
from cumulus.service.addresses import api_address
from cumulus.store.memory import MemoryStore
from tests.cli.conftest import Run
from tests.waiting import PATIENCE


@pytest.fixture
def listening(home: Path) -> ApiAddress:
    home.mkdir(mode=0o700)
    found = ApiAddress("https://127.0.0.1:4711", "-----BEGIN CERTIFICATE-----\n")
    api_address.write(home, found)
    return found


def test_a_token_is_made_shown_once_and_revoked(run: Run, home: Path) -> None:
    home.mkdir(mode=0o700)
    assert run("token", "list").err == "No tokens found.\n"
    made = run("token", "create", "laptop", "--duration", "8h")
    assert made.out.startswith("cumulus_")
    assert made.err.startswith("Token laptop of ")
    listed = run("token", "list")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "laptop"]
    assert made.out.strip() not in listed.out
    (shown,) = json.loads(run("token", "list", "-o", "json").out)
    assert shown["name"] == "laptop"
    assert "already" in run("token", "create", "laptop").err
    assert run("token", "create", "--duration", "soon").code == 2
    assert run("token", "create", "--duration", "1s").code == 1
    assert "revoked" in run("token", "revoke", "laptop").out
    assert "has no token laptop" in run("token", "revoke", "laptop").err
    assert run("token", "create", "laptop", "--user", "ada").code == 0
    assert "ada has one: cumulus token revoke laptop --user ada" in run("token", "revoke", "laptop").err
    assert run("token", "revoke", "laptop", "--user", "ada").code == 0


def test_a_kubeconfig_needs_a_daemon(run: Run, home: Path) -> None:
    home.mkdir(mode=0o700)
    assert "no daemon answers over TLS" in run("kubeconfig").err


def test_a_kubeconfig_holds_the_authority_and_a_token_that_ends(
    run: Run, home: Path, listening: ApiAddress, tmp_path: Path
) -> None:
    lock = DaemonLock(home)
    try:
        printed = contexts.from_kubeconfig(json.loads(run("kubeconfig", "-n", "labs").out))
        assert printed.current is not None
        assert (printed.current.server, printed.current.ca, printed.current.namespace) == (*listening, "labs")
        file = tmp_path / "kubeconfig"
        done = run("kubeconfig", "-o", str(file), "--address", "https://gpu.example.org", "--duration", "2h")
        assert done.code == 0, done.err
        assert file.stat().st_mode & 0o777 == 0o600
        written = contexts.read(file).current
        assert written is not None
        assert written.server == "https://gpu.example.org:443"
        assert written.token != printed.current.token
        assert written.token not in done.out + done.err
        assert len(run("token", "list").out.splitlines()) == 3
        assert run("kubeconfig", "--address", "http://x").code == 2
    finally:
        lock.close()


def test_a_new_token_says_how_to_log_in_with_it_and_so_one_gets_a_kubeconfig_elsewhere(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    log.silence()
    home.mkdir(mode=0o700)
    lock, server = DaemonLock(home), ApiServer(home, MemoryStore())
    server.start()
    try:
        assert server.listens_encrypted.wait(PATIENCE)
        made = run("token", "create", "laptop", "--duration", "1h")
        command = made.err.partition("use it: ")[2].split()
        assert command[:2] == ["cumulus", "login"]
        monkeypatch.setenv("CUMULUS_HOME", "")
        monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
        monkeypatch.setenv("CUMULUS_TOKEN", made.out.strip())
        done = run(*command[1:], "-n", "labs")
        assert done.code == 0, done.err
        monkeypatch.delenv("CUMULUS_TOKEN")
        there = contexts.from_kubeconfig(json.loads(run("kubeconfig").out)).current
        found = api_address.read(home)
        assert there is not None
        assert found is not None
        assert (there.server, there.ca.strip(), there.namespace) == (found.url, found.ca.strip(), "labs")
        # Made with a token, it ends with that.
        expires = {each["expires"] for each in json.loads(run("token", "list", "-o", "json").out)}
        assert len(expires) == 1
    finally:
        server.close()
        lock.close()
