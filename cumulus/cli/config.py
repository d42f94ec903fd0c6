"""The daemon's configuration file: few keys, each checked, an unknown one is an error at its line.

    apiVersion: cumulus.dev/v1alpha1
    node:
      name: gpu-3              # the GPUNode's name; the host's name if left out
      labels: {rack: "7"}      # put on the node
    chronos:
      offerCPU: true           # lease the CPU beside a GPU too
    workers: 4                 # threads for each of the job and partition loops
    jobs:
      env: {TMPDIR: /scratch}  # variables of every job that runs as a process; a job's own win
    logs:                      # of each replica of each attempt
      first: 8Mi               # kept of its beginning
      last: 56Mi               # kept of its end; what is between them is dropped, and a line says how much

Taken from --config, else $ORCHESTRATOR_CONFIG, else ./config.yaml. Since many programs have a file of that name, this
last one is read only where it has the apiVersion; the others may leave it out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.errors import UsageError
from cumulus.lib.suggest import nearest
from cumulus.manifest.yaml_nodes import Node, parse
from cumulus.resources.fields import check_label_key, check_label_value, check_name
from cumulus.resources.key import API_VERSION
from cumulus.resources.quantity import format_bytes, parse_bytes

_log = structlog.get_logger("cumulus.serve")

DEFAULT = "config.yaml"
KEYS = {
    "apiVersion": (), "node": ("name", "labels"), "chronos": ("offerCPU",), "workers": (), "jobs": ("env",),
    "logs": ("first", "last"),
}  # fmt: skip
MOST_WORKERS = 64
_OURS = re.compile(rb"^(?:\{\s*)?[\"']?apiVersion[\"']?\s*:\s*[\"']?cumulus\.dev/", re.MULTILINE)
_MANIFEST = re.compile(rb"^(?:\{\s*)?[\"']?kind[\"']?\s*:", re.MULTILINE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_BYTES = 2**20
LEAST_LOG, MOST_LOG = 64 * 2**10, 2**40
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says; empty values leave the default."""

    node_name: str = ""
    node_labels: Mapping[str, str] = field(default_factory=dict)
    offer_cpu: bool = False
    workers: int = 0
    logs: LogRetention = DEFAULT_RETENTION
    job_env: Mapping[str, str] = field(default_factory=dict)


def find(given: str) -> Path | None:
    """The file to read, None where there is none, or one that is not ours. Raises UsageError where one was named and is
    not there."""
    named = given or os.environ.get("ORCHESTRATOR_CONFIG", "")
    if named:
        if not Path(named).is_file():
            source = "--config" if given else "ORCHESTRATOR_CONFIG"
            raise UsageError(f"the configuration file {named} is not there", hint=f"it is named by {source}")
        return Path(named)
    path = Path(DEFAULT)
    if not path.is_file():
        return None
    if _is_ours(path):
        return path
    _log.warning(
        f"./{DEFAULT} is not read: it does not say apiVersion: {API_VERSION}, so it may be another program's",
        fix="add that line, or name the file with --config",
    )
    return None


