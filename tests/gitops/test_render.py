"""Manifests that kustomize and helm make, in a room without a network. Most of it with programs that stand in for them:
NOT TESTED: helm itself, which no package server here has."""

from __future__ import annotations

import os
import shutil
from functools import partial
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


def stand_in(place: Path, script: str, name: str = "kustomize") -> str:
    """The search path with a `kustomize`, or another program, that is this shell script."""
    place.mkdir()
    program = place / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    os.chmod(place.parent, 0o755)
    return f"{place}:{LOGIN_PATH}"


def test_its_output_is_what_is_applied(tmp_path: Path) -> None:
    search = stand_in(tmp_path / "bin", 'test "$1" = build || exit 3; cat "$2/../../base/a.yaml"')
    files = {name: text.encode() for name, text in BASE.items()}
    (data,) = render.rendered("kustomize", files, "overlays/east", None, search=search).values()
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
        render.rendered("kustomize", {"a.yaml": b""}, "", None, search=search, limits=Limits(seconds=1, output=100_000))
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["../x.yaml", "/tmp/x.yaml", "a/../../x.yaml", "a//x.yaml"])
def test_nothing_is_written_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidManifest, match="is no path of a file"):
        render.rendered("kustomize", {name: b""}, "", None, search=stand_in(tmp_path / "bin", "true"))


def test_it_has_no_network_and_nothing_of_the_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "x")
    search = stand_in(tmp_path / "bin", "ls /sys/class/net >/dev/null; cat /proc/net/dev; env")
    (data,) = render.rendered("kustomize", {"a.yaml": b""}, "", None, search=search).values()
    assert b"SECRET_OF_THE_DAEMON" not in data
    devices = [line.split(":")[0].strip() for line in data.decode().splitlines() if ":" in line and "bytes" not in line]
    assert [name for name in devices if name.isalnum() and not name.startswith("face")][:1] == ["lo"]
    assert "eth0" not in devices


CHART = {
    "charts/train/Chart.yaml": b"apiVersion: v2\nname: train\nversion: 0.1.0\n",
    "charts/train/templates/job.yaml": job("a", suspend="true").encode(),
    "charts/train/templates/_helpers.tpl": b'{{- define "x" -}}{{- end -}}',
}


def test_a_chart_is_rendered_with_helm(tmp_path: Path) -> None:
    script = (
        'test "$*" = "template team-1 $3 --namespace team --no-hooks" || { echo "asked: $*" >&2; exit 3; }\n'
        'test -e "$3/templates/_helpers.tpl" || exit 4\n'
        'test "$HOME$HELM_PLUGINS" = /nonexistent/nonexistent || exit 5\n'
        'cat "$3/templates/job.yaml"'
    )
    search = stand_in(tmp_path / "bin", script, "helm")
    found = render.rendered("helm", CHART, "charts/train", None, name="team-1", namespace="team", search=search)
    assert found == {"charts/train/Chart.yaml (rendered)": job("a", suspend="true").encode()}
    with pytest.raises(SourceUnreadable, match="helm is not on the daemon's machine"):
        render.rendered("helm", CHART, "charts/train", None, search="/nowhere")


def test_a_source_of_a_chart(cluster: Cluster, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = stand_in(tmp_path / "bin", 'cat "$3"/templates/*.yaml', "helm")
    monkeypatch.setattr("cumulus.controllers.source.controller.rendered", partial(render.rendered, search=search))
    repo.commit({name: data.decode() for name, data in CHART.items()})
    cluster.add(url=repo.url, path="charts/train", render="helm")
    cluster.sync()
    assert cluster.names() == ["a"], cluster.source().status


def test_where_there_is_none_it_is_said() -> None:
    with pytest.raises(SourceUnreadable, match="neither kustomize nor kubectl"):
        render.rendered("kustomize", {"a.yaml": b""}, "", None, search="/nowhere")


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
