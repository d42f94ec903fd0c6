"""Finds a caller's local code: what is imported from under the project's root and is not installed.

A local package travels whole, with its data. Modules that functions import only when they run are found by their
`import` lines. `__main__` does not travel: what it defines goes by value.
"""

from __future__ import annotations

import dis
import importlib.machinery
import os
import re
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cumulus.errors import UsageError
from cumulus.lib.ignored import Ignored

MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git", ".cumulusignore")
"""One of these is in the root of a project."""
OURS = "cumulus"
"""The node has this already."""

_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import\b|import[ \t]+([\w., \t]+))", re.MULTILINE)


class SourceFile(NamedTuple):
    """A file that travels."""

    path: str
    name: str
    """In the archive, with `/`."""
    size: int
    changed: int
    """st_mtime_ns"""


class Project:
    """A root, and what is added to the modules below it.

    `include`: files, directories or globs, relative to the root. They travel under their path below it.
    """

    def __init__(self, root: Path, include: Sequence[str] = ()) -> None:
        self.root = root.resolve()
        self._include = tuple(include)

    @classmethod
    def around(cls, start: Path | None = None, include: Sequence[str] = ()) -> Project:
        """The project that `start` lies in: the next directory above that has one of `MARKERS`, but never the home
        directory; `start` itself where there is none. If left out: where the program's file is, else the current
        directory."""
        start = (start or _program_directory()).resolve()
        home = Path.home()
        for place in (start, *start.parents):
            if place == home or place.parent == place:
                break
            if any((place / marker).exists() for marker in MARKERS):
                return cls(place, include)
        return cls(start, include)

    def is_local(self, path: str | os.PathLike[str]) -> bool:
        """Whether it is below the root and not installed."""
        return _is_local(os.fspath(path), str(self.root))

    def is_module_of(self, function: Callable[..., Any]) -> bool:
        """Whether the function is imported from a local module."""
        module = sys.modules.get(getattr(function, "__module__", None) or "")
        own = module is not None and module.__name__.partition(".")[0] not in ("__main__", OURS)
        return own and any(self.is_local(place) for place in _places(module))

    def files(self, function: Callable[..., Any]) -> list[SourceFile]:
        """The files that travel for a call of `function`, by name. Raises UsageError for an include that is not there,
        or a function whose module would not travel."""
        self._refuse_elsewhere(function)
        ignored = Ignored(self.root)
        found: dict[str, SourceFile] = {}
        seen = {OURS, "__main__"}
        queue = [*self._imported(), *_imports_of(function), *self._imports_of_program()]
        while queue:
            name = queue.pop()
            if name in seen:
                continue
            seen.add(name)
            for file in self._module(name, ignored):
                if file.name not in found:
                    found[file.name] = file
                    if file.name.endswith(".py"):
                        queue += [each for each in _imports_in(file.path, file.changed) if each not in seen]
        for file in self._included(ignored):
            found.setdefault(file.name, file)
        return [found[name] for name in sorted(found)]

    def _imported(self) -> Iterator[str]:
        """Top names of modules that are loaded."""
        for name, module in list(sys.modules.items()):
            if any(self.is_local(place) for place in _places(module)):
                yield name.partition(".")[0]

    def _imports_of_program(self) -> tuple[str, ...]:
        main = sys.modules.get("__main__")
        path = getattr(main, "__file__", None)
        package = (getattr(main, "__package__", None) or "").partition(".")[0]
        named = (package,) if package else ()
        if path is None or not self.is_local(path) or not os.path.isfile(path):
            return named
        return (*_imports_in(path, os.stat(path).st_mtime_ns), *named)

    def _module(self, name: str, ignored: Ignored) -> Iterator[SourceFile]:
        for place in _top_places(name):
            if not self.is_local(place):
                continue
            path = os.path.realpath(place)
            if os.path.isdir(path):
                if Path(path) not in ignored:
                    yield from self._walk(path, name, ignored)
            elif Path(path) not in ignored:
                yield from self._file(path, name + _suffix(path))

    def _included(self, ignored: Ignored) -> Iterator[SourceFile]:
        for pattern in self._include:
            if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
                raise UsageError(f"include={pattern!r} leads out of the project {self.root}; give a path below it")
            paths = sorted(self.root.glob(pattern))
            if not paths:
                raise UsageError(f"include={pattern!r}: there is no such file in the project {self.root}")
            for path in paths:
                name = path.relative_to(self.root).as_posix()
                if not path.is_dir():
                    yield from self._file(str(path), name)
                elif path not in ignored and _below(os.path.realpath(path), str(self.root)):
                    yield from self._walk(str(path), "" if name == "." else name, ignored)

    def _walk(self, directory: str, name: str, ignored: Ignored) -> Iterator[SourceFile]:
        """What lies in a directory, which is `name` in the archive. With plain strings: a project may have thousands of
        files, and each call looks at them."""
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda each: each.name)
        for entry in found:
            is_directory = entry.is_dir(follow_symlinks=False)
            if ignored.leaves_out(entry.path, is_directory):
                continue
            inside = f"{name}/{entry.name}" if name else entry.name
            if is_directory:
                yield from self._walk(entry.path, inside, ignored)
            elif entry.is_symlink():
                if entry.is_file():
                    yield from self._file(entry.path, inside)
            elif entry.is_file():
                try:
                    status = entry.stat()
                except OSError:
                    continue
                yield SourceFile(entry.path, inside, status.st_size, status.st_mtime_ns)

    def _file(self, path: str, name: str) -> Iterator[SourceFile]:
        """Nothing for a link that leads out of the project, or to nowhere."""
        if not _below(os.path.realpath(path), str(self.root)):
            return
        try:
            found = os.stat(path)
        except OSError:
            return
        yield SourceFile(path, name, found.st_size, found.st_mtime_ns)

    def _refuse_elsewhere(self, function: Callable[..., Any]) -> None:
        name = getattr(function, "__module__", None)
        path = getattr(sys.modules.get(name or ""), "__file__", None)
        if name in (None, "__main__") or path is None or "<locals>" in getattr(function, "__qualname__", ""):
            return
        if not self.is_local(path) and not _installed(os.path.realpath(path)):
            raise UsageError(
                f"{name} ({path}) is neither installed nor in the project {self.root}, so a node can't import it",
                hint=f"give the project that it is in: CumulusClient(project={str(_above(name, path))!r})",
            )


