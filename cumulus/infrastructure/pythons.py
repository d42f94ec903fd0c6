"""Which Pythons the processes of this machine can run, so that a call of another one is refused before it is queued."""

from __future__ import annotations

import os
import re
import shutil
from functools import lru_cache

from cumulus.backends.process.environment import PATH
from cumulus.environments import interpreters
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document

_VERSIONED = re.compile(r"python(3\.\d+)")
_PLAIN = ("python3", "python")


def missing_python(job: Document, path: str) -> str:
    """Why no process here can run the job's call; "" where one can, or where that shows only when it starts. `path`:
    the PATH that the daemon's settings give to jobs, "" for that of a login."""
    call = lookup(job, "spec.call")
    if not isinstance(call, dict) or lookup(job, "spec.image"):
        return ""
    version, hint = call.get("python"), call.get("interpreter")
    if not isinstance(version, str):
        return ""
    own = next((each.get("value") for each in _variables(job) if each.get("name") == "PATH"), None)
    ours = _directories(f"{path}:{PATH}")
    theirs = [each for each in _directories(own if isinstance(own, str) else "") if each not in ours]
    if shutil.which(f"python{version}", path=os.pathsep.join([*theirs, *ours])):
        return ""
    # Nothing that the caller names is run here: this process may be root. What it is shows when it starts, as its user.
    named = [os.path.join(each, name) for each in theirs for name in _PLAIN]
    if isinstance(hint, str) and not _is_plain_in(hint, ours):
        named.append(hint)
    if any(os.access(each, os.X_OK) for each in named):
        return ""
    found = _versions(ours)
    if version in found:
        return ""
    has = f"it has {', '.join(sorted(found, key=_order))}" if found else "it has none"
    return f"no Python {version} is on this node, and the call was made with that; {has}"


def _directories(path: str) -> list[str]:
    return list(dict.fromkeys(filter(os.path.isabs, path.split(os.pathsep))))


def _is_plain_in(hint: str, directories: list[str]) -> bool:
    """Whether `_versions` of the directories knows it."""
    directory, name = os.path.split(hint)
    return directory in directories and (name in _PLAIN or _VERSIONED.fullmatch(name) is not None)


def _variables(job: Document) -> list[Document]:
    found = lookup(job, "spec.env")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _versions(directories: list[str]) -> set[str]:
    found = set()
    for directory in directories:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            if (versioned := _VERSIONED.fullmatch(name)) is not None:
                found.add(versioned[1])
            elif name in _PLAIN and (said := _asked(os.path.join(directory, name))):
                found.add(said)
    return found


def _asked(path: str) -> str:
    try:
        return _said(path, os.stat(path).st_mtime_ns)
    except OSError:
        return ""


@lru_cache(maxsize=64)
def _said(path: str, changed: int) -> str:
    found = interpreters.ask(path)
    return found.python if found is not None else ""


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
