"""A stand-in for NVIDIA's library NVML, compiled from `nvml.c`: its GPUs are and hold what a file says, which a test
writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from cumulus.chronos import nvml

GIB = 2**30
SMI = """#!{python} -S
import pathlib
at = 0
for line in pathlib.Path({state!r}).read_text().splitlines():
    if line.startswith("gpu "):
        uuid, size = line.split()[1:3]
        print(f"{{uuid}}, Stand-in, {{int(size) // 2**20}}, 580.1, 00000000:{{at + 1:02X}}:00.0")
        at += 1
"""


@cache
def _compiled() -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    target = Path(mkdtemp(prefix="standin-nvml-")) / nvml.LIBRARY
    source = Path(__file__).with_name("nvml.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Werror", str(source), "-o", str(target), "-ldl"], check=True
    )
    return target


class StandInNvml:
    """The library and an nvidia-smi in `directory`, which is to be in LD_LIBRARY_PATH, and in PATH."""

    def __init__(self, directory: Path, gpus: Mapping[str, int]) -> None:
        """`gpus`: UUID -> bytes."""
        self.directory = directory
        directory.mkdir(exist_ok=True)
        shutil.copy(_compiled(), directory / nvml.LIBRARY)
        self._gpus = dict(gpus)
        self._lines: dict[str, list[str]] = {}
        self._head: list[str] = []
        smi = directory / "nvidia-smi"
        smi.write_text(SMI.format(python=sys.executable, state=str(self._state)))
        smi.chmod(0o755)
        self._write()

    def say(self, gpu: str, *lines: str) -> None:
        """What the GPU is and does from now on; see nvml.c."""
        self._lines[gpu] = list(lines)
        self._write()

    def hold(self, gpu: str, held: Mapping[int, int]) -> None:
        """What each process holds of it, in bytes, and nothing else."""
        self.say(gpu, *(f"held {pid} {size}" for pid, size in held.items()))

    def head(self, *lines: str) -> None:
        """`broken` or `hangs`, or nothing."""
        self._head = list(lines)
        self._write()

    @property
    def _state(self) -> Path:
        return self.directory / "nvml.state"

    def _write(self) -> None:
        lines = list(self._head)
        for gpu, size in self._gpus.items():
            lines += [f"gpu {gpu} {size}", *self._lines.get(gpu, ())]
        new = self._state.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.replace(self._state)
