"""Jobs inside leases on a real NVIDIA GPU, and what was measured, printed at the end of the run."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos import nvml
from cumulus.chronos.contract import Device, Lease, LeaseState, variables
from cumulus.chronos.contract.variables import MPS_MODE, merge
from cumulus.chronos.device import discover
from cumulus.chronos.enforce import cuda_counter, environment, forget, opencl_layer
from cumulus.chronos.enforce.mps import Mps
from cumulus.clock import SystemClock
from tests.conftest import within
from tests.e2e.conftest import Machine, serving

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GIB = 2**30
PAGE = 2 * 2**20
ANSWER_SECONDS = 40.0

HUGE, FITS = 0.25, 0.025
"""Parts of a GPU's memory: more than a lease of 5 % of it, and what fits in there beside a context."""

_measured: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if within(item, HERE):
            item.add_marker(pytest.mark.gpu)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _measured:
        terminalreporter.section("measured")
    for line in _measured:
        terminalreporter.write_line(line)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Notes a figure for the summary."""
    return lambda what, figure: request.node.user_properties.append((what, str(figure)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        _measured.extend(f"{what}: {figure}" for what, figure in report.user_properties)


@pytest.fixture(scope="session")
def gpu() -> Device:
    """The first that Chronos offers, or the one whose number is in TEST_GPU: where there are several, two runs may be
    made side by side. Tests of the daemon, and of `test_use.py` and `test_expiry.py`, want the first."""
    devices = discover()
    nvidia = [device for device in devices if device.type == "gpu" and "nvidia" in device.vendor.lower()]
    if not nvidia:
        pytest.skip("there is no NVIDIA GPU here")
    return nvidia[int(os.environ.get("TEST_GPU", "0"))]


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("layer")
    subprocess.run([ROOT / "scripts/build-enforcement.sh", target], check=True)
    return target / opencl_layer.LIBRARY.file


@pytest.fixture(scope="session")
def nvidia_opencl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The loader that programs get, with NVIDIA's driver whether or not it is registered on this machine."""
    vendors = tmp_path_factory.mktemp("vendors")
    (vendors / "nvidia.icd").write_text("libnvidia-opencl.so.1\n")
    return {
        "OPENCL_LIBRARY": "libOpenCL.so.1",
        "OPENCL_DEVICE": "gpu",
        "OCL_ICD_VENDORS": f"{vendors}/",
        MPS_MODE: "off",
    }


