"""Every file, folder, module and name that the pages mention is there: pages go with the code that they describe."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
NEW = {"cumulus/controllers/waiting/", "tests/controllers/test_waiting.py"}
"""What a page tells its reader to write."""

CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
REPOSITORY = re.compile(r"(?:cumulus|tests|docs|scripts|benchmarks|manifests|containers|packaging)/[\w./-]*")
MODULE = re.compile(r"[\w/]+\.py")
DOTTED = re.compile(r"(?:python -m )?((?:cumulus|tests|benchmarks)(?:\.\w+)+)\b(?: .*)?")
NAMED = re.compile(r"`([\w/]+\.py)` `([A-Za-z_][\w.]*)`")
TEST = re.compile(r"test_\w+")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_mentions_is_there(page: Path) -> None:
    assert [*_missing(page, page.read_text())] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_room_has_one_row(page: str) -> None:
    rows = re.findall(r"^\| `(cumulus/\w+)/`", (ROOT / page).read_text(), re.MULTILINE)
    rooms = {f"cumulus/{place.name}" for place in (ROOT / "cumulus").iterdir() if (place / "__init__.py").is_file()}
    assert set(rows) == rooms
    assert len(rows) == len(rooms)


def test_something_that_is_not_there_is_found() -> None:
    text = (
        "`cumulus/nowhere.py` [a page](nowhere.md) `cumulus.clock.Nothing` `chronos/ledger.py` `Ledger.nothing` "
        "`test_nowhere`, `cumulus/clock.py`, `cumulus.clock.Clock`, `chronos/ledger.py` `Ledger.grant`, `cumulus.dev/x`"
    )
    assert sorted(_missing(ROOT / "README.md", text)) == [
        "Ledger.nothing in chronos/ledger.py", "cumulus.clock.Nothing", "cumulus/nowhere.py", "nowhere.md",
        "test_nowhere",
    ]  # fmt: skip


def _missing(page: Path, text: str) -> Iterator[str]:
    for link in LINK.findall(text):
        if "://" not in link and not (page.parent / link).exists():
            yield link
    for path, name in NAMED.findall(text):
        file = _file(path)
        if file is not None and name not in _names(file):
            yield f"{name} in {path}"
    for code in CODE.findall(text):
        for path in REPOSITORY.findall(code):
            there = (ROOT / path).exists() or (ROOT / f"{path}.py").exists()
            if not there and not any(path.startswith(new) for new in NEW):
                yield path
        if MODULE.fullmatch(code) and "/" in code and not REPOSITORY.fullmatch(code) and _file(code) is None:
            yield code
        dotted = DOTTED.fullmatch(code)
        if dotted and not _is_known(dotted[1]):
            yield dotted[1]
        if TEST.fullmatch(code) and not [*(ROOT / "tests").rglob(f"{code}.py")]:
            yield code


def _file(path: str) -> Path | None:
    """A module, by its path in the repository or below `cumulus/`."""
    return next((found for found in (ROOT / path, ROOT / "cumulus" / path) if found.is_file()), None)


def _is_known(dotted: str) -> bool:
    """Whether there is such a module, or a module that defines such a name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        rest = ".".join(parts[length:])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return not rest or rest in _names(file)
        if place.is_dir():
            return not rest
    return False


@cache
def _names(file: Path) -> frozenset[str]:
    """What a module defines: names, and `Class.name` of what its classes define."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        for name in _defined(node):
            found.add(name)
            if isinstance(node, ast.ClassDef):
                found.update(f"{name}.{inner}" for member in node.body for inner in _defined(member))
        if isinstance(node, ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
    return frozenset(found)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
