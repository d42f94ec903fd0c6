from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from cumulus.backends.logs import LogRetention
from cumulus.cli import config
from cumulus.errors import UsageError


def load(tmp_path: Path, text: str) -> config.Config:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return config.load(file)


def test_everything(tmp_path: Path) -> None:
    text = 'node: {name: gpu-3, labels: {rack: "7"}}\nchronos: {offerCPU: true}\nworkers: 8\n'
    text += 'logs: {first: 1Mi, last: 1Gi}\njobs: {env: {TMPDIR: /scratch, N: "4"}}\n'
    assert load(tmp_path, text) == config.Config(
        "gpu-3", {"rack": "7"}, True, 8, LogRetention(2**20, 2**30), {"TMPDIR": "/scratch", "N": "4"}
    )


def test_half_of_the_kept_log(tmp_path: Path) -> None:
    assert load(tmp_path, "logs: {last: 100Mi}").logs == LogRetention(8 * 2**20, 100 * 2**20)


@pytest.mark.parametrize("text", ["", "# nothing\n", "node:\nchronos:\nworkers:\n", "{}"])
def test_nothing(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == config.Config()
    assert config.load(None) == config.Config()


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
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    assert config.find("") is None
    Path("config.yaml").write_text("apiVersion: cumulus.dev/v1alpha1\nworkers: [")
    assert config.find("") == Path("config.yaml")
    Path("other.yaml").touch()
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", "other.yaml")
    assert config.find("") == Path("other.yaml")
    assert config.find("config.yaml") == Path("config.yaml")
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", "missing.yaml")
    with pytest.raises(UsageError, match=r"missing.yaml is not there"):
        config.find("")


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
def test_another_programs_file_of_that_name_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    Path("config.yaml").write_bytes(text.encode("latin-1"))
    with structlog.testing.capture_logs() as said:
        assert config.find("") is None
    [line] = said
    assert line["log_level"] == "warning"
    assert line["event"].startswith("./config.yaml is not read: it does not say apiVersion: cumulus.dev/v1alpha1")
    assert config.find("config.yaml") == Path("config.yaml")
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", "config.yaml")
    assert config.find("") == Path("config.yaml")


@pytest.mark.parametrize("text", ["apiVersion: cumulus.dev/v1alpha1\n", '{"apiVersion": "cumulus.dev/v1alpha1"}'])
def test_a_file_of_ours_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    Path("config.yaml").write_text(text)
    assert config.load(config.find("")) == config.Config()
