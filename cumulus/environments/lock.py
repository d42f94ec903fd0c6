"""Makes the environment document on the client, from what a user gives as `requirements=`. Standard library only.

With `uv` on this machine a list is resolved here, to one version of each package with its hashes, for all platforms:
then nodes build the same environment, and users may share it. Without it the list goes as it is. The node resolves it
once and keeps what it built.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cumulus.environments.causes import cause_of
from cumulus.environments.document import EnvironmentDocument, logical_lines, not_hashed
from cumulus.errors import InvalidEnvironment
from cumulus.lib import files
from cumulus.lib.printable import one_line

_PATIENCE = 300.0
_FRESH = 86400.0
"""Seconds for which the versions of an unpinned list stay as they were resolved here."""
_INCLUDE = re.compile(r"(?:-r|--requirement)[\s=]+(\S+)")
_CONSTRAINT = re.compile(r"(?:-c|--constraint)[\s=]")
_HERE = re.compile(r"(?:(?:-e|--editable)[\s=]*)?(?:\.{1,2}(?:[/\\]|$|\[)|~|file:\.|(?:[\w.-]+\s*@\s*)?file:(?!//))")
_NODES = re.compile(r"(?:(?:-e|--editable)[\s=]*)?(?:/|(?:[\w.-]+(?:\[[^]]*\])?\s*@\s*)?file://)")
_DEEP = 10
_BYTE = re.compile(r"requirement in `-` at position (\d+)")
_ROW = re.compile(r": -:(\d+):\d+\s*$", re.MULTILINE)
_CAUSE = re.compile(r"^\s*(?:cause|Caused by): (.*)$", re.MULTILINE)
"""uv's words for a place in its standard input, as a number of bytes or as LINE:COLUMN, and for why."""


def document_of(
    requirements: Sequence[str] | str | os.PathLike[str], python: str = "", *, cache: str | os.PathLike[str] = ""
) -> EnvironmentDocument:
    """The document for a list of requirements, or for a file: requirements.txt, pyproject.toml or uv.lock.

    `python` is the major.minor that the call runs with: this process' own by default. What was resolved is kept in
    `cache` for a day. Raises `InvalidEnvironment`, which says what would be right.

        >>> document_of([]).requirements
        ''
    """
    python = python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    uv = _uv()
    if not isinstance(requirements, str | os.PathLike):
        text = _text_of(requirements)
        return _resolved(text, Path.cwd(), python, uv, cache)
    file = Path(requirements)
    if not file.is_file():
        hint = f'for packages write a list: requirements=["{requirements}"]' if isinstance(requirements, str) else None
        raise InvalidEnvironment(f"requirements: there is no file {str(requirements)[:200]}", hint=hint)
    if file.name == "uv.lock" or file.suffix == ".toml":
        if uv is None:
            raise InvalidEnvironment(f"requirements: {file.name} needs uv", hint="install it: pip install uv")
        return _document(_export(uv, file, python), python)
    return _resolved(_expanded(file, 0), file.parent, python, uv, cache)


def _document(text: str, python: str) -> EnvironmentDocument:
    return EnvironmentDocument(python, text, hashed=bool(logical_lines(text)) and not_hashed(text) is None)


def _text_of(requirements: Sequence[str]) -> str:
    for item in requirements:
        if not isinstance(item, str) or "\n" in item:
            raise InvalidEnvironment(
                f"requirements: {item!r:.80} is no requirement", hint='write each as a string, as "numpy>=2"'
            )
    return "".join(f"{item}\n" for item in requirements)


def _expanded(file: Path, depth: int) -> str:
    """The text of a requirements file, with that of the files that it includes."""
    if depth > _DEEP:
        raise InvalidEnvironment(f"requirements: {file} includes itself, or is {_DEEP} files deep")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidEnvironment(f"requirements: {file} can't be read: {error}") from None
    lines = []
    for line in text.splitlines():
        included = _INCLUDE.match(line.strip())
        lines.append(_expanded(file.parent / included[1], depth + 1) if included else f"{line}\n")
    return "".join(lines)


