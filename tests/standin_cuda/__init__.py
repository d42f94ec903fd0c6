"""A stand-in for NVIDIA's driver as far as parking needs it, compiled from `cuda.c`, beside the stand-in for NVML. It
moves nothing: what is proven with it is the logic of parking, and nothing about any driver."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from cumulus.chronos.parking.driver import LIBRARY, CheckpointState


@cache
def _compiled() -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    target = Path(mkdtemp(prefix="standin-cuda-")) / LIBRARY
    source = Path(__file__).with_name("cuda.c")
    options = ("-std=gnu11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, *options, str(source), "-o", str(target), "-ldl"], check=True)
    return target


class StandInCuda:
    """The library in `directory`, which is to be in LD_LIBRARY_PATH: that of `StandInNvml`, so that this one shows
    nothing of what is parked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)
        shutil.copy(_compiled(), directory / LIBRARY)
        self._uses: list[int] = []
        self._script: list[str] = []
        self._write()

    def uses(self, *pids: int) -> None:
        """The driver runs in these processes too."""
        self._uses += pids
        self._write()

    def script(self, *lines: str) -> None:
        """What happens from now on; see cuda.c."""
        for struck in self._directory.glob("struck.*"):
            struck.unlink()
        self._script = list(lines)
        self._write()

    def state(self, pid: int) -> CheckpointState:
        try:
            return CheckpointState(int((self._directory / f"state.{pid}").read_text()))
        except FileNotFoundError:
            return CheckpointState.RUNNING

    def break_(self, pid: int) -> None:
        """It cannot be brought back, whatever is tried."""
        (self._directory / f"state.{pid}").write_text(f"{int(CheckpointState.FAILED)}\n")

    def calls(self) -> list[str]:
        """What was called since this was asked last."""
        try:
            found = (self._directory / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        (self._directory / "calls").unlink()
        return found

    def _write(self) -> None:
        lines = [*(f"uses {pid}" for pid in self._uses), *self._script]
        new = self._directory / "cuda.state.new"
        new.write_text("".join(f"{line}\n" for line in lines))
        new.replace(self._directory / "cuda.state")
