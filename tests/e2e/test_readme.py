"""The README's tour, run exactly as it stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pages
from tests.e2e.conftest import monitor_gone

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("readme")]

README = Path(__file__).parents[2] / "README.md"


def commands(name: str = "tour") -> list[str]:
    return pages.commands(pages.part(README, name))


def manifest() -> str:
    """The first tour's train.yaml."""
    [found] = pages.blocks(pages.part(README, "tour"), "yaml")
    return found


def walk(name: str, directory: Path) -> str:
    """What the tour's commands print, with the manifest of the first tour."""
    (directory / ".tour").mkdir(exist_ok=True)
    (directory / ".tour" / "train.yaml").write_text(manifest())
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CUMULUS_", "CHRONOS_"))}
    env["CHRONOS_MONITOR_IDLE"] = "1"
    try:
        return pages.follow(commands(name), directory, env)
    finally:
        monitor_gone(directory / ".tour" / "chronos")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where people take the tours, one after the other: a second one begins while the store still says what the first
    one's daemon saw last."""
    made = tmp_path_factory.mktemp("clone")
    (made / ".venv").mkdir()
    (made / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (made / ".gitignore").write_text((README.parent / ".gitignore").read_text())
    subprocess.run(["git", "init", "-q"], cwd=made, check=True)
    return made


def test_the_tour_works_as_written(clone: Path) -> None:
    printed = walk("tour", clone)
    assert "gpujob.cumulus.dev/train created" in printed
    assert "gpujob.cumulus.dev/train unchanged" in printed
    assert "mine" in printed[printed.index("gpujob.cumulus.dev/second created") :], "`why` names who holds the share"
    left = ["git", "status", "--porcelain", "--untracked-files=all"]
    status = subprocess.run(left, cwd=clone, capture_output=True, text=True, check=True)
    assert status.stdout == "?? .gitignore\n", "a clone is as clean after the tour as before"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="NOT TESTED: kubectl is not installed")
def test_the_tour_from_a_laptop(clone: Path) -> None:
    printed = walk("laptop", clone)
    assert "gpujob.cumulus.dev/train condition met" in printed
    assert 'gpujob.cumulus.dev "train" deleted' in printed
    assert "revoked" in printed


def test_the_tour_is_not_empty() -> None:
    assert len(commands()) > 15
    assert len(commands("laptop")) > 10
