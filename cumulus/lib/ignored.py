"""Which files of a directory do not travel: `.gitignore` and `.cumulusignore`, as gitignore(5) describes them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

FILES = (".gitignore", ".cumulusignore")
"""Later ones win."""

ALWAYS = (
    ".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", "node_modules", "__pycache__", "*.py[co]", ".mypy_cache",
    ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".DS_Store", ".env",
)  # fmt: skip
"""What never travels unless a `.cumulusignore` says so with `!`."""


class Rule(NamedTuple):
    """One line of a file."""

    pattern: re.Pattern[str]
    """Of a path relative to the file's directory, without a slash at its end."""
    keeps: bool
    """Whether what matches is kept (`!`)."""
    directories_only: bool


def rules_of(lines: Iterator[str] | tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules that lines of such a file say."""
    return tuple(rule for line in lines if (rule := _rule(line)) is not None)


def _rule(line: str) -> Rule | None:
    line = line.rstrip("\r\n")
    # Blanks at the end count only behind a backslash.
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if not line or line.startswith("#"):
        return None
    keeps = line.startswith("!")
    line = line[keeps:]
    directories_only = line.endswith("/")
    line = line.rstrip("/")
    if not line:
        return None
    anchored = "/" in line
    try:
        pattern = re.compile(("" if anchored else "(?:.*/)?") + _regex(line.lstrip("/")), re.DOTALL)
    except re.error:
        return None
    return Rule(pattern, keeps, directories_only)


def _regex(glob: str) -> str:
    made, at = "", 0
    while at < len(glob):
        rest = glob[at:]
        if rest.startswith("**/") and (at == 0 or glob[at - 1] == "/"):
            made, at = made + "(?:.*/)?", at + 3
        elif rest == "**" and (at == 0 or glob[at - 1] == "/"):
            made, at = made + ".+", at + 2
        elif rest[0] == "*":
            made, at = made + "[^/]*", at + 1
        elif rest[0] == "?":
            made, at = made + "[^/]", at + 1
        elif rest[0] == "[" and (end := _class_end(rest)):
            inner = rest[1:end].replace("\\", "\\\\")
            inner = "^/" + inner[1:] if inner[0] in "!^" else inner
            made, at = made + f"[{inner}]", at + end + 1
        elif rest[0] == "[":
            # To git, too, it matches nothing then.
            raise re.error("a bracket is not closed")
        elif rest[0] == "\\" and len(rest) > 1:
            made, at = made + re.escape(rest[1]), at + 2
        else:
            made, at = made + re.escape(rest[0]), at + 1
    return made


def _class_end(text: str) -> int:
    """Where the bracket that `text` begins with is closed; 0 where it is not. A bracket right after it is a member."""
    start = 2 if text[1:2] in ("!", "^") else 1
    return max(text.find("]", start + 1), 0)


_ALWAYS = re.compile("|".join(f"(?:{rule.pattern.pattern})" for rule in rules_of(ALWAYS)), re.DOTALL)
"""All of them at once: each file of a project is asked about, with each call."""


class Ignored:
    """What the files below `root` say. Each file is read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rules_over = cache(self._find_rules_over)

    def __contains__(self, path: Path) -> bool:
        """Whether the file or directory, below the root, is left out: it, or a directory that it lies in."""
        try:
            parts = path.relative_to(self._root).parts
        except ValueError:
            return False
        place = self._root
        for at, part in enumerate(parts):
            place = place / part
            if self.leaves_out(place, at < len(parts) - 1 or path.is_dir()):
                return True
        return False

    def leaves_out(self, path: str | os.PathLike[str], directory: bool) -> bool:
        """The same of what lies in a directory below the root that is not left out itself."""
        parent, name = os.path.split(path)
        left_out = _ALWAYS.fullmatch(name) is not None
        for rules, way in self._rules_over(parent):
            said = _says(rules, way + name, directory)
            left_out = left_out if said is None else not said
        return left_out

    def _find_rules_over(self, directory: str) -> tuple[tuple[tuple[Rule, ...], str], ...]:
        """Those that count for what lies in the directory, the root's first, each with the way from where they are."""
        own = self._read(directory)
        found = ((own, ""),) if own else ()
        if directory == os.fspath(self._root):
            return found
        above, name = os.path.split(directory)
        if above == directory:
            raise ValueError(f"what is asked about does not lie below {self._root}")
        return (*((rules, f"{way}{name}/") for rules, way in self._rules_over(above)), *found)

    def _read(self, directory: str) -> tuple[Rule, ...]:
        made: list[Rule] = []
        for name in FILES:
            try:
                with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                    made += rules_of(iter(file))
            except OSError:
                continue
        return tuple(made)


def _says(rules: tuple[Rule, ...], path: str, directory: bool) -> bool | None:
    """Whether the last rule that matches keeps it; None where none matches."""
    for rule in reversed(rules):
        if (directory or not rule.directories_only) and rule.pattern.fullmatch(path):
            return rule.keeps
    return None
