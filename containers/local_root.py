"""Gathers a root file system for a job image from this machine: Python, OpenCL and the Chronos runtime.

python containers/local_root.py DIRECTORY
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PACKAGES = (
    "numpy",
    "pyopencl",
    "pytools",
    "platformdirs",
    "siphash24",
    "typing_extensions",
    "pocl_binary_distribution",
)
"""Distributions of the interpreter that are taken along, where they are there."""

COMPANIONS = ("libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1", "libstdc++.so.6")
"""Of the C library: a GPU's driver, which comes with the container's devices, needs them too."""

HERE = Path(__file__).resolve().parent
_SKIPPED = shutil.ignore_patterns(
    "test", "tests", "idlelib", "ensurepip", "turtledemo", "tkinter", "__pycache__", "config-*", "site-packages", "*.a"
)


def main(directory: str) -> None:
    root = Path(directory)
    for name in (
        "bin",
        "usr/bin",
        "usr/local/bin",
        "etc",
        "tmp",
        "proc",
        "sys",
        "dev",
        "run",
        "opt/lib",
        "work",
        "state",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "work", "state"):
        (root / name).chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\njob:x:1000:1000:job:/work:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\njob:x:1000:\n")
    # Where the node's runtime gives the container NVIDIA's driver, the OpenCL loader finds it by this.
    (root / "etc/OpenCL/vendors").mkdir(parents=True)
    (root / "etc/OpenCL/vendors/nvidia.icd").write_text("libnvidia-opencl.so.1\n")
    copy_python(root)
    copy_packages(root)
    copy_tools(root)
    copy_libraries(root)


def copy_python(root: Path) -> None:
    home = root / "opt/python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, home / "lib" / version, ignore=_SKIPPED, symlinks=True)
    (home / "bin").mkdir()
    shutil.copy2(os.path.realpath(sys.executable), home / "bin" / version)
    for name in ("python3", "python"):
        (home / "bin" / name).symlink_to(version)
    # What asks for /usr/bin/env python3 finds it.
    (root / "usr/bin/python3").symlink_to(f"/opt/python/bin/{version}")


def copy_packages(root: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = root / "opt/python/lib" / version / "site-packages"
    site.mkdir(parents=True)
    # Debian's Python looks there alone.
    (site.parent / "dist-packages").symlink_to(site.name)
    for name in PACKAGES:
        try:
            files = importlib.metadata.distribution(name).files or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            source, target = Path(str(file.locate())), site / str(file)
            if ".." in file.parts or "__pycache__" in file.parts or "tests" in file.parts or not source.is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    shutil.copytree(HERE.parent / "cumulus", site / "cumulus", ignore=_SKIPPED)


def copy_tools(root: Path) -> None:
    shutil.copy2(HERE / "runner.py", root / "usr/local/bin/cumulus-run")
    (root / "usr/local/bin/cumulus-run").chmod(0o755)
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    if busybox is not None:
        shutil.copy2(busybox, root / "bin/busybox")
        names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for name in names:
            if name != "busybox" and not (root / "bin" / name).exists():
                (root / "bin" / name).symlink_to("busybox")
    env = root / "usr/bin/env"
    if not env.exists():
        env.symlink_to("/bin/busybox")
    for library in (HERE.parent / "cumulus/chronos/enforce/lib").glob("*.so"):
        (root / "usr/local/lib/cumulus").mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, root / "usr/local/lib/cumulus")


def copy_libraries(root: Path) -> None:
    """What the programs and extension modules are linked with, and the loader at its own place."""
    programs = [
        p for p in root.rglob("*") if p.is_file() and not p.is_symlink() and (p.suffix == ".so" or ".so." in p.name)
    ]
    programs.append(root / "opt/python/bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    programs += [p for p in root.glob("bin/*") if p.is_file() and not p.is_symlink()]
    wanted: set[str] = set()
    for start in range(0, len(programs), 50):
        batch = [str(p) for p in programs[start : start + 50]]
        said = subprocess.run(["ldd", *batch], capture_output=True, text=True, check=False).stdout
        wanted.update(re.findall(r"=> (/\S+) \(", said))
        wanted.update(re.findall(r"^\s+(/lib\S*/ld-\S+) \(", said, flags=re.MULTILINE))
    beside = {Path(path).parent for path in wanted if Path(path).name == "libc.so.6"}
    wanted.update(str(place / name) for place in beside for name in COMPANIONS if (place / name).exists())
    for path in sorted(wanted):
        if path.startswith(str(root)):
            continue
        name = Path(path).name
        target = root / path.lstrip("/") if name.startswith("ld-") else root / "opt/lib" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(os.path.realpath(path), target)


if __name__ == "__main__":
    main(sys.argv[1])
