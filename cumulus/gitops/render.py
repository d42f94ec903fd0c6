"""Manifests as kustomize makes them: run as the Source's user, without a network, with limits on time and size.

What a repository says decides what kustomize does, so it gets a copy of the manifests in a directory of its own, a
network with nothing in it, and no variable of the daemon's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.programs import Limits, OverLimit, run
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import truncate
from cumulus.lib.unix_user import LOGIN_PATH, UnixUser
from cumulus.manifest import InvalidManifest, Position, Problem
from cumulus.resources.reasons import SourceReason

LIMITS = Limits(seconds=30.0, output=16 * 2**20, file=64 * 2**20)
_PROGRAMS = (("kustomize", "build"), ("kubectl", "kustomize"))
_CANNOT_RUN = (126, 127)


def kustomize(
    files: Mapping[str, bytes],
    path: str,
    user: UnixUser | None,
    *,
    search: str = LOGIN_PATH,
    limits: Limits = LIMITS,
) -> dict[str, bytes]:
    """What `kustomize build` makes of the folder `path` of the files, as one file. Raises InvalidManifest with what it
    says is wrong, SourceUnreadable where it cannot be run here."""
    program = _program(search)
    name = os.path.join(path, "kustomization.yaml")
    with tempfile.TemporaryDirectory(prefix="cumulus-render-", ignore_cleanup_errors=True) as directory:
        _write(Path(directory), files, user)
        if not os.path.isdir(os.path.join(directory, path)):
            raise InvalidManifest([Problem(Position(path or "."), "", "there is no such directory in the revision")])
        command = [*_alone(user), *program, os.path.join(directory, path)]
        try:
            done = run(command, user=None, environment={"HOME": directory, "PATH": search}, limits=limits)
        except OverLimit as error:
            raise InvalidManifest([Problem(Position(name), "", str(error))]) from None
        except OSError as error:
            raise _unusable(f"{error.filename} cannot be started: {error.strerror}") from None
        if done.code in _CANNOT_RUN or done.said.startswith(("unshare:", "setpriv:")):
            raise _unusable(truncate(one_line(done.said)))
        if done.code:
            said = one_line(done.said.replace(directory, ".")) or f"kustomize ended with code {done.code}"
            raise InvalidManifest([Problem(Position(name), "", truncate(said))])
    return {f"{name} (rendered)": done.output}


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


def _program(search: str) -> Sequence[str]:
    for program in _PROGRAMS:
        if shutil.which(program[0], path=search):
            return program
    raise _unusable("neither kustomize nor kubectl is on the daemon's machine")


def _unusable(why: str) -> SourceUnreadable:
    return SourceUnreadable(SourceReason.RENDER_FAILED, f"the manifests cannot be rendered: {why}")
