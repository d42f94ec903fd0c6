"""Finds or builds one environment, a process of its own: `python -I -S builder.py`, the request on standard input.

It becomes the user that the request names, so that whatever a build runs is that user's. Progress goes to standard
error, a line each; the answer, JSON, to standard output. Standard library only; run by path.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

if __name__ == "__main__":
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../..")]

from cumulus.environments import interpreters
from cumulus.environments.cache import DOWNLOADS, EnvironmentCache
from cumulus.environments.causes import cause_of, without_accounts
from cumulus.environments.document import EnvironmentDocument
from cumulus.errors import CumulusError, EnvironmentFailed
from cumulus.lib.delete_tree import delete_tree
from cumulus.lib.printable import one_line
from cumulus.lib.unix_user import UnixUser, become

_LINE, _LINES, _CHUNK, _PAUSE = 500, 2000, 1 << 16, 0.05
_QUIET = 30.0
"""Seconds without a word from the installer after which a line says that it is still at work."""


def build(
    document: EnvironmentDocument, cache: EnvironmentCache, *, hint: str, patience: float, say: Callable[[str], None]
) -> str:
    """The interpreter of the environment, built where it is not there yet. Raises `EnvironmentFailed`, OSError."""
    base = interpreters.find(document.python, os.environ.get("PATH", ""), hint)
    key = document.key(base.identity)
    found = cache.find(key)
    if found is not None:
        return found
    with cache.building(key, patience, say) as lock:
        found = cache.find(key)
        if found is not None:
            return found
        building = cache.begin(key)
        try:
            start = time.monotonic()
            tool = _fill(building, document, base.executable, cache, _Teller(say, patience, lock))
            facts = {"python": base.executable, "hashed": document.hashed, "tool": tool, "made": time.time()}
            python = cache.publish(building, key, facts)
        except BaseException:
            delete_tree(building)
            raise
    say(f"built in {time.monotonic() - start:.0f} s with {tool}")
    # Disks fill when something is built: that is when to make room.
    with contextlib.suppress(OSError):
        cache.collect()
    return python


class _Teller:
    """Runs one command of a build, and tells what it says."""

    def __init__(self, say: Callable[[str], None], patience: float, lock: int) -> None:
        self._say, self._lock = say, lock
        self._end = time.monotonic() + patience
        self._told = 0

    def run(self, command: Sequence[str], what: str) -> None:
        """Raises `EnvironmentFailed` with what the command says of its failure."""
        with tempfile.TemporaryFile() as output:
            # A child that inherits the lock holds it, should this process die: nobody deletes what it still writes.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, pass_fds=[self._lock],
                cwd=tempfile.gettempdir(),
            )  # fmt: skip
            try:
                said = self._follow(child, output.fileno(), what)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        if child.returncode != 0:
            cause = cause_of(said.decode("utf-8", "replace"), f"it ended with exit code {child.returncode}")
            raise EnvironmentFailed(f"{what}: {cause}")

    def _follow(self, child: subprocess.Popen[bytes], output: int, what: str) -> bytes:
        """Tell each line until the child has ended. Returns the end of what it said."""
        begun = heard = time.monotonic()
        position, rest, said = 0, b"", b""
        while True:
            ended = child.poll() is not None
            more = os.pread(output, _CHUNK, position)
            if more:
                position, heard, said = position + len(more), time.monotonic(), (said + more)[-_CHUNK:]
                *lines, rest = (rest + more)[-_CHUNK:].split(b"\n")
                for line in lines:
                    self._tell(line)
                continue
            if ended:
                return said
            now = time.monotonic()
            if now >= self._end:
                raise EnvironmentFailed(f"{what} took too long", hint="ask for fewer packages, or try again")
            if now - heard >= _QUIET:
                heard = now
                self._say(f"{what}: still at work after {now - begun:.0f} s")
            time.sleep(_PAUSE)

    def _tell(self, line: bytes) -> None:
        text = without_accounts(line.decode("utf-8", "replace").strip())
        if text and self._told < _LINES:
            self._told += 1
            self._say(text[:_LINE])


def _fill(building: str, document: EnvironmentDocument, python: str, cache: EnvironmentCache, teller: _Teller) -> str:
    """Make an environment in the directory. Returns the name of the program that did it.

    Nothing that was installed is run, so that a package is never this user: an environment's own Python would run its
    .pth files, and its own pip what another package put in its place.
    """
    inside = os.path.join(building, "bin", "python")
    strict = ["--require-hashes"] if document.hashed else []
    strict += ["--only-binary", ":all:"] if cache.shared else []
    uv = _uv()
    with tempfile.TemporaryDirectory() as temporary:
        listed = os.path.join(temporary, "requirements.txt")
        with open(listed, "w", encoding="utf-8") as file:
            file.write(document.to_install())
        wanted = ["install", *strict, "--requirement", listed]
        if uv:
            teller.run([uv, "venv", "--no-project", "--allow-existing", "--python", python, building], "uv venv")
            if document.requirements.strip():
                teller.run([uv, "pip", *wanted, "--python", inside], "uv pip install")
        else:
            teller.run([python, "-I", "-m", "venv", "--without-pip", building], "python -m venv")
            if document.requirements.strip():
                tool = python
                if not _has_pip(python):
                    teller.run([python, "-I", "-m", "venv", temporary], "python -m venv (on Debian: python3-venv)")
                    tool = os.path.join(temporary, "bin", "python")
                pip = [tool, "-I", "-m", "pip", "--python", inside]
                teller.run([*pip, *wanted, "--no-input", "--no-compile"], "pip install")
    # The base Python sees only text here. Packages carry templates and tests that are no valid source: no failure.
    with contextlib.suppress(EnvironmentFailed):
        teller.run([python, "-I", "-S", "-m", "compileall", "-qq", os.path.join(building, "lib")], "compileall")
    return "uv" if uv else "pip"


def _has_pip(python: str) -> bool:
    """Whether that Python has a pip that can install for another one: 22.3 or newer."""
    try:
        done = subprocess.run(
            [python, "-I", "-m", "pip", "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    found = re.match(rb"pip (\d+)\.(\d+)", done.stdout)
    return found is not None and (int(found[1]), int(found[2])) >= (22, 3)


def _uv() -> str | None:
    own = os.path.join(os.environ["HOME"], ".local", "bin")
    return shutil.which("uv", path=os.pathsep.join([os.environ.get("PATH", ""), own]))


def _variables(request: Mapping[str, Any], home: str) -> dict[str, str]:
    fixed = {
        "HOME": home, "LANG": "C.UTF-8", "NO_COLOR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_PROGRESS_BAR": "off", "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never",
    }  # fmt: skip
    return {**request["environment"], **fixed}


def _main() -> int:
    request = json.load(sys.stdin)
    user = UnixUser.read(request["user"])
    if user is not None:
        become(user)
    shared = bool(request["shared"])
    os.umask(0o022 if shared else 0o077)

    def say(text: str) -> None:
        sys.stderr.write(f"environment: {one_line(text)}\n")
        sys.stderr.flush()

    answer: dict[str, str | None]
    try:
        with contextlib.ExitStack() as stack:
            home = request["home"] or stack.enter_context(tempfile.TemporaryDirectory())
            os.environ.clear()
            os.environ.update(_variables(request, home))
            cache = EnvironmentCache(request["cache"], shared)
            if not request["home"]:
                os.environ["UV_CACHE_DIR"] = os.environ["PIP_CACHE_DIR"] = os.path.join(cache.root, DOWNLOADS)
                os.environ["UV_LINK_MODE"] = "copy"
            document = EnvironmentDocument.of(request["document"])
            python = build(document, cache, hint=request["hint"], patience=request["patience"], say=say)
            answer = {"python": python}
    except CumulusError as error:
        answer = {"error": str(error), "hint": error.hint}
    except OSError as error:
        answer = {"error": f"{error.strerror}: {error.filename}", "hint": None}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
