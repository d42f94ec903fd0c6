"""The archive of a caller's source: the same files make the same bytes, so that what is unchanged is not sent again."""

from __future__ import annotations

import io
import json
import linecache
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cumulus.calls.envelope import SOURCES
from cumulus.resources.quantity import format_bytes
from cumulus.sdk.errors import SourceTooLarge
from cumulus.sdk.packaging.blob import Blob
from cumulus.sdk.packaging.source import Project, SourceFile

LIMIT = 64 * 2**20
"""Bytes of source at most, before compression."""
LONGEST_SOURCE = 2**20
"""Characters of a script or a notebook's cell whose lines tracebacks show."""
SHOWN = 8
"""How many of the largest files a refusal names."""
_BEGINNING = (1980, 1, 1, 0, 0, 0)


class Archives:
    """Makes the archives of one project. One whose files have not changed is not made again. Safe for threads."""

    def __init__(self, project: Project, *, limit: int = LIMIT) -> None:
        self._project = project
        self._limit = limit
        self._lock = threading.Lock()
        self._last: tuple[tuple[object, ...], Blob] | None = None

    def of(self, function: Callable[..., Any], sources: Iterable[str] = ()) -> tuple[Blob | None, frozenset[str]]:
        """The archive for a call of `function`, None where no code needs to travel, and the top names of the modules in
        it. `sources`: names of files whose code goes by value; their text goes along, for tracebacks. Raises
        SourceTooLarge, UsageError."""
        files = tuple(self._project.files(function))
        texts = {name: text for name in sorted(sources) if (text := _text(name))}
        modules = frozenset(file.name.partition("/")[0].partition(".")[0] for file in files)
        if not files and not texts:
            return None, modules
        with self._lock:
            wanted = (files, tuple(texts.items()))
            if self._last is None or self._last[0] != wanted:
                _refuse_large(files, self._limit, self._project)
                self._last = wanted, Blob.of(zipped(files, texts))
            return self._last[1], modules


def zipped(files: Sequence[SourceFile], sources: Mapping[str, str] = {}) -> bytes:
    """A zip whose bytes depend on names, contents and x-bits alone. Raises OSError."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        if sources:
            entry = zipfile.ZipInfo(SOURCES, _BEGINNING)
            archive.writestr(entry, json.dumps(sources, sort_keys=True), zipfile.ZIP_DEFLATED, compresslevel=6)
        for file in sorted(files, key=lambda each: each.name):
            entry = zipfile.ZipInfo(file.name, _BEGINNING)
            entry.create_system = 3
            entry.external_attr = (0o100755 if os.access(file.path, os.X_OK) else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with open(file.path, "rb") as source:
                archive.writestr(entry, source.read(), compresslevel=6)
    return made.getvalue()


def _text(name: str) -> str:
    """Of a script's file, or of a notebook's cell; "" where it is not to be had."""
    text = "".join(linecache.getlines(name))
    return text if len(text) <= LONGEST_SOURCE else ""


def _refuse_large(files: Sequence[SourceFile], limit: int, project: Project) -> None:
    total = sum(file.size for file in files)
    if total <= limit:
        return
    largest = sorted(files, key=lambda file: -file.size)[:SHOWN]
    listed = ", ".join(f"{file.name} ({format_bytes(file.size)})" for file in largest)
    raise SourceTooLarge(
        f"the local code in {project.root} has {format_bytes(total)}, more than {format_bytes(limit)}; the largest "
        f"files are {listed}",
        hint="name what need not travel in .cumulusignore, and send data as arguments",
    )
