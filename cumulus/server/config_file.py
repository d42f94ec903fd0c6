"""Finds and reads the daemon's configuration file, and says where in it a value stands.

Taken from --config, else $ORCHESTRATOR_CONFIG, else ./config.yaml. Since many programs have a file of that name, this
last one is read only where it has the apiVersion; the others may leave it out.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from cumulus.errors import UsageError
from cumulus.lib.suggest import nearest
from cumulus.manifest.yaml_nodes import YamlNode, parse
from cumulus.resources.key import API_VERSION

_log = structlog.get_logger("cumulus.serve")

DEFAULT = "config.yaml"
NOT_MEANT = "name another file with --config or ORCHESTRATOR_CONFIG if this one is not for cumulus"
_OURS = re.compile(rb"^(?:\{\s*)?[\"']?apiVersion[\"']?\s*:\s*[\"']?cumulus\.dev/", re.MULTILINE)
_MANIFEST = re.compile(rb"^(?:\{\s*)?[\"']?kind[\"']?\s*:", re.MULTILINE)
_MOST_BYTES = 2**20
_OTHERS = {
    stat.S_ISDIR: "a directory", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}  # fmt: skip


def find(named: str, source: str) -> Path | None:
    """The file to read: `named`, by `source`, else ./config.yaml where that is ours; None where there is none.

    Raises UsageError where the file is not there though it was named, or is none that can be read."""
    path = Path(named or DEFAULT)
    if not named and not os.path.lexists(path):
        return None
    _check(path, f"it is named by {source}" if named else "remove it, or name another file with --config")
    if named or _is_ours(path):
        return path
    _log.warning(
        f"./{DEFAULT} is not read: it does not say apiVersion: {API_VERSION}, so it may be another program's",
        fix="add that line, or name the file with --config",
    )
    return None


def _check(path: Path, hint: str) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        problem = "is a link to nothing" if path.is_symlink() else "is not there"
        raise UsageError(f"the configuration file {path} {problem}", hint=hint) from None
    except OSError as error:
        raise UsageError(f"the configuration file {path} cannot be read: {error.strerror}", hint=hint) from None
    what = next((name for test, name in _OTHERS.items() if test(mode)), "")
    if what:
        raise UsageError(f"the configuration file {path} is {what}; it must be a file", hint=hint)


def _is_ours(path: Path) -> bool:
    """By a line of it, so that one of ours with a slip in it is read and refused. A manifest is no configuration."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    return bool(_OURS.search(text)) and not _MANIFEST.search(text)


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} cannot be read: {getattr(error, 'strerror', error)}")


class ConfigFile:
    """A configuration file as read: its values, and their places."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError where it cannot be read or is no single YAML document."""
        self.path = path
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, error) from None
        documents, problems = parse(text, str(path))
        if problems:
            raise UsageError(str(problems[0]))
        if len(documents) > 1:
            raise UsageError(f"{path}: holds {len(documents)} documents; keep one")
        self._root = documents[0] if documents else None

    @property
    def values(self) -> dict[str, Any]:
        """By key; those without a value are left out. Raises UsageError where the file is no map."""
        if self._root is None or self._root.value is None:
            return {}
        if not isinstance(self._root.value, dict):
            raise self.wrong((), "must be a map of keys to values")
        values: dict[str, Any] = _given(self._root)
        return values

    def wrong(self, keys: Sequence[str], problem: str) -> UsageError:
        """What is wrong with the value at that path of keys."""
        node = self._node(keys)
        return self._error(node.line, node.column, keys, problem)

    def unknown(self, keys: Sequence[str], known: Sequence[str]) -> UsageError:
        """That the last key is none of those that may stand there."""
        parent = self._node(keys[:-1])
        line, column = parent.keys.get(keys[-1], (parent.line, parent.column))
        meant = nearest(keys[-1], known)
        right = (
            f"did you mean {'.'.join([*keys[:-1], meant[0]])}?" if meant else f"the keys here are {', '.join(known)}"
        )
        return self._error(line, column, keys, f"unknown key; {right}")

    def _node(self, keys: Sequence[str]) -> YamlNode:
        assert self._root is not None
        node = self._root
        for key in keys:
            assert isinstance(node.value, dict)
            node = node.value[key]
        return node

    def _error(self, line: int, column: int, keys: Sequence[str], problem: str) -> UsageError:
        return UsageError(f"{self.path}:{line}:{column}: {'.'.join(keys) or 'the file'}: {problem}", hint=NOT_MEANT)


def _given(node: YamlNode) -> Any:
    """The value as JSON has it, without keys that have none."""
    if isinstance(node.value, dict):
        return {key: _given(each) for key, each in node.value.items() if each.value is not None}
    return node.plain_value()
