"""Manifests that kustomize makes, in a room without a network. Most of it with a program that stands in for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cumulus.gitops import render
from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.programs import Limits
from cumulus.lib.unix_user import LOGIN_PATH
from cumulus.manifest import InvalidManifest
from tests.gitops.cluster import Cluster, Repo, job

pytestmark = pytest.mark.skipif(shutil.which("unshare") is None, reason="NOT TESTED: unshare is not installed")
BASE = {
    "base/a.yaml": job("a", suspend="true"),
    "base/kustomization.yaml": "resources: [a.yaml]\n",
    "overlays/east/kustomization.yaml": "resources: [../../base]\nnamePrefix: east-\n",
}


def stand_in(place: Path, script: str) -> str:
    """The search path with a `kustomize` that is this shell script."""
    place.mkdir()
    program = place / "kustomize"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    os.chmod(place.parent, 0o755)
    return f"{place}:{LOGIN_PATH}"


def test_its_output_is_what_is_applied(tmp_path: Path) -> None:
    search = stand_in(tmp_path / "bin", 'test "$1" = build || exit 3; cat "$2/../../base/a.yaml"')
    files = {name: text.encode() for name, text in BASE.items()}
    (data,) = render.kustomize(files, "overlays/east", None, search=search).values()
    assert data.decode() == job("a", suspend="true")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'no such\nfile' >&2; exit 1", "kustomization.yaml: no such file"),
        ("exit 4", "ended with code 4"),
        ("yes | head -c 1000000", "gave more than 0 MiB"),
        ("sleep 30", "took longer than 1 s"),
    ],
)
def test_what_goes_wrong_is_told(tmp_path: Path, script: str, told: str) -> None:
    search = stand_in(tmp_path / "bin", script)
    with pytest.raises(InvalidManifest) as caught:
        render.kustomize({"a.yaml": b""}, "", None, search=search, limits=Limits(seconds=1, output=100_000))
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["../x.yaml", "/tmp/x.yaml", "a/../../x.yaml", "a//x.yaml"])
def test_nothing_is_written_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidManifest, match="is no path of a file"):
        render.kustomize({name: b""}, "", None, search=stand_in(tmp_path / "bin", "true"))


def test_it_has_no_network_and_nothing_of_the_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "x")
    search = stand_in(tmp_path / "bin", "ls /sys/class/net >/dev/null; cat /proc/net/dev; env")
    (data,) = render.kustomize({"a.yaml": b""}, "", None, search=search).values()
    assert b"SECRET_OF_THE_DAEMON" not in data
    devices = [line.split(":")[0].strip() for line in data.decode().splitlines() if ":" in line and "bytes" not in line]
    assert [name for name in devices if name.isalnum() and not name.startswith("face")][:1] == ["lo"]
    assert "eth0" not in devices


def test_where_there_is_none_it_is_said() -> None:
    with pytest.raises(SourceUnreadable, match="neither kustomize nor kubectl"):
        render.kustomize({"a.yaml": b""}, "", None, search="/nowhere")


@pytest.mark.skipif(shutil.which("kubectl", path=LOGIN_PATH) is None, reason="NOT TESTED: kubectl is not installed")
def test_an_overlay_of_a_base(cluster: Cluster, repo: Repo) -> None:
    repo.commit(dict(BASE))
    cluster.add(url=repo.url, path="overlays/east", render="kustomize", prune="Auto")
    cluster.sync()
    assert cluster.names() == ["east-a"], cluster.source().status
    # The base is outside of the path, and counts.
    repo.commit({"base/b.yaml": job("b", suspend="true"), "base/kustomization.yaml": "resources: [a.yaml, b.yaml]\n"})
    cluster.sync()
    assert cluster.names() == ["east-a", "east-b"]
    # What reaches out is refused, and nothing goes.
    repo.commit({"base/kustomization.yaml": "resources: ['https://169.254.169.254/x.yaml']\n"})
    cluster.sync()
    assert cluster.condition("Synced") == ("False", "InvalidManifests")
    assert cluster.names() == ["east-a", "east-b"]
