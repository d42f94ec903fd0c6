"""docs/seed.md: nothing of the first description is forgotten, and each row names a test that is there."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.commands import installed

ROOT = Path(__file__).parents[1]
SEED = (Path(__file__).parent / "seed.md").read_text()
PAGE = (ROOT / "docs" / "seed.md").read_text()

TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_command_has_its_row() -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", SEED, re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line and not line.startswith("#")]
    assert len(commands) > 35
    assert set(_rows("Commands")) == {re.sub(r"\s+#.*", "", command) for command in commands}


def test_every_variable_has_its_row() -> None:
    [section] = re.findall(r"^## Environment Variables\n(.*)", SEED, re.MULTILINE | re.DOTALL)
    variables = {name for line in section.splitlines() for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", line)}
    assert len(variables) == 11
    assert set(_rows("Environment variables")) == variables


def test_every_component_has_its_row() -> None:
    components = set(re.findall(r"^(?:- )?\*\*([^*:]+)\*\*(?: -|$| )", SEED, re.MULTILINE))
    libraries = set(re.findall(r"^- `([^`]+)` - ", SEED.partition("## Common Commands")[0], re.MULTILINE))
    assert len(components) > 10
    assert len(libraries) > 6
    assert set(_rows("Components")) == components | libraries


def test_every_row_names_a_test_that_is_there() -> None:
    missing = []
    for section in ("Commands", "Environment variables", "Components"):
        for name, shown in _rows(section).items():
            named = TEST.findall(shown)
            assert named, f"{name} names no test"
            missing += [
                f"{name}: {file}::{test}"
                for file, test in named
                if not (ROOT / file).is_file() or (test and test not in _tests(file))
            ]
    assert missing == []


def test_the_protocol_is_generated_as_the_page_says(tmp_path: Path) -> None:
    shutil.copy(ROOT / "proto" / "orchestrator.proto", tmp_path)
    command = "-m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. orchestrator.proto"
    subprocess.run([sys.executable, *command.split()], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.glob("*.py")} == {"orchestrator_pb2.py", "orchestrator_pb2_grpc.py"}


def test_the_installation_has_the_programs_and_packages_of_the_page() -> None:
    assert importlib.metadata.version("cumulus-gpu")
    for program in ("cumulus", "cumulus-orchestrator", "chronos_cli"):
        assert installed(program)
    assert importlib.util.find_spec("sdk.client") is not None


def _rows(section: str) -> dict[str, str]:
    """The first cell of each row, without its backticks, and the last."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("| `")]
    found = {row[0].strip("`"): row[-1] for row in rows}
    assert len(found) == len(rows)
    assert {len(row) for row in rows} == {3}
    return found


@cache
def _tests(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
