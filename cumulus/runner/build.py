"""Makes the runner's file. Used by what starts calls; the runner itself has no need of it."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import marshal
import os
import secrets
import sys
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path

from cumulus import __version__
from cumulus.errors import BackendError

_PACKAGE = Path(__file__).resolve().parents[1]
_ROOMS = ("runner", "calls", "checkpoint")
_OF_LIB = ("printable.py", "unix_socket.py")
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every member."""

_ENTRY = "__main__.py"
_MAIN = """\
import sys

from cumulus.runner.main import main

if __name__ == "__main__":
    main(sys.argv[1:])
"""
_PARTIAL = """\
import pkgutil

# What an image has installed of Cumulus beside this can be imported too.
__path__ = pkgutil.extend_path(__path__, __name__)
"""
_INIT = f"""\
import sys

{_PARTIAL}
# An editable installation has a finder instead of a place on sys.path.
for found in [each.find_spec(__name__, None) for each in sys.meta_path if hasattr(each, "find_spec")]:
    __path__ += [place for place in found and found.submodule_search_locations or () if place not in __path__]
__version__ = {__version__!r}
"""


def ensure_runner(directory: str) -> str:
    """The path of the runner's file in `directory`, which is made there where it is missing. Its name tells its
    content, so that a newer version does not change what a running call reads. Raises OSError and BackendError."""
    path = os.path.join(directory, f"runner-{digest()}.pyz")
    if not os.path.exists(path):
        content = archive()
        # Calls start in several threads at once.
        temporary = f"{path}.{secrets.token_hex(8)}"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444), "wb") as file:
            os.fchmod(file.fileno(), 0o444)
            file.write(content)
        os.rename(temporary, path)
    return path


@lru_cache(maxsize=1)
def archive() -> bytes:
    """The runner's file as bytes. It has its modules compiled for this process' Python too: that is the caller's as a
    rule, and reading source takes twice the time that Python takes to start. Others read the source."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in sorted(_members()):
            file.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)
            if name != _ENTRY:
                file.writestr(zipfile.ZipInfo(f"{name}c", _TIME), _compiled(name, content), zipfile.ZIP_DEFLATED)
    return made.getvalue()


@lru_cache(maxsize=1)
def digest() -> str:
    """Tells the content of `archive`. Compiled code may differ from time to time, and means the same."""
    sha256 = hashlib.sha256(str(sys.implementation.cache_tag).encode())
    for name, content in sorted(_members()):
        sha256.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return sha256.hexdigest()[:16]


def _compiled(name: str, source: bytes) -> bytes:
    """As a .pyc that is not checked against its source."""
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    unchecked = (0b01).to_bytes(4, "little")
    return MAGIC_NUMBER + unchecked + source_hash(source) + marshal.dumps(code)


def _members() -> Iterator[tuple[str, bytes]]:
    yield _ENTRY, _MAIN.encode()
    yield "cumulus/__init__.py", _INIT.encode()
    yield "cumulus/lib/__init__.py", _PARTIAL.encode()
    for name in _OF_LIB:
        yield f"cumulus/lib/{name}", (_PACKAGE / "lib" / name).read_bytes()
    for room in _ROOMS:
        for path in sorted((_PACKAGE / room).rglob("*.py")):
            if path != Path(__file__).resolve():
                yield f"cumulus/{path.relative_to(_PACKAGE)}", path.read_bytes()
    found = importlib.util.find_spec("cloudpickle")
    if found is None or not found.submodule_search_locations:
        raise BackendError("cloudpickle is not installed, so no call can run", hint="install Cumulus again")
    place = Path(next(iter(found.submodule_search_locations)))
    for path in sorted(place.glob("*.py")):
        yield f"cloudpickle/{path.name}", path.read_bytes()
