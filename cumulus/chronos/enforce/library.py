"""Finds the built libraries that hold jobs to their leases: the OpenCL layer and the CUDA counter."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from cumulus.errors import LedgerUnavailable
from cumulus.lib.files import replacing

PLACES = (Path(__file__).parent / "lib", Path("/usr/local/lib/cumulus"), Path("/usr/lib/cumulus"))
"""Where a library is looked for that no variable names: in the package first."""


@dataclass(frozen=True, slots=True)
class Library:
    what: str
    file: str
    symbol: str
    """A function that only this library has."""
    variable: str
    """The variable that names a built library."""
    separators: str = ":"
    """Characters that separate the paths in the variable for programs. None can be quoted, so no path may have them."""

    @property
    def remedy(self) -> str:
        return (
            f"Build the {self.what}: apt install cmake gcc opencl-headers, then scripts/build-enforcement.sh; "
            f"or set {self.variable} to a built {self.file}."
        )

    def find(self, named: Path | None) -> tuple[Path | None, str]:
        """The library, or None and why. One that this machine can't load (an older libc, say) is not taken."""
        for path in [named] if named is not None else [place / self.file for place in PLACES]:
            if path.is_file():
                problem = self._problem(path)
                return (None, problem) if problem else (path.absolute(), "")
        return None, f"{named} is not there" if named else f"the {self.what} is not built"

    def shown(self, library: Path, place: Path, user: int | None) -> Path:
        """Where a job of that user finds the library: a copy in `place`, where not everybody reaches it. Raises
        `LedgerUnavailable`."""
        if user is None or _reached_by_all(library):
            return library
        copy = place / self.file
        try:
            if not copy.exists():
                with replacing(str(copy), durable=False) as file:
                    os.fchmod(file.fileno(), 0o755)
                    file.write(library.read_bytes())
        except OSError as error:
            raise LedgerUnavailable(f"{copy}: {error.strerror}") from error
        return copy

    def _problem(self, path: Path) -> str:
        if found := set(self.separators).intersection(str(path.absolute())):
            return f"{path.absolute()} cannot be named to programs: its path has a {min(found)!r}"
        try:
            library = ctypes.CDLL(str(path.absolute()))
        except OSError as error:
            return f"the {self.what} can't be loaded: {error}"
        return "" if hasattr(library, self.symbol) else f"{path} is not the {self.what}"


def _reached_by_all(path: Path) -> bool:
    found = path.resolve()
    return bool(found.stat().st_mode & 0o004) and all(place.stat().st_mode & 0o001 for place in found.parents)