def _is_ours(path: Path) -> bool:
    """By a line of it, so that one of ours with a slip in it is read and refused. A manifest is no configuration."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
    except OSError:
        return False
    return bool(_OURS.search(text)) and not _MANIFEST.search(text)


def load(path: Path | None) -> Config:
    """Read the file. Raises UsageError, with file, line and what would be right."""
    if path is None:
        return Config()
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    documents, problems = parse(text, str(path))
    if problems:
        raise UsageError(str(problems[0]))
    if len(documents) > 1:
        raise UsageError(f"{path}: holds {len(documents)} documents; keep one")
    if not documents or documents[0].value is None:
        return Config()
    root = _Section(path, documents[0], "")
    root.check_keys(tuple(KEYS))
    root.check_version("apiVersion")
    node, chronos, logs, jobs = map(root.section, ("node", "chronos", "logs", "jobs"))
    return Config(
        node_name=node.text("name") if node else "",
        node_labels=node.labels("labels") if node else {},
        offer_cpu=chronos.flag("offerCPU") if chronos else False,
        workers=root.count("workers"),
        logs=_retention(logs) if logs else DEFAULT_RETENTION,
        job_env=jobs.variables("env") if jobs else {},
    )


def _retention(logs: _Section) -> LogRetention:
    first, last = DEFAULT_RETENTION
    return LogRetention(logs.size("first", first), logs.size("last", last))


class _Section:
    """A map of the file, with the name of its key and the place of each of its own."""

    def __init__(self, path: Path, node: Node, name: str) -> None:
        self._path = path
        self._node = node
        self._name = name
        if not isinstance(node.value, dict):
            place = f"{path}:{node.line}:{node.column}: {name or 'the file'}"
            raise UsageError(f"{place}: must be a map of keys to values", hint=_NOT_MEANT)
        self._values: dict[str, Node] = node.value

    def section(self, key: str) -> _Section | None:
        node = self._values.get(key)
        if node is None or node.value is None:
            return None
        found = _Section(self._path, node, key)
        found.check_keys(KEYS[key])
        return found

    def check_keys(self, known: tuple[str, ...]) -> None:
        for key in self._values:
            if key not in known:
                line, column = self._node.keys.get(key, (self._node.line, self._node.column))
                meant = nearest(key, known)
                right = f"did you mean {self._path_of(meant[0])}?" if meant else f"the keys here are {', '.join(known)}"
                place = f"{self._path}:{line}:{column}"
                raise UsageError(f"{place}: {self._path_of(key)}: unknown key; {right}", hint=_NOT_MEANT)

    def check_version(self, key: str) -> None:
        node, value = self._value(key)
        if node is not None and value != API_VERSION:
            raise self._wrong(node, key, f"must be {API_VERSION}")

    def text(self, key: str) -> str:
        node, value = self._value(key)
        if node is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(node, key, "must be text")
        try:
            return check_name(value)
        except ValueError as error:
            raise self._wrong(node, key, str(error)) from None

    def labels(self, key: str) -> dict[str, str]:
        node, value = self._value(key)
        if node is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise self._wrong(node, key, 'must be a map of text to text; put numbers in quotes, as in rack: "7"')
        try:
            return {check_label_key(k): check_label_value(v) for k, v in value.items()}
        except ValueError as error:
            raise self._wrong(node, key, str(error)) from None

    def variables(self, key: str) -> dict[str, str]:
        node, value = self._value(key)
        if node is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            right = 'must be a map of text to text; put numbers in quotes, as in OMP_NUM_THREADS: "4"'
            raise self._wrong(node, key, right)
        for name in value:
            if not _VARIABLE.fullmatch(name):
                raise self._wrong(node, key, f"{name!r} is not the name of a variable")
            if "\0" in value[name]:
                raise self._wrong(node, key, f"{name} holds a NUL character, which no program can be given")
        return value

    def flag(self, key: str) -> bool:
        node, value = self._value(key)
        if node is None:
            return False
        if not isinstance(value, bool):
            raise self._wrong(node, key, "must be true or false")
        return value

    def count(self, key: str) -> int:
        node, value = self._value(key)
        if node is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_WORKERS:
            raise self._wrong(node, key, f"must be a whole number from 1 to {MOST_WORKERS}")
        return value

    def size(self, key: str, default: int) -> int:
        node, value = self._value(key)
        if node is None:
            return default
        try:
            size = parse_bytes(value)
        except (TypeError, ValueError) as error:
            raise self._wrong(node, key, str(error)) from None
        if not LEAST_LOG <= size <= MOST_LOG:
            least, most = format_bytes(LEAST_LOG), format_bytes(MOST_LOG)
            raise self._wrong(node, key, f"is {format_bytes(size)}; it is at least {least} and at most {most}")
        return size

    def _value(self, key: str) -> tuple[Node | None, Any]:
        node = self._values.get(key)
        if node is None or node.value is None:
            return None, None
        return node, node.plain_value()

    def _wrong(self, node: Node, key: str, problem: str) -> UsageError:
        return UsageError(f"{self._path}:{node.line}:{node.column}: {self._path_of(key)}: {problem}", hint=_NOT_MEANT)

    def _path_of(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key


_NOT_MEANT = "name another file with --config or ORCHESTRATOR_CONFIG if this one is not for cumulus"
