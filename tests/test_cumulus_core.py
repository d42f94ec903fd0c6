"""cumulus_core: the C part of Chronos, built by the commands of the first description."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[1]
HEADERS = any(Path(place, "CL/cl_layer.h").is_file() for place in ("/usr/include", "/usr/local/include"))
BUILDS = all(map(shutil.which, ("cmake", "ctest", "make", "cc"))) and HEADERS


@pytest.mark.skipif(not BUILDS, reason="it needs cmake, make, a C compiler and OpenCL's headers (opencl-headers)")
def test_the_layer_is_built_tested_and_installed_as_the_page_says(tmp_path: Path) -> None:
    # The sources stay as they are: the page's build directory is in the tree.
    for name in ("cumulus_core", "cumulus/chronos/enforce"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("build", "lib", "__pycache__"))
    script = """
    cd cumulus_core
    mkdir build && cd build
    cmake .. -DCMAKE_BUILD_TYPE=Release
    cmake --build . -j4
    ctest --output-on-failure
    make install
    """
    done = subprocess.run(
        ["sh", "-euc", script], cwd=tmp_path, env={**os.environ, "DESTDIR": str(tmp_path / "installed")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100% tests passed, 0 tests failed out of 3" in done.stdout
    for name in ("opencl_layer", "cuda_counter"):
        assert (tmp_path / f"installed/usr/local/lib/cumulus/libchronos_{name}.so").is_file()


def test_the_quick_installation_says_what_it_will_do(tmp_path: Path) -> None:
    command = [ROOT / "cumulus_core/install-quick.sh", "--prefix", tmp_path / "chronos", "--dry-run"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "chronos") in done.stdout
    assert os.listdir(tmp_path) == []
