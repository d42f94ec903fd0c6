"""A time that is cut is none: `2026-11-30T06:17:5…` may be any of ten seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import cumulus

ROOT = Path(cumulus.__file__).parent
TIMES = {"TIME", "CREATED", "EXPIRES", "SAVED", "REVOKED", "START", "END", "TESTED", "EXPECTED", "UNTIL"}


def headings(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each title in a list or tuple of headings, with what becomes of it where there is no room."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Heading":
            texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
            yield str(texts[0]) if texts else "", str(texts[1]) if len(texts) > 1 else "cut"
        elif isinstance(node, ast.List | ast.Tuple):
            for each in node.elts:
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    yield each.value, "cut"


def test_no_table_cuts_a_time() -> None:
    found = []
    for file in sorted([*ROOT.glob("cli/**/*.py"), ROOT / "chronos/printers.py"]):
        text = file.read_text()
        if "Heading" in text or "Table(" in text:
            found += [(file.name, title, fit) for title, fit in headings(ast.parse(text)) if title in TIMES]
    assert len(found) > 5, "the tables are elsewhere now"
    assert [each for each in found if each[2] != "whole"] == []
