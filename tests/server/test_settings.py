from __future__ import annotations

import os
from pathlib import Path

import pytest
import structlog

from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.backends.swarm.settings import SwarmSettings
from cumulus.blob.base import BlobLimits
from cumulus.blob.s3.bucket import Bucket
from cumulus.errors import UsageError
from cumulus.server import settings
from cumulus.server.config_file import find
from cumulus.server.http.tls import check_files
from cumulus.server.settings import DaemonSettings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUMULUS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def load(tmp_path: Path, text: str) -> DaemonSettings:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return settings.read(config_file=str(file))


def said(read: DaemonSettings) -> tuple[object, ...]:
    """What a file may say."""
    return read.node.name, read.node.labels, read.chronos.offerCPU, read.workers, read.logs.retention, read.jobs.env


def test_everything(tmp_path: Path) -> None:
    text = 'node: {name: gpu-3, labels: {rack: "7"}}\nchronos: {offerCPU: true}\nworkers: 8\n'
    text += 'logs: {first: 1Mi, last: 1Gi}\njobs: {env: {TMPDIR: /scratch, N: "4"}}\n'
    expected = ("gpu-3", {"rack": "7"}, True, 8, LogRetention(2**20, 2**30), {"TMPDIR": "/scratch", "N": "4"})
    assert said(load(tmp_path, text)) == expected


def test_directories_that_containers_mount_from(tmp_path: Path) -> None:
    assert load(tmp_path, "containers: {mounts: [/data, /scratch/x]}").containers.mounts == ("/data", "/scratch/x")
    assert load(tmp_path, "{}").containers.mounts == ()
    for wrong in ("[/]", "[data]", "[/data/../etc]", "[//data]", "[/data/]", "/data", "[1]"):
        with pytest.raises(UsageError, match=r"config.yaml:1:\d+: containers.mounts"):
            load(tmp_path, f"containers: {{mounts: {wrong}}}")


def test_how_many_jobs_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.read().max_jobs is None
    monkeypatch.setenv("MAX_CONCURRENT_JOBS", "")
    assert settings.read().max_jobs is None
    monkeypatch.setenv("MAX_CONCURRENT_JOBS", "3")
    assert settings.read().max_jobs == 3
    for wrong in ("0", "-1", "many", "1.5"):
        monkeypatch.setenv("MAX_CONCURRENT_JOBS", wrong)
        with pytest.raises(UsageError, match=r"MAX_CONCURRENT_JOBS is .*; it takes a whole number from 1 on"):
            settings.read()


def test_where_the_api_listens(tmp_path: Path) -> None:
    assert settings.read().api.address == ("127.0.0.1", 0)
    text = 'api: {listen: "[::]:6443", names: [gpu.example.org, 10.0.0.7], clientCA: ca.pem}'
    found = load(tmp_path, text).api
    assert (found.address, found.names) == (("::", 6443), ("gpu.example.org", "10.0.0.7"))
    assert found.clientCA == str(tmp_path / "empty" / "ca.pem")
    # A flag says one key, and the file the others.
    both = settings.read(config_file=str(tmp_path / "config.yaml"), listen="0.0.0.0:7000").api
    assert (both.address, both.names) == (("0.0.0.0", 7000), ("gpu.example.org", "10.0.0.7"))
    for wrong in ("listen: 6443", "listen: x", 'listen: "::1:80"', "names: x", "names: ['a b']", "tlsCert: [x]"):
        with pytest.raises(UsageError, match=r"config.yaml:1:\d+: api\.(listen|names|tlsCert)"):
            load(tmp_path, f"api: {{{wrong}}}")
    with pytest.raises(UsageError, match="--listen 'nowhere': must be HOST:PORT"):
        settings.read(listen="nowhere")
    with pytest.raises(UsageError, match="a certificate and its key are given together"):
        settings.read(tls_cert="c.pem")


def test_where_grpc_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCHESTRATOR_PORT", raising=False)
    assert settings.read().grpc_listen == "127.0.0.1:50051"
    (tmp_path / "config.yaml").write_text('grpc: {listen: "[::]:6000"}')
    file = str(tmp_path / "config.yaml")
    assert settings.read(config_file=file).grpc_listen == "[::]:6000"
    monkeypatch.setenv("ORCHESTRATOR_PORT", "7000")
    assert settings.read().grpc_listen == "127.0.0.1:7000"
    assert settings.read(config_file=file).grpc_listen == "[::]:7000"
    assert settings.read(config_file=file, grpc_listen="0.0.0.0:8000").grpc_listen == "0.0.0.0:8000"
    (tmp_path / "config.yaml").write_text("grpc: {listen: off}")
    assert settings.read(config_file=file).grpc_listen == ""
    assert settings.read(config_file=file, grpc_listen="0.0.0.0:8000").grpc_listen == "0.0.0.0:8000"
    assert settings.read(grpc_listen="off").grpc_listen == ""
    with pytest.raises(UsageError, match="--grpc-listen 'nowhere': must be HOST:PORT"):
        settings.read(grpc_listen="nowhere")
    for wrong in ("x", "-1", "65536", "١"):
        monkeypatch.setenv("ORCHESTRATOR_PORT", wrong)
        with pytest.raises(UsageError, match=r"ORCHESTRATOR_PORT is '.*'; it takes the number of a port"):
            settings.read()


