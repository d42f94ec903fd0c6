"""Variables by a file: strict, with the place of each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.gitops.desired import desired
from cumulus.manifest import InvalidManifest
from tests.cli.conftest import home, run
from tests.gitops.cluster import Cluster, Repo, job

__all__ = ["home", "run"]
MANIFEST = job("a", suspend="true", priority="${{ PRIORITY }}", env='[{name: X, value: "${HOME} $${x} ${{DATA}}"}]')


def test_each_cluster_has_its_own(cluster: Cluster, repo: Repo) -> None:
    repo.commit({
        "a.yaml": MANIFEST, "east.env": "# east\n\nPRIORITY=5\nDATA=/data/east\n", "west.env": "PRIORITY=7\nDATA=/w\n",
    })  # fmt: skip
    cluster.add(url=repo.url, variables="east.env")
    cluster.sync()
    assert cluster.get("a")["spec"]["priority"] == 5
    assert cluster.get("a")["spec"]["env"][0]["value"] == "${HOME} $${x} /data/east"
    repo.commit({"east.env": "PRIORITY=6\nDATA=/data/east\n"})
    cluster.sync()
    assert cluster.get("a")["spec"]["priority"] == 6
    repo.commit({"east.env": None})
    cluster.sync()
    error = cluster.source().status.last_error
    assert error is not None
    assert "east.env: there is no such file, which spec.variables names" in error.message
    assert cluster.names() == ["a"]


def test_a_directory_has_them_too(cluster: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "manifests"
    (place / "clusters").mkdir(parents=True)
    (place / "a.yaml").write_text(MANIFEST)
    (place / "clusters" / "east.env").write_text("PRIORITY=5\nDATA=d\n")
    cluster.add(directory=place, variables="clusters/east.env")
    cluster.sync()
    assert cluster.get("a")["spec"]["priority"] == 5


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ("PRIORITY=5\n", "a.yaml:12:41: there is no variable 'DATA'; there are PRIORITY"),
        ("", "a.yaml:11:13: there is no variable 'PRIORITY'; there are none"),
        ("PRIORITY\n", "x.env:1:1: must be NAME=value"),
        ("1=2\n", "x.env:1:1: must be NAME=value"),
        ("PRIORITY=5\nPRIORITY=6\n", "x.env:2:1: PRIORITY is given already"),
        ("PRIORITY=5\nDATA=\x1b[2J\n", "x.env:2:1: the value of DATA must be one line"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(env: str, told: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        desired({"a.yaml": MANIFEST.encode(), "x.env": env.encode()}, "default", "x.env")
    assert told in str(caught.value)


def test_without_a_file_nothing_is_a_variable() -> None:
    text = job("a", env='[{name: X, value: "${{ DATA }}"}]')
    (manifest,) = desired({"a.yaml": text.encode()}, "default").manifests.values()
    assert manifest.document["spec"]["env"][0]["value"] == "${{ DATA }}"
