"""Finds a Python of one version on this node. Standard library only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from cumulus.errors import EnvironmentFailed

_ASK = (
    "import json, os, sys, sysconfig; base = getattr(sys, '_base_executable', None) or sys.executable; "
    "print(json.dumps(['%d.%d' % sys.version_info[:2], os.path.realpath(base), "
    "sysconfig.get_config_var('SOABI') or sys.implementation.cache_tag, sysconfig.get_platform()]))"
)
_PATIENCE = 20.0
_ELSEWHERE = ("/usr/bin", "/usr/local/bin")


class Interpreter(NamedTuple):
    """A Python that is no virtual environment's own."""

    python: str
    executable: str
    abi: str
    platform: str

    @property
    def identity(self) -> str:
        """What an environment depends on."""
        return "\n".join(self)


def find(python: str, path: str, hint: str = "") -> Interpreter:
    """A Python of the version `python` (major.minor): `hint` where it is one, this process' own, or one in the
    directories of `path`. Raises `EnvironmentFailed`."""
    for candidate in _candidates(python, path, hint):
        found = ask(candidate)
        if found is not None and found.python == python:
            return found
    raise EnvironmentFailed(
        f"there is no Python {python} on this node",
        hint=f"install python{python} there, or call with the Python that the node has",
    )


def ask(executable: str) -> Interpreter | None:
    """What the program says it is; None where it is no Python that starts."""
    try:
        done = subprocess.run(
            [executable, "-I", "-c", _ASK], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=_PATIENCE, cwd="/", check=True,
        )  # fmt: skip
        version, base, abi, platform = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return Interpreter(str(version), str(base), str(abi), str(platform))


def _candidates(python: str, path: str, hint: str) -> Iterator[str]:
    if hint and os.path.isabs(hint):
        yield hint
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == python:
        yield sys.executable
    directories = [*filter(os.path.isabs, path.split(os.pathsep)), *_ELSEWHERE]
    for directory in dict.fromkeys(directories):
        found = shutil.which(f"python{python}", path=directory)
        if found:
            yield found