def test_files_for_tls_are_looked_at_before_the_daemon_starts(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("no certificate")
    given = settings.read(tls_cert=str(tmp_path / "c.pem"), tls_key=str(tmp_path / "missing.pem")).api
    with pytest.raises(UsageError, match="are no certificate and its key: "):
        check_files(given)
    with pytest.raises(UsageError, match="is no certificate: "):
        check_files(settings.read(client_ca=str(tmp_path / "c.pem")).api)


def test_half_of_the_kept_log(tmp_path: Path) -> None:
    assert load(tmp_path, "logs: {last: 100Mi}").logs.retention == LogRetention(8 * 2**20, 100 * 2**20)


@pytest.mark.parametrize("text", ["", "# nothing\n", "node:\nchronos:\nworkers:\n", "{}"])
def test_nothing(tmp_path: Path, text: str) -> None:
    assert said(load(tmp_path, text)) == said(settings.read()) == ("", {}, False, None, DEFAULT_RETENTION, {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nodes: {}", "config.yaml:1:1: nodes: unknown key; did you mean node?"),
        ("chronos:\n  offerCpu: true", "config.yaml:2:3: chronos.offerCpu: unknown key; did you mean chronos.offerCPU"),
        ("chronos:\n  x: 1", "chronos.x: unknown key; the keys here are offerCPU"),
        ("workers: many", "config.yaml:1:10: workers: must be a whole number from 1 to 64"),
        ("workers: true", "workers: must be a whole number"),
        ("workers: 65", "workers: must be a whole number"),
        ("chronos: {offerCPU: 1}", "chronos.offerCPU: must be true or false"),
        ("node: {name: GPU 3}", "node.name: 'GPU 3' is not a name"),
        ("node: {name: 3}", "node.name: must be text"),
        ("node: {labels: {rack: 7}}", 'node.labels: must be a map of text to text; put numbers in quotes, as in rack:'),
        ("node: {labels: {-a: b}}", "node.labels: '-a' is not a label key"),
        ("node: 3", "config.yaml:1:7: node: must be a map"),
        ("jobs: {env: {N: 4}}", "jobs.env: must be a map of text to text; put numbers in quotes, as in OMP_NUM_"),
        ("jobs: {env: {A-B: c}}", "config.yaml:1:13: jobs.env: 'A-B' is not the name of a variable"),
        ('jobs: {env: {A: "a\\0b"}}', "NUL"),
        ("logs: {first: 1}", "logs.first: is 1; it is at least 64Ki and at most 1Ti"),
        ("logs: {last: 2Ti}", "logs.last: is 2Ti; it is at least 64Ki and at most 1Ti"),
        ("logs: {last: much}", "logs.last: 'much' is not a quantity"),
        ("logs: {last: true}", "logs.last: true is not a number"),
        ("apiVersion: cumulus.dev/v2", "config.yaml:1:13: apiVersion: must be cumulus.dev/v1alpha1"),
        ("- a", "the file: must be a map"),
        ("a: [", "config.yaml:2:1: a value is missing here"),
        ("workers: 1\n---\nworkers: 2", "holds 2 documents"),
    ],
)  # fmt: skip
def test_each_problem_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.read().workers is None
    Path("config.yaml").write_text("apiVersion: cumulus.dev/v1alpha1\nworkers: [")
    with pytest.raises(UsageError, match=r"^config.yaml:3:"):
        settings.read()
    Path("other.yaml").write_text("workers: 3")
    Path("third.yaml").write_text("workers: 5")
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", "other.yaml")
    assert settings.read().workers == 3
    assert settings.read(config_file="third.yaml").workers == 5
    assert settings.read(config_file="third.yaml", workers="7").workers == 7
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", "missing.yaml")
    with pytest.raises(UsageError, match=r"missing.yaml is not there") as caught:
        settings.read()
    assert caught.value.hint == "it is named by ORCHESTRATOR_CONFIG"
    with pytest.raises(UsageError, match=r"gone.yaml is not there") as caught:
        settings.read(config_file="gone.yaml")
    assert caught.value.hint == "it is named by --config"


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("pipe", "the configuration file config.yaml is a pipe; it must be a file"),
        ("directory", "the configuration file config.yaml is a directory; it must be a file"),
        ("loop", "the configuration file config.yaml cannot be read: Too many levels of symbolic links"),
        ("dangling", "the configuration file config.yaml is a link to nothing"),
    ],
)
def test_what_is_no_file_is_not_passed_over(kind: str, problem: str, named: bool) -> None:
    path = Path("config.yaml")
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "dangling":
            path.symlink_to("nowhere")
    with pytest.raises(UsageError) as caught:
        settings.read(config_file="config.yaml" if named else "")
    assert str(caught.value) == problem


