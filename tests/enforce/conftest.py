"""Builds the layer as a person would, finds PoCL's loader, and runs jobs inside leases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos.contract import Device, Lease, LeaseState, variables
from cumulus.chronos.enforce import cuda_counter, opencl_layer
from cumulus.chronos.enforce.account import used
from tests.once import made_once
from tests.waiting import PATIENCE

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MIB = 2**20

CPU = Device(0, "PoCL/cpu/0", "PoCL", "PoCL", "cpu", 2**32, platform_index=0, device_index=0)

NEEDED = (
    "the OpenCL layer and the CUDA counter are NOT tested here: they need cmake, a C compiler and OpenCL's headers "
    "(opencl-headers)"
)


def missing() -> bool:
    headers = any(Path(place, "CL/cl_layer.h").is_file() for place in ("/usr/include", "/usr/local/include"))
    return not (shutil.which("cmake") and shutil.which("cc") and headers)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the libraries, built by the script."""
    if missing():
        pytest.skip(NEEDED)

    def build(target: Path) -> None:
        script = ROOT / "scripts/build-enforcement.sh"
        done = subprocess.run([script, target], env={**os.environ, "CFLAGS": "-Werror"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "libraries", build)


@pytest.fixture(scope="session")
def layer(libraries: Path) -> Path:
    return libraries / opencl_layer.LIBRARY.file


@pytest.fixture(scope="session")
def counter(libraries: Path) -> Path:
    return libraries / cuda_counter.LIBRARY.file


def compile_c(source: str, target: Path, *options: str) -> Path:
    command = [
        "cc",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        *options,
        str(HERE / source),
        "-o",
        str(target),
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return target


@pytest.fixture(scope="session")
def opencl() -> dict[str, str]:
    """The environment in which a program finds the loader and the PoCL of pyopencl's wheels."""
    code = (
        "import pyopencl; pyopencl.get_platforms(); print(pyopencl.__path__[0]); print(open('/proc/self/maps').read())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OPENCL_LAYERS"}
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    package, *maps = output.stdout.splitlines()
    library = next(line.split()[-1] for line in maps if "libOpenCL" in line)
    paths = [str(Path(library).parent), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        "OPENCL_LIBRARY": library,
        # The wheel's loader finds its driver through these.
        "PYOPENCL_HOME": package,
        "LD_LIBRARY_PATH": ":".join(filter(None, paths)),
    }


class Job:
    """A running tests/enforce/job.py."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "job.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            stderr=subprocess.PIPE, env={**os.environ, **environment},
        )  # fmt: skip
        self.hello = self.answer()
        self.pid = self.hello["pid"]

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the job ended with {self.process.wait()}: {self.process.stderr.read()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __call__(self, verb: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": verb, **arguments}) + "\n")
        return self.answer()

    def stderr(self) -> str:
        """What it said, once it has ended."""
        return self.process.communicate(timeout=PATIENCE)[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def make_lease(id: str, memory: int, seconds: float = 600.0, state: LeaseState = LeaseState.ACTIVE) -> Lease:
    return Lease(id, 0, CPU.id, memory, 500, "somebody", 1.0, 1, state, "", "", seconds)


class Leased:
    """One lease on PoCL, and jobs inside it."""

    def __init__(self, home: Path, layer: Path, opencl: dict[str, str], memory: int, seconds: float) -> None:
        self.home = home
        self.lease = make_lease("lease", memory, seconds)
        self.environment = {**opencl, **opencl_layer.OpenClLayer().environment(self.lease, CPU, home)}
        self.jobs: list[Job] = []

    def job(self, **environment: str) -> Job:
        self.jobs.append(Job({**self.environment, **environment}))
        return self.jobs[-1]

    def used(self) -> int:
        return sum(used(self.lease.id, self.home).values())


@pytest.fixture
def leased(
    tmp_path: Path, layer: Path, opencl: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Leased]]:
    """Makes the lease: `leased(memory, seconds=600)`."""
    monkeypatch.setenv(variables.OPENCL_LAYER, str(layer))
    made: list[Leased] = []

    def make(memory: int = MIB, seconds: float = 600.0) -> Leased:
        made.append(Leased(tmp_path, layer, opencl, memory, seconds))
        return made[-1]

    yield make
    for lease in made:
        for job in lease.jobs:
            job.kill()
