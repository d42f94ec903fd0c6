"""The commands that the installation made."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def installed(name: str) -> str:
    """The path of that command: beside this interpreter, or where PATH has it (`pip install --target`, a system's
    own folder for scripts)."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise FileNotFoundError(f"{name} is not in {beside} and not on PATH: install Cumulus (scripts/test.sh does)")
    return found


CUMULUS = installed("cumulus")
CHRONOS_CLI = installed("chronos_cli")
