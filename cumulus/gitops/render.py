"""Manifests as kustomize or helm make them: run as the Source's user, without a network, with limits on time and size.

What a repository says decides what they do, so they get a copy of the files in a directory of its own, a network with
nothing in it, and no variable of the daemon's.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.programs import Limits, OverLimit, run
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import truncate
from cumulus.lib.unix_user import LOGIN_PATH, UnixUser
from cumulus.manifest import InvalidManifest, Position, Problem
from cumulus.resources.reasons import SourceReason

LIMITS = Limits(seconds=30.0, output=16 * 2**20, file=64 * 2**20)
_CANNOT_RUN = (126, 127)
_LOGGED = re.compile(r'^[EFIW]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] (?:"command failed" err=)?', re.MULTILINE)
"""What kubectl writes before what is wrong: the time and its process differ each time."""


class _Tool(NamedTuple):
    """`programs`: those that do it, with their first words; `file`: what a folder needs that is rendered."""

    programs: tuple[tuple[str, ...], ...]
    file: str
    suffixes: tuple[str, ...] = ()
    """Of files that it reads beside manifests; hidden ones by their whole name."""
    alone: bool = False
    """Whether it reads the folder that is rendered and nothing beside it."""


_TOOLS = {
    "kustomize": _Tool((("kustomize", "build"), ("kubectl", "kustomize")), "kustomization.yaml"),
    # A chart's templates read what they like of it: packed dependencies, and any text.
    "helm": _Tool((("helm", "template"),), "Chart.yaml", ("", ".helmignore"), alone=True),
}


def suffixes(how: str | None) -> tuple[str, ...]:
    """How the names of files end that rendering needs beside manifests; hidden ones by their whole name."""
    return _TOOLS[how].suffixes if how else ()


def folder(how: str | None, path: str) -> str:
    """The folder that rendering the one at `path` reads; "" for all there is."""
    return path if how and _TOOLS[how].alone else ""


def rendered(
    how: str,
    files: Mapping[str, bytes],
    path: str,
    user: UnixUser | None,
    *,
    name: str = "release",
    namespace: str = "default",
    search: str = LOGIN_PATH,
    limits: Limits = LIMITS,
) -> dict[str, bytes]:
    """What the program makes of the folder `path` of the files, as one file. `name`, `namespace`: of a release of helm.
    Raises InvalidManifest with what it says is wrong, SourceUnreadable where it cannot be run here."""
    tool = _TOOLS[how]
    program = _program(tool, search)
    told = os.path.join(path, tool.file)
    with tempfile.TemporaryDirectory(prefix="cumulus-render-", ignore_cleanup_errors=True) as directory:
        _write(Path(directory), files, user)
        folder = os.path.join(directory, path)
        if not os.path.isdir(folder):
            raise InvalidManifest([Problem(Position(path or "."), "", "there is no such directory in the revision")])
        words = [name, folder, "--namespace", namespace, "--no-hooks"] if how == "helm" else [folder]
        try:
            done = run([*_alone(user), *program, *words], user=None, environment=_environment(search), limits=limits)
        except OverLimit as error:
            raise InvalidManifest([Problem(Position(told), "", str(error))]) from None
        except OSError as error:
            raise _unusable(f"{error.filename} cannot be started: {error.strerror}") from None
        if done.code in _CANNOT_RUN or done.said.startswith(("unshare:", "setpriv:")):
            raise _unusable(truncate(one_line(done.said)))
        if done.code:
            said = one_line(_LOGGED.sub("", done.said.replace(directory, "."))) or f"{how} ended with code {done.code}"
            raise InvalidManifest([Problem(Position(told), "", truncate(said))])
    return {f"{told} (rendered)": done.output}


def _environment(search: str) -> dict[str, str]:
    """No settings, plugins or caches: those in the repository would be its own."""
    nowhere = "/nonexistent"
    places = ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME",
              "HELM_CACHE_HOME", "HELM_PLUGINS", "KUSTOMIZE_PLUGIN_HOME", "KUBECONFIG")  # fmt: skip
    return {"PATH": search, **dict.fromkeys(places, nowhere)}


def _write(place: Path, files: Mapping[str, bytes], user: UnixUser | None) -> None:
    for name, data in files.items():
        if any(part in ("", ".", "..") for part in name.split("/")):
            # This writes with the daemon's rights what a user's clone says.
            raise InvalidManifest([Problem(Position(name), "", "is no path of a file")])
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    if user is not None and user.uid != os.geteuid():
        for found in (place, *place.rglob("*")):
            os.chown(found, user.uid, user.gid, follow_symlinks=False)


def _alone(user: UnixUser | None) -> Sequence[str]:
    """What runs a program as the user with no network, and lets it gain nothing."""
    if os.geteuid() != 0:
        return ("unshare", "--map-root-user", "--net", "--")
    uid, gid = (0, 0) if user is None else (user.uid, user.gid)
    own = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
    return ("unshare", "--net", "--", "setpriv", *own, "--")


def _program(tool: _Tool, search: str) -> Sequence[str]:
    for program in tool.programs:
        if shutil.which(program[0], path=search):
            return program
    names = [program[0] for program in tool.programs]
    lacks = f"neither {' nor '.join(names)} is" if len(names) > 1 else f"{names[0]} is not"
    raise _unusable(f"{lacks} on the daemon's machine")


def _unusable(why: str) -> SourceUnreadable:
    return SourceUnreadable(SourceReason.RENDER_FAILED, f"the manifests cannot be rendered: {why}")