def _program_directory() -> Path:
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(path).resolve().parent if path and not _installed(os.path.realpath(path)) else Path.cwd()


def _above(name: str | None, path: str) -> Path:
    """The directory from which the module is imported: that above its top package."""
    place = Path(path)
    place = place.parent if place.stem == "__init__" else place
    for _ in (name or "").split("."):
        place = place.parent
    return place


def _places(module: object) -> list[str]:
    """Where a module is: its file, or the directories of one that has none. Modules may be anything at all."""
    try:
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            return [file]
        if isinstance(module, types.ModuleType) and getattr(module, "__path__", None):
            return [place for place in module.__path__ if isinstance(place, str)]
    except Exception:
        # A lazy module that fails to load what it stands for.
        pass
    return []


def _top_places(name: str) -> list[str]:
    """The file of a top module, or the directories of a package."""
    module = sys.modules.get(name)
    if module is not None:
        path = getattr(module, "__path__", None)
        return [str(place) for place in path] if path else _places(module)
    try:
        spec = importlib.machinery.PathFinder.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return list(spec.submodule_search_locations)
    return [spec.origin] if spec.origin and spec.has_location else []


def _suffix(path: str) -> str:
    """.py, or all of .cpython-311-x86_64-linux-gnu.so"""
    return "".join(Path(path).suffixes)


@cache
def _imports_in(path: str, changed: int) -> tuple[str, ...]:
    """Top names that its text imports. `changed`: when, so that a file that changes is read again."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return ()
    found: set[str] = set()
    for one, several in _IMPORT.findall(text):
        for name in (one or several).decode().split(","):
            top = name.split()[0].partition(".")[0] if name.strip() else ""
            if top:
                found.add(top)
    return tuple(sorted(found))


def _imports_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Top names that its code imports, and its own."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    own = (getattr(function, "__module__", None) or "").partition(".")[0]
    return (*(_in_code(code) if isinstance(code, types.CodeType) else ()), own)


def _in_code(code: types.CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME" and isinstance(step.argval, str):
            yield step.argval.partition(".")[0]
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _in_code(inner)


@lru_cache(maxsize=65536)
def _is_local(path: str, root: str) -> bool:
    """Asked of all modules with each call."""
    real = os.path.realpath(path)
    return _below(real, root) and not _installed(real)


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def _installed(path: str) -> bool:
    return any(_below(path, place) for place in _installation()) or bool(
        {"site-packages", "dist-packages"} & set(Path(path).parts)
    )


@cache
def _installation() -> tuple[str, ...]:
    """Where Python and what is installed with it are."""
    paths = sysconfig.get_paths()
    places = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {*_site_packages()}
    return tuple(os.path.realpath(place) for place in places if place)


def _site_packages() -> Iterable[str]:
    try:
        return [*site.getsitepackages(), site.getusersitepackages()]
    except AttributeError:
        # The site of an old virtualenv.
        return []
