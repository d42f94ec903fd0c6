"""The supervisor's part in a call: its Python, its directory as its user's, and what it left. Standard library only.

The daemon made the directory in the run's own. That is where the call runs, but for one of another user: the files are
copied to a directory of that user's as that user, and so is what the call left, back to the run's. What only some
calls need is loaded where it is used: each running call pays for it with memory, and waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from cumulus.backends.process import layout
from cumulus.backends.process.launch import StartFailed
from cumulus.calls import documents
from cumulus.calls.envelope import ARCHIVE, ARGUMENT, CALL, ENVIRONMENT, LARGEST, OUTCOME, PAYLOAD, RESULT
from cumulus.errors import CumulusError
from cumulus.lib.unix_user import UnixUser, call

_MADE = (CALL, PAYLOAD, ARCHIVE)
_LEFT = {RESULT: LARGEST, OUTCOME: documents.LARGEST}
"""In this order: who sees the outcome sees the result. And the largest size of each, in bytes: a sparse file of a
terabyte costs its user nothing, and its copy would fill the daemon's disk."""
_PATIENCE = 20.0
_ASK = "import sys; print('%d.%d' % sys.version_info[:2])"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def prepare(spec: dict[str, Any], say: Callable[[str], None], check: Callable[[], None]) -> list[str]:
    """The command that runs the call. Builds its environment where it asks for one, which can take minutes: `say` gets
    lines about that for its log, and what `check` raises ends it. Raises StartFailed and OSError."""
    wanted, user = spec["call"], UnixUser.read(spec.get("user"))
    python = _environment(spec, user, say, check) if wanted["environment"] else ""
    with contextlib.ExitStack() as opened:
        files = {} if user is None else _open_made(opened)
        prepared = partial(_prepared, spec, python, files)
        answer = prepared() if user is None else _as(user, prepared)
    kind, _, text = answer.partition(" ")
    if kind.isdigit():
        raise OSError(int(kind), text)
    if kind == "failed":
        raise StartFailed(text)
    return [text, wanted["runner"], wanted["directory"]]


def collect(spec: dict[str, Any]) -> None:
    """Bring what the call left to the run's directory, and delete what it was made of. Raises OSError."""
    user, directory = UnixUser.read(spec.get("user")), spec["call"]["directory"]
    if user is not None:
        with contextlib.ExitStack() as opened:
            files = {}
            for name in _LEFT:
                path = os.path.join(layout.CALL, name)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                files[name] = opened.enter_context(_new(path))
            taken = _as(user, partial(_take, directory, files)).split()
        for name in _LEFT:
            if name not in taken:
                os.unlink(os.path.join(layout.CALL, name))
    _delete(layout.CALL)


def _as(user: UnixUser, action: Callable[[], str]) -> str:
    for name in ("shutil", "subprocess"):
        # Once it is the user's, a process may not be able to read the library.
        importlib.import_module(name)
    return call(user, action)


def _environment(
    spec: dict[str, Any], user: UnixUser | None, say: Callable[[str], None], check: Callable[[], None]
) -> str:
    from cumulus.environments.document import EnvironmentDocument
    from cumulus.environments.ensure import ensure

    wanted = spec["call"]
    try:
        with open(os.path.join(layout.CALL, ENVIRONMENT), "rb") as file:
            document = EnvironmentDocument.parse(file.read())
        return ensure(document, wanted["environments"], user, say=say, check=check, hint=wanted["interpreter"])
    except CumulusError as error:
        raise StartFailed(f"its environment: {error}{f'; {error.hint}' if error.hint else ''}") from None


def _open_made(opened: contextlib.ExitStack) -> dict[str, int]:
    """What the daemon made, opened while this is still the daemon's user."""
    files = {}
    arguments = [name for name in os.listdir(layout.CALL) if name.startswith(ARGUMENT)]
    for name in (*_MADE, *arguments):
        with contextlib.suppress(FileNotFoundError):
            files[name] = os.open(os.path.join(layout.CALL, name), _READ)
            opened.callback(os.close, files[name])
    return files


def _prepared(spec: dict[str, Any], python: str, files: dict[str, int]) -> str:
    """As the call's user: the path of the Python, or why there is none."""
    wanted = spec["call"]
    try:
        if files:
            # A supervisor that died may have begun it.
            _delete_tree(wanted["directory"])
            os.makedirs(wanted["directory"], mode=0o700)
        for name, source in files.items():
            os.lseek(source, 0, os.SEEK_SET)
            with _new(os.path.join(wanted["directory"], name)) as target:
                _copy(source, target, os.fstat(source).st_size)
    except OSError as error:
        return f"{error.errno or errno.EIO} {error.strerror}"
    path = spec["env"].get("PATH", os.defpath)
    if not python and _is_environment_of(wanted["interpreter"], wanted["python"]):
        return f"ok {wanted['interpreter']}"
    for candidate in [python] if python else _candidates(wanted["python"], wanted["interpreter"], path):
        if _version(candidate) == wanted["python"]:
            return f"ok {candidate}"
    if python:
        return f"failed its environment was built with another Python than {wanted['python']}"
    return (
        f"failed there is no Python {wanted['python']} on this node, which made the call; install "
        f"python{wanted['python']} there (in {path}), or call with a Python that the node has"
    )


def _is_environment_of(python: str, version: str) -> bool:
    """Whether it is the Python of a virtual environment that says it has that version. To ask the program itself takes
    as long as to start it."""
    try:
        with open(os.path.join(os.path.dirname(os.path.dirname(python)), "pyvenv.cfg"), encoding="utf-8") as file:
            said = dict(line.replace(" ", "").strip().split("=", 1) for line in file if "=" in line)
    except (OSError, ValueError):
        return False
    number = said.get("version") or said.get("version_info", "")
    return number.startswith(f"{version}.") and os.access(python, os.X_OK)


def _candidates(version: str, hint: str, path: str) -> Iterator[str]:
    import shutil

    if hint:
        yield hint
    for name in (f"python{version}", "python3", "python"):
        found = shutil.which(name, path=path)
        if found:
            yield found


def _version(python: str) -> str:
    """major.minor of what the program says it is; "" where it is no Python that starts."""
    import subprocess

    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _ASK], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=_PATIENCE, cwd="/", check=True,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("ascii", "replace").strip()


def _take(directory: str, files: dict[str, int]) -> str:
    """As the call's user: copy what it left, and delete its directory. The names of what was there."""
    taken = []
    for name, target in files.items():
        with contextlib.suppress(OSError):
            source = os.open(os.path.join(directory, name), _READ)
            try:
                info = os.fstat(source)
                if stat.S_ISREG(info.st_mode) and info.st_size <= _LEFT[name]:
                    _copy(source, target, info.st_size)
                    taken.append(name)
            finally:
                os.close(source)
    _delete_tree(directory)
    return " ".join(taken)


def _delete(directory: str) -> None:
    """All but what the call left."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name in _LEFT:
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            _delete_tree(path)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _delete_tree(directory: str) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _new(path: str) -> Iterator[int]:
    descriptor = os.open(path, _NEW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy(source: int, target: int, size: int) -> None:
    """`size` bytes, and no more where another process writes on meanwhile."""
    while size and (sent := os.sendfile(target, source, None, min(size, 2**30))):
        size -= sent
