"""The stores that there are, each through its conformance suite."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention, LogStore
from cumulus.backends.rundir import checkpoint
from cumulus.backends.rundir.checkpoint import CheckpointFiles
from cumulus.backends.rundir.log import FileLog
from cumulus.backends.swarm.checkpoint import NodeFiles
from cumulus.backends.swarm.node_engine import ShellEngine
from cumulus.errors import BackendError
from cumulus.uploader import status
from tests.backends.seams import CheckpointStoreConformance, LogStoreConformance, save


class TestFileLog(LogStoreConformance):
    def store(self, place: Path, retention: LogRetention = DEFAULT_RETENTION) -> LogStore:
        return FileLog(str(place), retention)


class TestCheckpointFiles(CheckpointStoreConformance):
    @pytest.fixture(autouse=True)
    def _patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def store(self, place: Path) -> CheckpointFiles:
        return CheckpointFiles(str(place))

    def unseen(self, place: Path) -> CheckpointFiles:
        """On a file system that does not answer."""
        for look in ("_newest", "newest_saved"):
            self.monkeypatch.setattr(checkpoint, look, lambda *asked: time.sleep(60))
        return CheckpointFiles(str(place), patience=0.1)

    def test_how_far_the_uploader_is_is_told_in_one_harmless_line(self, tmp_path: Path) -> None:
        save(tmp_path, 12)
        (tmp_path / status.DIRECTORY).mkdir()
        status.write(str(tmp_path), status.UploadStatus(step=11, error="no bucket\n\x1b[31m" + "x" * 1000))
        found = self.store(tmp_path).saved()
        assert found is not None
        assert (found.step, found.uploaded, len(found.upload_error)) == (12, 11, 300)
        assert found.upload_error.startswith("no bucket \\x1b[31m")
        status.write(str(tmp_path), status.UploadStatus(step=12))
        later = self.store(tmp_path).saved(found)
        assert later == found._replace(uploaded=12, upload_error="")
        (tmp_path / status.DIRECTORY / "status.json").write_text('{"format": 1, "step": "many"}')
        assert self.store(tmp_path).saved(later) is not None


class LocalShell:
    """Runs here what is for the node; its docker tells of one container, with that `Config`."""

    def __init__(self, directory: Path, mounts: list[dict[str, str]], **config: Any) -> None:
        docker = directory / "docker"
        docker.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps([{'Mounts': mounts, 'Config': config}])}\nEND\n")
        docker.chmod(0o755)
        self._env = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}

    def run(self, command: str, seconds: float) -> tuple[int, str, str]:
        done: Any = subprocess.run(
            ["sh", "-c", command], env=self._env, capture_output=True, text=True, timeout=seconds
        )
        return done.returncode, done.stdout, done.stderr


class TestNodeFiles(CheckpointStoreConformance):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.directory = tmp_path_factory.mktemp("node")

    def store(self, place: Path) -> NodeFiles:
        mounts = [{"Source": str(place.parent), "Destination": "/data"}]
        return NodeFiles(ShellEngine(LocalShell(self.directory, mounts)), "c1", f"/data/{place.name}")

    def unseen(self, place: Path) -> NodeFiles:
        """On no mount."""
        return NodeFiles(ShellEngine(LocalShell(self.directory, [])), "c1", f"/data/{place.name}")

    def test_the_known_one_is_not_carried_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save(tmp_path, 5)
        known = self.store(tmp_path).saved()
        monkeypatch.setattr(ShellEngine, "manifest", lambda *asked: pytest.fail("it was read again"))
        assert self.store(tmp_path).saved(known) == known


def _node(directory: Path, answer: str) -> ShellEngine:
    """A node whose `docker info` does so."""
    shell = LocalShell(directory, [])
    (directory / "docker").write_text(f"#!/bin/sh\n{answer}\n")
    (directory / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (directory / "sudo").chmod(0o755)
    return ShellEngine(shell)


def test_what_a_call_left_is_not_gone_while_the_engine_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "cumulus-calls" / "c1").mkdir(parents=True)
    (tmp_path / "cumulus-calls" / "c1" / "outcome.json").write_text("{}")
    found = _node(tmp_path, f"echo {tmp_path}").call_file("c1", "outcome.json")
    assert found is not None
    assert (found[0], b"".join(found[1])) == (2, b"{}")
    assert _node(tmp_path, f"echo {tmp_path}").call_file("c1", "result") is None
    silent = _node(tmp_path, "echo 'Cannot connect to the Docker daemon' >&2; echo; exit 1")
    with pytest.raises(BackendError, match="Cannot connect to the Docker daemon"):
        silent.call_file("c1", "outcome.json")
    with pytest.raises(BackendError, match="Cannot connect to the Docker daemon"):
        silent.remove_call("c1")
