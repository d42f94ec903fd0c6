"""The README's tour, run exactly as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import monitor_gone

pytestmark = pytest.mark.daemon

README = Path(__file__).parents[2] / "README.md"


def tour() -> str:
    text = README.read_text()
    return text[text.index("<!-- tour: begin -->") : text.index("<!-- tour: end -->")]


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", tour(), re.S)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_tour_works_as_written(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    [manifest] = re.findall(r"```yaml\n(.*?)```", tour(), re.S)
    (tmp_path / ".tour").mkdir()
    (tmp_path / ".tour" / "train.yaml").write_text(manifest)
    (tmp_path / ".gitignore").write_text((README.parent / ".gitignore").read_text())
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    script = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for command in commands():
        # An echo of each command, so that a failure shows where it happened.
        script += [f"cat >&2 <<'COMMAND'\n$ {command}\nCOMMAND", command]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CUMULUS_", "CHRONOS_"))}
    env["CHRONOS_MONITOR_IDLE"] = "1"
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    finally:
        monitor_gone(tmp_path / ".tour" / "chronos")
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{done.stdout[-1000:]}"
    assert "gpujob.cumulus.dev/train created" in done.stdout
    assert "gpujob.cumulus.dev/train unchanged" in done.stdout
    assert "mine" in done.stdout[done.stdout.index("gpujob.cumulus.dev/second created") :], (
        "`why` names who holds the share"
    )
    left = ["git", "status", "--porcelain", "--untracked-files=all"]
    status = subprocess.run(left, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert status.stdout == "?? .gitignore\n", "a clone is as clean after the tour as before"


def test_the_tour_is_not_empty() -> None:
    assert len(commands()) > 15
