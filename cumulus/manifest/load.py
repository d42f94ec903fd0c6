"""Loads files, directories and standard input into checked manifests: the whole way from a path to models."""

from __future__ import annotations

import codecs
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cumulus.manifest.check import Manifest, check
from cumulus.manifest.problem import InvalidManifest, Position, Problem
from cumulus.manifest.yaml_nodes import YamlNode, parse
from cumulus.resources.key import DEFAULT_NAMESPACE, NAME_LETTERS, Key

MAX_FILE_BYTES = 4 * 2**20
MAX_OBJECTS = 10_000
"""Objects in everything given to one `load`."""
SUFFIXES = frozenset({".yaml", ".yml", ".json"})


def load(
    sources: Iterable[str | Path],
    *,
    recursive: bool = False,
    namespace: str | None = None,
    default_namespace: str = DEFAULT_NAMESPACE,
    stdin: BinaryIO | None = None,
    generate: bool = False,
) -> list[Manifest]:
    """The objects in files, directories (their .yaml, .yml and .json files by name, hidden ones left out) and "-",
    standard input.

    `recursive`: go into subdirectories too. `namespace`: for objects that name none; those that name another are
    refused. None: objects that name none are in `default_namespace`. `generate`: where metadata.generateName stands in
    place of a name, it gets one that begins so. Raises InvalidManifest with every problem of every
    document.
    """
    sources = list(sources)
    problems: list[Problem] = []
    found: list[Manifest] = []
    for source in sources:
        for name, file in _files(str(source), recursive, problems):
            data = _read(name, file, stdin, problems)
            if data is not None:
                found += _check_all(data, name, namespace, default_namespace, problems, generate=generate)
    return _finish(found, problems, ", ".join(str(source) for source in sources))


def load_text(text: str | bytes, *, name: str = "manifest", namespace: str | None = None) -> list[Manifest]:
    """The objects in YAML or JSON text; `name` stands for the file in problems. Raises InvalidManifest."""
    problems: list[Problem] = []
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_FILE_BYTES:
        problems.append(_too_large(name))
        return _finish([], problems, name)
    return _finish(_check_all(data, name, namespace, DEFAULT_NAMESPACE, problems), problems, name)


def plain_value(text: str, *, name: str) -> Any:
    """One JSON or YAML value, of whatever shape. Raises InvalidManifest."""
    if len(text) > MAX_FILE_BYTES:
        raise InvalidManifest([_too_large(name)])
    documents, problems = parse(text, name)
    if problems or len(documents) != 1:
        raise InvalidManifest(sorted(problems) or [Problem(Position(name), "", "must hold one value")])
    return documents[0].plain_value()


def load_files(files: Mapping[str, bytes], *, default_namespace: str = DEFAULT_NAMESPACE) -> list[Manifest]:
    """The objects in files that were read elsewhere, by name; none is no mistake. Raises InvalidManifest with every
    problem of every document."""
    problems: list[Problem] = []
    found: list[Manifest] = []
    for name, data in sorted(files.items()):
        if len(data) > MAX_FILE_BYTES:
            problems.append(_too_large(name))
        else:
            found += _check_all(data, name, None, default_namespace, problems)
    return _finish(found, problems, ", ".join(files)) if found or problems else []


def _finish(found: list[Manifest], problems: list[Problem], given: str) -> list[Manifest]:
    """Refuses doubles and emptiness; nothing is handed out while anything is wrong."""
    first: dict[Key, Manifest] = {}
    for manifest in found:
        other = first.setdefault(manifest.key, manifest)
        if other is not manifest:
            there = other.problem(("metadata", "name"), "").position
            problems.append(manifest.problem(("metadata", "name"), f"{manifest.key} is given already at {there}"))
    if len(found) > MAX_OBJECTS:
        problems.append(Problem(Position(found[0].file), "", f"more than {MAX_OBJECTS:,} objects at once; split them"))
    if not found and not problems:
        problems.append(Problem(Position(given or "nothing"), "", "holds no objects"))
    if problems:
        raise InvalidManifest(problems)
    return found