class Program:
    """A program in a lease, or in none, that prints lines."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
            env=merge({**os.environ, MPS_MODE: variables.get(MPS_MODE, "")}, variables),
        )  # fmt: skip

    def line(self, seconds: float = ANSWER_SECONDS) -> Any:
        """The next line that is JSON, as JSON; what else it prints is passed over."""
        assert self.process.stdout is not None
        passed: list[str] = []
        while select.select([self.process.stdout], [], [], seconds)[0]:
            text = self.process.stdout.readline().decode(errors="replace")
            if not text:
                raise AssertionError(f"ended with {self.process.wait()}: {''.join(passed)}")
            try:
                return json.loads(text)
            except ValueError:
                passed.append(text)
        raise AssertionError(f"no answer in {seconds} s: {''.join(passed)}")

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{text}\n".encode())
        except BrokenPipeError:
            self.line()
            raise

    def alive(self) -> bool:
        """Whether the device still does what the holder of an allocation asks."""
        self.tell("alive?")
        return bool(self.line()["alive"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Node:
    """Leases on the GPU, and programs inside them. What it started is ended with it."""

    def __init__(self, gpu: Device, home: Path) -> None:
        self.gpu = gpu
        self.home = home
        self.programs: list[Program] = []
        self.leases: list[str] = []

    def part(self, share: float) -> int:
        """Bytes of that part of the GPU's memory."""
        return part(self.gpu, share)

    def lease(self, id: str, share: float, compute: float | None = None) -> dict[str, str]:
        """The environment of a lease of that part of the memory and of the compute."""
        memory = self.part(share)
        thousandths = int(1000 * (share if compute is None else compute))
        lease = Lease(
            id, self.gpu.index, self.gpu.id, memory, thousandths, "", 1.0, 1, LeaseState.ACTIVE, "", "", 600.0
        )
        self.leases.append(id)
        # The supervisor of a job sets these two.
        ours = {"CHRONOS_MEMORY_BYTES": str(memory), "CUDA_VISIBLE_DEVICES": self.gpu.id}
        return {**ours, **environment(lease, self.gpu, self.home)}

    def cuda(self, *arguments: str | float, **variables: str) -> Program:
        """tests/gpu/job.py with those arguments and variables."""
        command = [sys.executable, "-S", str(HERE / "job.py"), *map(str, arguments)]
        return self.start(command, variables)

    def python(self, code: str, *arguments: int, **variables: str) -> Program:
        return self.start([sys.executable, "-c", code, *map(str, arguments)], variables)

    def opencl(self, **variables: str) -> Program:
        return self.start([sys.executable, str(ROOT / "tests/enforce/job.py")], variables)

    def start(self, command: list[str], variables: dict[str, str]) -> Program:
        self.programs.append(Program(command, variables))
        return self.programs[-1]

    def outcome(self, kind: str, size: int, **variables: str) -> str:
        """How an allocation of that kind goes in a process of its own, or the error that came before it."""
        program = self.cuda("alloc", kind, size, **variables)
        answer = program.line()
        program.kill()
        return str(answer.get("outcome") or answer["error"])

    def rates(self, *leases: dict[str, str], seconds: float = 1.0) -> list[float]:
        """Work a second of programs that run at the same time, one in each lease."""
        programs = [self.cuda("spin", seconds, **lease) for lease in leases]
        for program in programs:
            program.line()
        for program in programs:
            program.tell("go")
        return [float(program.line()["blocks_per_second"]) for program in programs]

    def close(self) -> None:
        for program in self.programs:
            program.kill()
        for id in self.leases:
            forget(id, self.gpu, self.home)
        Mps("shared").stop(self.home)


@pytest.fixture
def node(gpu: Device, layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv(variables.OPENCL_LAYER, str(layer))
    monkeypatch.setenv(variables.CUDA_COUNTER, str(layer.with_name(cuda_counter.LIBRARY.file)))
    monkeypatch.setenv(MPS_MODE, "shared")
    made = Node(gpu, tmp_path)
    yield made
    made.close()


@pytest.fixture
def machine(gpu: Device, layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The daemon, with this machine's GPUs."""
    monkeypatch.setenv(variables.OPENCL_LAYER, str(layer))
    monkeypatch.setenv(variables.CUDA_COUNTER, str(layer.with_name(cuda_counter.LIBRARY.file)))
    monkeypatch.setenv(MPS_MODE, "shared")
    try:
        with serving(Machine(tmp_path / "m")) as made:
            yield made
    finally:
        Mps("shared").stop(tmp_path / "m" / "chronos")


@pytest.fixture(scope="session")
def full_rate(gpu: Device, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Of the whole GPU without MPS."""
    made = Node(gpu, tmp_path_factory.mktemp("bare"))
    try:
        return made.rates({})[0]
    finally:
        made.close()


def part(gpu: Device, share: float) -> int:
    """Bytes of that part of the GPU's memory, in whole pages of 2 MiB, as cuMemCreate wants them."""
    return int(gpu.memory_bytes * share) // PAGE * PAGE


def memory_used(gpu: Device) -> int:
    """Bytes in use on the GPU, of all processes."""
    return _nvml().memory_used(gpu.id)


_nvml = cache(nvml.Nvml)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Seconds until it came true."""
    clock = SystemClock()
    start = clock.monotonic()
    while not condition():
        assert clock.monotonic() < start + seconds, "did not come true"
        clock.sleep(0.002)
    return clock.monotonic() - start
