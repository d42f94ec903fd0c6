"""Pages that people follow, run as they stand."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def part(page: Path, name: str) -> str:
    """What stands between the marks of that name."""
    text = page.read_text()
    return text[text.index(f"<!-- {name}: begin -->") : text.index(f"<!-- {name}: end -->")]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands(text: str) -> list[str]:
    """What is typed at the prompts."""
    lines = [line for block in blocks(text, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def follow(typed: Sequence[str], directory: Path, env: Mapping[str, str]) -> str:
    """What the commands print, which end well. What they left in the background is ended."""
    script = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    for command in typed:
        # An echo of each command, so that a failure shows where it happened.
        script += [f"cat >&2 <<'COMMAND'\n$ {command}\nCOMMAND", command]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=directory, env=env, capture_output=True, text=True, timeout=350,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{done.stdout[-3000:]}"
    return done.stdout
