"""The tour of docs/gitops.md, run exactly as it stands, with the repository that people copy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from cumulus.gitops.desired import desired
from cumulus.gitops.directory import read
from tests import pages
from tests.commands import CHRONOS_CLI, CUMULUS
from tests.e2e.conftest import monitor_gone

ROOT = Path(__file__).parents[2]


def test_the_repository_that_people_copy_is_well() -> None:
    found = desired(read(str(ROOT / "manifests" / "cluster")).files, "default")
    assert sorted(key.name for key in found.manifests) == ["evaluate", "train", "vision"]


def test_its_pipeline_installs_this_and_nobody_elses() -> None:
    workflow = (ROOT / "manifests" / "cluster" / ".github" / "workflows" / "lint.yaml").read_text()
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    assert re.findall(r"pip install (.*)", workflow) == [name]


@pytest.mark.daemon
def test_the_tour_works_as_written(tmp_path: Path) -> None:
    commands = pages.commands((ROOT / "docs" / "gitops.md").read_text())
    assert len(commands) > 15
    shutil.copytree(ROOT / "manifests" / "cluster", tmp_path / "manifests" / "cluster")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CUMULUS_", "CHRONOS_", "GIT_"))}
    env |= {"CHRONOS_MONITOR_IDLE": "1", "ORCHESTRATOR_PORT": "0", "GIT_CONFIG_GLOBAL": "/dev/null"}
    env["PATH"] = f"{Path(CUMULUS).parent}:{env['PATH']}"
    try:
        printed = pages.follow(commands, tmp_path, env)
    finally:
        # What the daemon left running ends with its lease.
        env |= {"CHRONOS_HOME": str(tmp_path / ".tour" / "chronos")}
        listed = subprocess.run([CHRONOS_CLI, "list", "--json"], env=env, capture_output=True, text=True, check=False)
        for lease in json.loads(listed.stdout or "{}").get("leases", []):
            subprocess.run([CHRONOS_CLI, "release", lease["partitionId"]], env=env, capture_output=True, check=False)
        monitor_gone(tmp_path / ".tour" / "chronos")
    assert "3 objects in 3 files: all is well" in printed
    assert "asks: 1 object would be deleted, and prune is Confirm" in printed
    assert printed.count("pinned to") == 1
