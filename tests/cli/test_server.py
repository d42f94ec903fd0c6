"""Commands against a server: over its socket, over TLS with a login, and whom a command asks."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus import log
from cumulus.client import contexts
from cumulus.client.endpoint import Endpoint
from cumulus.client.http import trust
from cumulus.daemon_lock import DaemonLock
from cumulus.lib.fingerprint import fingerprint
from cumulus.server.api_server import ApiServer
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import failed, job, node, running
from tests.waiting import PATIENCE


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where contexts are kept."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("CUMULUS_TOKEN", "CUMULUS_ORCHESTRATOR_URL", "CUMULUS_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config" / "cumulus" / "contexts.json"


@pytest.fixture
def api(home: Path, store: SqliteStore, config: Path) -> Iterator[ApiServer]:
    log.silence()
    lock = DaemonLock(home)
    server = ApiServer(home, store)
    server.start()
    assert server.listens.wait(PATIENCE)
    yield server
    server.close()
    lock.close()


def test_what_is_printed_is_the_same_with_and_without_a_server(
    api: ApiServer, store: SqliteStore, run: Run, still: None, tmp_path: Path
) -> None:
    store.create(node("gpu-1"))
    store.create(running("busy", labels={"team": "x"}))
    store.create(failed("old"))
    store.create(job("waits"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\nmetadata: {name: busy}\nspec: {command: [other]}\n")
    for words in (
        ("get", "jobs"), ("get", "all", "-A", "-o", "wide"), ("get", "job", "busy", "-o", "yaml"),
        ("get", "jobs", "-l", "team=x", "-o", "json"), ("get", "job", "nope"), ("get", "jobs", "-l", "=="),
        ("describe", "job", "old"), ("describe", "node", "gpu-1"), ("why", "waits"), ("why", "node/gpu-1"),
        ("events",), ("wait", "job/busy", "--for=condition=Running"), ("wait", "job/old", "--for=condition=Succeeded"),
        ("logs", "waits"), ("label", "job", "busy", "team=y"), ("suspend", "old"), ("secret", "list"),
        ("delete", "job", "nope"), ("diff", "-f", str(bad)), ("apply", "-f", str(bad)), ("cordon", "nope"),
        ("auth", "can-i", "create", "jobs"), ("token", "list"),
    ):  # fmt: skip
        assert run(*words) == run("--offline", *words), words


def test_a_job_is_made_changed_and_deleted(api: ApiServer, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\nmetadata: {name: train}\n"
        "spec: {command: ['true'], gpu: {memory: 1Gi, duration: 1h}}\n"
    )
    assert run("apply", "-f", str(file)).out == "gpujob.cumulus.dev/train created\n"
    assert run("apply", "-f", str(file)).out == "gpujob.cumulus.dev/train unchanged\n"
    assert run("suspend", "train").out == "gpujob.cumulus.dev/train suspended\n"
    assert run("annotate", "job", "train", "a=b").out == "gpujob.cumulus.dev/train annotated\n"
    (tmp_path / "value").write_text("s3cret")
    assert run("secret", "create", "hub", "--from-file", f"token={tmp_path}/value").code == 0
    assert "hub" in run("secret", "list").out
    assert run("backup", str(tmp_path / "b")).code == 0
    assert (tmp_path / "b").read_bytes().startswith(b"SQLite format 3")
    assert run("backup", str(tmp_path / "b")).code == 2
    assert run("delete", "job", "train").out == "gpujob.cumulus.dev/train deleted\n"


def test_version_says_whom_commands_ask_and_why(api: ApiServer, home: Path, run: Run, config: Path) -> None:
    said = json.loads(run("version", "-o", "json").out)
    assert said["asks"] == str(home / "api.sock")
    assert said["server"] == said["cumulus"]
    assert "CUMULUS_HOME" in said["because"]
    offline = json.loads(run("--offline", "version", "-o", "json").out)
    assert (offline["asks"], offline["because"]) == (str(home), "--offline")
    assert "asks" not in run("version", "--client").out
    nobody = run("--server", "unix:/nowhere/api.sock", "version")
    assert nobody.code == 1
    assert "no daemon answers at /nowhere/api.sock" in nobody.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--server", "lab:50051", "get", "jobs"), "gRPC"), (("--server", "http://lab", "get", "jobs"), "TLS alone"),
        (("--context", "nope", "get", "jobs"), "there is no context nope"),
        (("--offline", "--server", "https://lab", "get", "jobs"), "give one of them"),
    ],
)  # fmt: skip
def test_what_names_no_server_is_one_error(words: tuple[str, ...], said: str, run: Run, config: Path) -> None:
    done = run(*words)
    assert done.code in (1, 2)
    assert said in done.err
    assert done.err.count("\n") == 1


def test_what_a_path_answers(api: ApiServer, run: Run) -> None:
    assert run("get", "--raw", "/livez").out == "ok\n"
    assert json.loads(run("get", "--raw", "/version").out)["major"] == "1"
    assert run("get", "--raw", "/nothing").code == 1
    assert run("get", "--raw", "nothing").code == 2
    assert run("get", "jobs", "--raw", "/livez").code == 2
    assert run("--offline", "get", "--raw", "/livez").code == 2


def test_no_store_is_opened_whose_daemon_died_and_left_jobs(
    home: Path, store: SqliteStore, run: Run, config: Path
) -> None:
    store.create(running("busy"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home / "api.sock"))
    done = run("get", "jobs")
    assert done.code == 1
    assert "died" in done.err
    assert "busy" in run("--offline", "get", "jobs").out


def test_a_login_makes_a_context(
    api: ApiServer, home: Path, store: SqliteStore, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.listens_encrypted.wait(PATIENCE)
    token = run("token", "create", "laptop").out.strip()
    address = run("kubeconfig").out
    server = json.loads(address)["clusters"][0]["cluster"]["server"]
    seen = fingerprint(trust.shown_authority(Endpoint("https", server)))
    monkeypatch.delenv("CUMULUS_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(home.parent / "nothing"))

    monkeypatch.setenv("CUMULUS_TOKEN", "wrong")
    assert "does not know that token" in run("login", server, "--fingerprint", seen).err
    monkeypatch.setenv("CUMULUS_TOKEN", token)
    assert "shows another authority" in run("login", server, "--fingerprint", "SHA256:00").err
    assert "nobody can confirm it here" in run("login", server).err
    assert not config.exists()
    done = run("login", server, "--name", "lab", "-n", "team", "--fingerprint", seen)
    assert done.code == 0, done.err
    assert token not in done.out + done.err
    assert config.stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("CUMULUS_TOKEN")

    said = json.loads(run("version", "-o", "json").out)
    assert (said["asks"], said["because"]) == (server, "the current context, lab")
    store.create(job("theirs"))
    store.create(job("mine", namespace="team"))
    assert run("get", "jobs", "-o", "name").out == "gpujob.cumulus.dev/mine\n"
    assert run("get", "jobs", "-n", "default", "-o", "name").out == "gpujob.cumulus.dev/theirs\n"
    assert run("describe", "job", "mine").code == run("why", "mine").code == 0
    assert run("label", "job", "mine", "a=b").code == 0
    assert run("delete", "job", "mine").out == "gpujob.cumulus.dev/mine deleted\n"
    assert "User: " in run("auth", "whoami").out

    assert run("context", "list").out.splitlines()[1].split() == ["*", "lab", server, "team"]
    shown = run("context", "show").out
    assert seen in shown
    assert token not in shown
    assert run("context", "use", "lab", "-n", "other").code == 0
    assert contexts.read(config).named("lab").namespace == "other"
    assert run("context", "use", "--none").code == 0
    assert run("--context", "lab", "get", "jobs", "-n", "default", "-o", "name").out.endswith("/theirs\n")
    assert run("context", "delete", "lab").code == 0
    assert run("context", "show", "lab").code == 1
    assert run("--server", server, "get", "jobs").code == 1, "nothing that it trusts and no token is left"


def test_what_a_manifest_leaves_out_is_the_contexts_namespace(
    api: ApiServer, store: SqliteStore, run: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.listens_encrypted.wait(PATIENCE)
    assert run("kubeconfig", "-n", "team", "-o", str(config.parent / "made")).code == 0
    made = contexts.read(config.parent / "made")
    contexts.write(config, made)
    file = tmp_path / "jobs.yaml"
    spec = "spec: {command: ['true'], gpu: {memory: 1Gi, duration: 1h}}"
    heading = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\n"
    file.write_text(
        f"{heading}metadata: {{name: a}}\n{spec}\n---\n{heading}metadata: {{name: b, namespace: other}}\n{spec}\n"
    )
    done = run("--context", "cumulus", "apply", "-f", str(file))
    assert done.code == 0, done.err
    found = run(
        "--context", "cumulus", "get", "jobs", "-A", "-o", "custom-columns=N:.metadata.namespace", "--no-headers"
    )
    assert found.out.split() == ["other", "team"]
    assert run("--context", "cumulus", "delete", "-f", str(file)).code == 0


@pytest.mark.parametrize("token", ["", "two words", "esc\x1b[31m"])
def test_what_is_no_token(token: str, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUMULUS_TOKEN", token)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run("login", "https://127.0.0.1:1").code in (1, 2)
    assert not config.exists()


def test_a_job_is_rerun(api: ApiServer, store: SqliteStore, run: Run) -> None:
    store.create(failed("train"))
    done = run("rerun", "train", "-d", "--set", "spec.args=--lr 1", "-e", "A=1")
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train is run 2\n")
    assert done.err == "The log of the run before: cumulus logs train --run 1\n"
    spec = json.loads(run("get", "job", "train", "-o", "json").out)["spec"]
    assert (spec["args"], spec["env"]) == (["--lr", "1"], [{"name": "A", "value": "1"}])
    assert run("rerun", "nope").code == 1
    assert "Earlier runs" in run("describe", "job", "train").out