def _files(source: str, recursive: bool, problems: list[Problem]) -> Iterator[tuple[str, Path | None]]:
    """Name and path of each file that `source` stands for; the path of standard input is None."""
    if source == "-":
        yield "-", None
        return
    if source.startswith(("http://", "https://")):
        problems.append(Problem(Position(source), "", "URLs are not read; download it, or pipe it in with -f -"))
        return
    path = Path(source)
    try:
        files = _files_in(path, recursive, problems) if stat.S_ISDIR(path.stat().st_mode) else None
    except (OSError, ValueError) as error:
        problems.append(_unreadable(source, error))
        return
    if files is None:
        yield source, path
        return
    if not files:
        more = "" if recursive else "; recursive reads its subdirectories"
        problems.append(Problem(Position(source), "", f"the directory holds no .yaml, .yml or .json file{more}"))
    for file in files:
        yield str(file), file


def _files_in(directory: Path, recursive: bool, problems: list[Problem]) -> list[Path]:
    found: list[Path] = []
    # A listing says when it may not read; a glob leaves out what it may not read.
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            mode = path.stat().st_mode
        except OSError as error:
            # A link that leads nowhere, or in a circle.
            if path.suffix in SUFFIXES:
                problems.append(_unreadable(str(path), error))
            continue
        if stat.S_ISDIR(mode):
            found += _files_in(path, recursive, problems) if recursive and not path.is_symlink() else []
        elif path.suffix in SUFFIXES:
            # Nobody means a pipe or a device by a directory, and reading one may never end.
            if stat.S_ISREG(mode):
                found.append(path)
            else:
                problems.append(Problem(Position(str(path)), "", "is not a regular file; name it with -f to read it"))
    return found


def _read(name: str, file: Path | None, stdin: BinaryIO | None, problems: list[Problem]) -> bytes | None:
    try:
        if file is None:
            data = (stdin or sys.stdin.buffer).read(MAX_FILE_BYTES + 1)
        else:
            with file.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        problems.append(_unreadable(name, error))
        return None
    if len(data) > MAX_FILE_BYTES:
        problems.append(_too_large(name))
        return None
    return data


def _check_all(
    data: bytes, name: str, namespace: str | None, default: str, problems: list[Problem], *, generate: bool = False
) -> list[Manifest]:
    text = _decoded(data, name, problems)
    if text is None:
        return []
    documents, found_wrong = parse(text, name)
    found: list[Manifest] = []
    for document in documents:
        if generate:
            _generate_names(document)
        for result in check(document, name, namespace, default=default):
            if isinstance(result, Manifest):
                found.append(result)
            else:
                found_wrong.append(result)
    problems += sorted(found_wrong)
    return found


def _generate_names(node: YamlNode) -> None:
    """Put names where generateName asks for them, in the document and in a List's items."""
    if not isinstance(node.value, dict):
        return
    items = node.value.get("items")
    for below in items.value if items is not None and isinstance(items.value, list) else ():
        _generate_names(below)
    metadata = node.value.get("metadata")
    if metadata is None or not isinstance(metadata.value, dict):
        return
    prefix = metadata.value.get("generateName")
    if prefix is None or not isinstance(prefix.value, str):
        return
    place = metadata.keys.pop("generateName")
    del metadata.value["generateName"]
    if "name" not in metadata.value and prefix.value:
        ending = "".join(NAME_LETTERS[each % len(NAME_LETTERS)] for each in os.urandom(5))
        name = f"{prefix.value[:248]}{ending}"
        metadata.value["name"] = YamlNode(name, prefix.line, prefix.column, text=name)
        metadata.keys["name"] = place


def _decoded(data: bytes, name: str, problems: list[Problem]) -> str | None:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        problems.append(Problem(Position(name), "", "is UTF-16; save it as UTF-8"))
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        problems.append(Problem(Position.at(name, data, error.start), "", message))
        return None


def _unreadable(name: str, error: OSError | ValueError) -> Problem:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Problem(Position(name), "", f"cannot be read: {reason.lower()}")


def _too_large(name: str) -> Problem:
    return Problem(Position(name), "", f"is larger than {MAX_FILE_BYTES // 2**20} MiB; split it")
