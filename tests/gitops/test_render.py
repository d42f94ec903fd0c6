"""Manifests that kustomize and helm make, in a room without a network. Most of it with programs that stand in for them;
with helm itself where HELM names it or it is installed."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
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
        # As kubectl says it: the time and its process would be another mistake each time.
        (
            """echo 'E1130 02:12:08.173049     370 run.go:72] "command failed" err="no such file"' >&2; exit 1""",
            'kustomization.yaml: "no such file"',
        ),
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


HELM = os.environ.get("HELM") or shutil.which("helm", path=LOGIN_PATH)


@pytest.mark.skipif(not HELM, reason="NOT TESTED: helm is not installed, and HELM names none")
def test_helm_itself(cluster: Cluster, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    (place / "helm").symlink_to(str(HELM))
    search = f"{place}:{LOGIN_PATH}"
    monkeypatch.setattr("cumulus.controllers.source.controller.rendered", partial(render.rendered, search=search))
    chart = {
        "Chart.yaml": "apiVersion: v2\nname: train\nversion: 0.1.0\ndependencies: [{name: sub, version: 0.1.0}]\n",
        "values.yaml": "priority: 5\n",
        ".helmignore": "*.orig\n",
        "templates/_helpers.tpl": '{{- define "command" -}}train.py{{- end -}}',
        "templates/job.yaml": job("{{ .Release.Name }}-a", command='{{ include "command" . }}', suspend="true",
                                  priority="{{ .Values.priority }}",
                                  labels='{ text: {{ .Files.Get "text.txt" | trim | quote }} }'),
        "templates/job.yaml.orig": job("no", suspend="true"),
        "templates/NOTES.txt": "Thanks for {{ .Release.Name }}",
        "templates/hook.yaml": job("hook", annotations='{ "helm.sh/hook": pre-install }'),
        "text.txt": "hello\n",
    }  # fmt: skip
    repo.commit({f"charts/train/{name}": text for name, text in chart.items()})
    # As `helm dependency build` leaves it.
    sub = {"sub/Chart.yaml": "apiVersion: v2\nname: sub\nversion: 0.1.0\n",
           "sub/templates/job.yaml": job("{{ .Release.Name }}-sub", suspend="true")}  # fmt: skip
    (repo.path / "charts/train/charts").mkdir()
    with tarfile.open(repo.path / "charts/train/charts/sub-0.1.0.tgz", "w:gz") as packed:
        for name, text in sub.items():
            about = tarfile.TarInfo(name)
            about.size = len(text)
            packed.addfile(about, io.BytesIO(text.encode()))
    # Beside the chart anything may lie.
    (repo.path / "model.bin").write_bytes(b"\0" * (4 * 2**20 + 1))
    repo.commit({})
    cluster.add("one", url=repo.url, path="charts/train", render="helm")
    cluster.sync()
    assert cluster.names() == ["one-a", "one-sub"], cluster.source("one").status
    made = cluster.get("one-a")
    assert (made["spec"]["priority"], made["metadata"]["labels"]) == (5, {"text": "hello"})
    # A directory is read in the same way.
    cluster.add("two", directory=repo.path / "charts/train", render="helm")
    cluster.sync()
    assert cluster.names() == ["one-a", "one-sub", "two-a", "two-sub"], cluster.source("two").status
    # What is not there is not fetched: nothing changes, and it is said.
    (repo.path / "charts/train/charts/sub-0.1.0.tgz").unlink()
    repo.commit({})
    cluster.sync()
    assert cluster.condition("Synced", "one") == ("False", "InvalidManifests")
    error = cluster.source("one").status.last_error
    assert error is not None
    assert error.file == "charts/train/Chart.yaml"
    assert "missing in charts/ directory: sub" in error.message


def test_all_of_a_chart_is_handed_to_helm(
    cluster: Cluster, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        'cd "$3" || exit 3; test "$(find . -type f | sort | xargs)" = '
        '"./.helmignore ./Chart.yaml ./charts/sub.tgz ./templates/job.yaml ./text.txt" '
        "|| { find . -type f >&2; exit 4; }; cat templates/*.yaml"
    )
    search = stand_in(tmp_path / "bin", script, "helm")
    monkeypatch.setattr("cumulus.controllers.source.controller.rendered", partial(render.rendered, search=search))
    files = {"Chart.yaml": "name: train\n", "templates/job.yaml": job("a", suspend="true"), "text.txt": "hello",
             ".helmignore": "*.orig\n", "charts/sub.tgz": "packed", ".hidden": "no", ".git-like/x": "no"}  # fmt: skip
    repo.commit({f"chart/{name}": text for name, text in files.items()})
    (repo.path / "model.bin").write_bytes(b"\0" * (4 * 2**20 + 1))
    repo.commit({})
    cluster.add(url=repo.url, path="chart", render="helm")
    cluster.sync()
    assert cluster.names() == ["a"], cluster.source().status
    cluster.add("directory", directory=repo.path / "chart", render="helm")
    cluster.sync()
    assert cluster.source("directory").status.last_error is not None
    assert "belongs to the Source default/cluster" in cluster.source("directory").status.last_error.message


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
