"""The command as users have it: from a wheel, compiled, in a virtual environment of its own.

A checkout's editable installation starts by a finder that imports half of what a command server saves, and a session
that sets PYTHONDONTWRITEBYTECODE compiles each module again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def install(directory: Path) -> tuple[str, str]:
    """Install this version there; the interpreter, and the command. Its libraries are those of this interpreter."""
    venv.create(directory, with_pip=False)
    python = directory / "bin" / "python"
    theirs = directory / "libraries"
    theirs.mkdir()
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        # Without its .pth files, which are an editable installation's.
        if each.suffix != ".pth" and not each.name.startswith(("__editable__", "cumulus")):
            (theirs / each.name).symlink_to(each)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = directory / "lib" / version / "site-packages"
    (packages / "libraries.pth").write_text(f"{theirs}\n")
    # A build leaves its folder behind, and the next one would pack what is in there.
    source = directory / "source"
    shutil.copytree(_ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".*", "build", "tests"))
    subprocess.run(
        [
            sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--no-build-isolation", "--no-index", str(source),
        ],
        check=True,
    )  # fmt: skip
    command = str(directory / "bin" / "cumulus")
    # As the scripts do that install it.
    light = ["bash", "-c", '. scripts/_python.sh && light_start "$1"', "bash", command]
    subprocess.run(light, cwd=_ROOT, check=True)
    return str(python), command
