"""Finds the built libraries that hold jobs to their leases: the OpenCL layer and the CUDA counter."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

PLACES = (Path(__file__).parent / "lib", Path("/usr/local/lib/cumulus"), Path("/usr/lib/cumulus"))
"""Where a library is looked for that no variable names: in the package first."""


@dataclass(frozen=True, slots=True)
class Library:
    what: str
    file: str
    symbol: str
    """A function that it has and others have not."""
    variable: str
    """Names a built one."""

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

    def _problem(self, path: Path) -> str:
        try:
            library = ctypes.CDLL(str(path.absolute()))
        except OSError as error:
            return f"the {self.what} can't be loaded: {error}"
        return "" if hasattr(library, self.symbol) else f"{path} is not the {self.what}"
