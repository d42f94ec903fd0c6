"""Builds the wheel of cumulus-chronos from the package that runs, with setuptools: what a worker needs, nothing else.

    python -m cumulus.nodes.distribution DIRECTORY

As a program it also packs there what the uploader needs for s3:// (`packages`), where that is installed here.

It needs no network, works with an editable installation too, and imports nothing of the control plane. The same source
gives the same bytes, so that a worker can tell whether it has them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cumulus.errors import CumulusError
from cumulus.nodes import packages

PACKAGES = "packages.zip"
_PACKAGE = Path(__file__).resolve().parents[1]
_PROJECT = _PACKAGE / "nodes" / "worker" / "pyproject.toml"
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
_NO_TIME = "315532800"
"""1980: the earliest that a zip file can say."""


def build(directory: Path) -> Path:
    """Write the wheel into `directory`. Returns its path. Raises `CumulusError`, OSError."""
    with tempfile.TemporaryDirectory() as temporary:
        # setuptools writes beside pyproject.toml, where an installed package may be read-only.
        project = Path(temporary)
        shutil.copyfile(_PROJECT, project / "pyproject.toml")
        (project / "cumulus").symlink_to(_PACKAGE)
        (project / "wheel").mkdir()
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, "wheel"],
            cwd=project, env={**os.environ, "SOURCE_DATE_EPOCH": _NO_TIME}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        built = next((project / "wheel").glob("*.whl"), None)
        if done.returncode != 0 or built is None:
            said = done.stderr.strip().splitlines()
            raise CumulusError(
                f"the wheel of cumulus-chronos cannot be built: {said[-1] if said else 'setuptools says nothing'}",
                hint=f"{sys.executable} needs setuptools 77 or newer: pip install 'setuptools>=77'",
            )
        return Path(shutil.copyfile(built, directory / built.name))


if __name__ == "__main__":
    try:
        packages.pack(Path(sys.argv[1]) / PACKAGES)
        print(build(Path(sys.argv[1])))
    except CumulusError as error:
        sys.exit(f"{error} ({error.hint})")
