"""A repository and a cluster for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gitops.cluster import Cluster, Repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


@pytest.fixture
def running(tmp_path: Path) -> Cluster:
    """A cluster with a node, on which jobs run."""
    return Cluster(tmp_path / "home", ["node-1"])


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path / "home")