def test_settings_cannot_be_changed_and_the_file_cannot_reach_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"config.yaml:1:1: home: unknown key"):
        load(tmp_path, "home: /elsewhere")
    for name in ("HOME", "LOGS", "WORKERS", "NODE", "JOBS", "ENVIRONMENT", "SWARM"):
        monkeypatch.setenv(name, "1")
    read = settings.read(home=str(tmp_path / "given"))
    assert read.home == tmp_path / "given"
    assert said(read) == ("", {}, False, None, DEFAULT_RETENTION, {})
    with pytest.raises(ValueError, match="frozen"):
        read.workers = 3


def test_which_swarm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SWARM_MANAGER", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "SWARM_SSH_USER"):
        monkeypatch.setenv(name, "")
    found = SwarmSettings()
    assert not found.is_named
    assert (found.managers, found.tls, found.ssh_user) == ([], "", "root")
    monkeypatch.setenv("DOCKER_HOST", "tcp://a:2376")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/certs")
    assert (SwarmSettings().managers, SwarmSettings().tls) == (["tcp://a:2376"], "")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("SWARM_MANAGER", "b,c  d")
    monkeypatch.setenv("SWARM_SSH_USER", "deploy")
    found = settings.read().swarm
    assert (found.managers, found.tls, found.ssh_user) == (["b", "c", "d"], "/certs", "deploy")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "server: {port: 80}",
        "a: [",
        "apiVersion: v1\nkind: Config",
        "list:\n  apiVersion: cumulus.dev/v1alpha1",
        "apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob",
        "\xff\x00",
    ],
)
def test_another_programs_file_of_that_name_is_left_alone(text: str) -> None:
    Path("config.yaml").write_bytes(text.encode("latin-1"))
    structlog.reset_defaults()  # Tests of controllers leave a filter, which would hold the warning back.
    with structlog.testing.capture_logs() as lines:
        assert find("", "") is None
    [line] = lines
    assert line["log_level"] == "warning"
    assert line["event"].startswith("./config.yaml is not read: it does not say apiVersion: cumulus.dev/v1alpha1")
    assert find("config.yaml", "--config") == Path("config.yaml")


@pytest.mark.parametrize("text", ["apiVersion: cumulus.dev/v1alpha1\n", '{"apiVersion": "cumulus.dev/v1alpha1"}'])
def test_a_file_of_ours_is_read(text: str) -> None:
    Path("config.yaml").write_text(text)
    assert said(settings.read()) == ("", {}, False, None, DEFAULT_RETENTION, {})


def test_only_root_serves_every_user_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="needs root"):
        settings.read(system=True)


def test_blobs(tmp_path: Path) -> None:
    blobs = load(tmp_path, "blobs: {directory: /srv/blobs, largest: 1Gi, limit: 2Ti, retention: 2h}").blobs
    assert (blobs.directory, blobs.limits, blobs.retention) == ("/srv/blobs", BlobLimits(2**30, 2**41), 7200)
    assert load(tmp_path, "{}").blobs.limits == BlobLimits()
    for wrong in ("retention: 1m", "retention: []", "largest: 5", "limit: many", "directory: 7"):
        key = wrong.partition(":")[0]
        with pytest.raises(UsageError, match=rf"config.yaml:1:\d+: blobs.{key}"):
            load(tmp_path, f"blobs: {{{wrong}}}")


def test_the_history(tmp_path: Path) -> None:
    found = load(tmp_path, "history: {retention: 30d, every: 5m}").history
    assert (found.retention, found.every) == (30 * 86400, 300)
    assert load(tmp_path, "{}").history.retention == 180 * 86400
    for wrong in ("retention: 5m", "retention: []", "every: 1s", "every: often"):
        key = wrong.partition(":")[0]
        with pytest.raises(UsageError, match=rf"config.yaml:1:\d+: history.{key}"):
            load(tmp_path, f"history: {{{wrong}}}")


def test_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.read().bucket is None
    monkeypatch.setenv("CUMULUS_S3_BUCKET", "my-bucket")
    monkeypatch.setenv("CUMULUS_S3_REGION", "eu-north-1")
    monkeypatch.setenv("CUMULUS_S3_ENDPOINT", "http://host:9000/")
    assert settings.read().bucket == Bucket("my-bucket", "eu-north-1", "http://host:9000")
    for name, wrong in (("CUMULUS_S3_ENDPOINT", "host:9000"), ("CUMULUS_S3_BUCKET", "a/b")):
        with monkeypatch.context() as here:
            here.setenv(name, wrong)
            with pytest.raises(UsageError, match=f"{name} is '{wrong}'"):
                settings.read()