def _resolved(
    text: str, directory: Path, python: str, uv: str | None, cache: str | os.PathLike[str]
) -> EnvironmentDocument:
    lines = logical_lines(text)
    for line in lines:
        if _HERE.match(line):
            raise InvalidEnvironment(
                f"requirements: {line[:80]!r} is on this machine, and the node has only its name",
                hint="import it, then it travels with the call; or name a wheel by its address",
            )
    # One that has its hashes is a lock already. What lies on the node can't be looked at from here.
    if not lines or not_hashed(text) is None or uv is None or any(_NODES.match(line) for line in lines):
        if any(_CONSTRAINT.match(line) for line in lines):
            raise InvalidEnvironment("requirements: a file of constraints needs uv", hint="install it: pip install uv")
        return _document(text, python)
    kept = _kept(text, python, cache)
    with contextlib.suppress(OSError):
        if kept is not None and time.time() - kept.stat().st_mtime < _FRESH:
            return _document(kept.read_text(encoding="utf-8"), python)
    compiled = [uv, "pip", "compile", "-", "--universal", "--python-version", python, "--no-header", "--no-annotate"]
    found = _run([*compiled, "--generate-hashes"], directory, text)
    if not_hashed(found) is not None:
        # Hashes for some only would make installers ask for all.
        found = _run(compiled, directory, text)
    if kept is not None:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            with files.replacing(str(kept), durable=False) as written:
                written.write(found.encode())
    return _document(found, python)


def _export(uv: str, file: Path, python: str) -> str:
    if file.name != "uv.lock":
        return _run(
            [uv, "pip", "compile", str(file.resolve()), "--universal", "--python-version", python, "--no-header",
             "--no-annotate", "--generate-hashes"], file.parent,
        )  # fmt: skip
    # As locked: the project itself travels with the call's source.
    return _run(
        [uv, "export", "--frozen", "--no-emit-project", "--no-dev", "--no-header", "--no-annotate", "--format",
         "requirements.txt"], file.parent,
    )  # fmt: skip


def _kept(text: str, python: str, cache: str | os.PathLike[str]) -> Path | None:
    if not cache:
        return None
    digest = hashlib.sha256("\n".join((python, text)).encode()).hexdigest()
    return Path(cache) / f"{digest[:32]}.txt"


def _uv() -> str | None:
    return shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))


def _run(command: Sequence[str], directory: Path, text: str = "") -> str:
    """What uv prints. Raises `InvalidEnvironment` with what it says of its failure."""
    # At the terminal's width its words would be broken off in the midst of a place.
    shown = {"NO_COLOR": "1", "UV_NO_PROGRESS": "1", "COLUMNS": "10000"}
    variables = {**os.environ, **shown, "UV_PYTHON_DOWNLOADS": "never"}
    try:
        done = subprocess.run(
            command, input=text, cwd=directory, env=variables, capture_output=True, encoding="utf-8", errors="replace",
            timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidEnvironment(f"requirements: uv: {error}") from None
    if done.returncode != 0:
        raise _unresolved(text, done.stderr)
    return done.stdout


def _unresolved(text: str, said: str) -> InvalidEnvironment:
    """Why uv failed; where it tells a place in `text`, with the requirement that stands there."""
    cause = cause_of(said, "uv failed")
    before = _BYTE.search(said)
    row = text.encode()[: int(before[1])].count(b"\n") if before else -1
    if (at := _ROW.search(said)) is not None:
        row = int(at[1]) - 1
    lines = text.splitlines()
    if not 0 <= row < len(lines):
        return InvalidEnvironment(f"requirements: {cause}")
    why = _CAUSE.search(said)
    words = one_line(why[1].strip() if why else cause)
    return InvalidEnvironment(
        f"requirements: {lines[row].strip()[:80]!r} is no requirement: {words}", hint='write it as in "numpy>=2"'
    )
