"""The CUDA counter on the real driver: every program inside a lease of 20 % works, and all of a lease's processes
together are held to it. Without MPS where not said otherwise, so that the counter alone holds."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest

from benchmarks.gpu import allocation_costs, in_turn
from cumulus.chronos import nvml
from cumulus.chronos.contract.variables import MPS_MODE, PRELOAD
from cumulus.chronos.enforce import account, strength
from cumulus.clock import SystemClock
from cumulus.resources.enforcement import Enforcement

from .conftest import GIB, HERE, PAGE, Node, Program, memory_used, until
from .test_opencl import do, start

Measured = Callable[[str, object], None]
REFUSED = "CUDA_ERROR_OUT_OF_MEMORY"
MIB = 2**20


@pytest.fixture
def alone(node: Node, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Leases without MPS."""
    monkeypatch.setenv(MPS_MODE, "off")
    return node


def size_of(lease: dict[str, str], part: float) -> int:
    return int(int(lease["CHRONOS_MEMORY_BYTES"]) * part) // PAGE * PAGE


def used(node: Node, id: str = "part") -> int:
    return sum(account.used(id, node.home).values())


def test_the_counter_alone_makes_the_gpu_guarded(alone: Node) -> None:
    report = strength(alone.gpu, alone.home)
    assert report.enforcement is Enforcement.GUARDED, report


KINDS = ["device", "async", "vmm", "managed"]


@pytest.mark.parametrize("mps", ["shared", "off"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_of_a_lease_are_held_together(
    node: Node, kind: str, mps: str, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    monkeypatch.setenv(MPS_MODE, mps)
    lease = node.lease("part", 0.2)
    size = size_of(lease, 0.55)
    first = node.cuda("alloc", kind, size, **lease)
    answer = first.line()
    assert answer["outcome"] == "ok"
    assert answer["total"] == int(lease["CHRONOS_MEMORY_BYTES"])
    assert answer["free"] <= answer["total"] - size
    assert node.outcome(kind, size, **lease) == REFUSED
    third = node.cuda("alloc", kind, size_of(lease, 0.25), **lease)
    assert third.line()["outcome"] == "ok"
    assert first.alive()
    told, counted = memory_used(node.gpu), used(node)
    measured(f"{kind}, MPS {mps}: device and account, MiB", (told // MIB, counted // MIB))
    first.kill()
    until(lambda: node.outcome(kind, size, **lease) == "ok", 20.0)


@pytest.mark.parametrize("mps", ["shared", "off"])
def test_the_account_is_what_the_driver_says_that_the_processes_hold(
    node: Node, mps: str, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    monkeypatch.setenv(MPS_MODE, mps)
    lease = node.lease("part", 0.2)
    sizes = [size_of(lease, 0.1) + 12345, 3 * MIB + 1, 700_000]
    programs = [node.cuda("alloc", *(word for size in sizes for word in ("device", size)), **lease) for _ in "12"]
    for program in programs:
        assert [program.line()["outcome"] for _ in sizes] == ["ok"] * 3
    telling = nvml.read_utilization()[node.gpu.id].processes
    driver = [telling[program.process.pid].memory_bytes for program in programs]
    counted = account.used("part", node.home)
    ours = [counted[program.process.pid] for program in programs]
    measured(
        f"the driver's and our MiB of each process, MPS {mps}",
        [(d / MIB, o / MIB) for d, o in zip(driver, ours, strict=True)],
    )
    for theirs, mine in zip(driver, ours, strict=True):
        assert abs(theirs - mine) < 8 * MIB


def test_a_graph_captured_with_cudamallocasync_works_without_a_lease(node: Node) -> None:
    """The other side of the test below."""
    program = node.start(
        [sys.executable, str(HERE / "framework.py"), "torch_graphs_async"],
        {"CHRONOS_MEMORY_BYTES": str(GIB), "PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync"},
    )
    assert program.line(120.0)["works"]


IMPORT = """
import ctypes, json, sys
lib, device, context, pointer = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
class Handle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * 64)]
lib.cuInit(0); lib.cuDeviceGet(ctypes.byref(device), 0)
lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), device); lib.cuCtxSetCurrent(context)
handle = Handle()
if len(sys.argv) > 1:
    code = lib.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(int(sys.argv[1])))
    code = code or lib.cuIpcGetMemHandle(ctypes.byref(handle), pointer)
    print(json.dumps([code, bytes(handle).hex()]), flush=True)
    sys.stdin.readline()
else:
    ctypes.memmove(ctypes.byref(handle), bytes.fromhex(json.loads(sys.stdin.readline())), 64)
    print(json.dumps(lib.cuIpcOpenMemHandle_v2(ctypes.byref(pointer), handle, 1)), flush=True)
    for line in sys.stdin:
        print(json.dumps(lib.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(4096))), flush=True)
"""


def test_an_import_counts_once_whomever_the_driver_charges(alone: Node, measured: Measured) -> None:
    lease = alone.lease("part", 0.2)
    size = size_of(lease, 0.5)
    exporter, importer = alone.python(IMPORT, size, **lease), alone.python(IMPORT, **lease)
    code, handle = exporter.line()
    assert code == 0
    importer.tell(f'"{handle}"')
    assert importer.line() == 0
    SystemClock().sleep(1.2)
    importer.tell("look")
    assert importer.line() == 0
    told = nvml.read_utilization()[alone.gpu.id].processes[importer.process.pid].memory_bytes
    counted = account.used("part", alone.home)[importer.process.pid]
    measured("an import of half a lease: MiB told of the importer, MiB on its account", (told // MIB, counted // MIB))
    assert counted < size // 4


PROGRAMS: dict[str, dict[str, str]] = {
    "torch_eager": {},
    "torch_compile": {},
    "torch_graphs": {},
    "torch_graphs_async": {"PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync"},
    "torch_expandable": {"PYTORCH_ALLOC_CONF": "expandable_segments:True"},
    "torch_async": {"PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync"},
    "torch_loader": {},
    "torch_ipc": {},
    "triton": {},
    "transformers": {},
    "jax": {},
    "jax_as_it_goes": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    "cupy": {},
    "cupy_async": {},
}


@pytest.mark.parametrize("mps", ["shared", "off"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_frameworks_program_works_and_is_held(
    node: Node, name: str, mps: str, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    pytest.importorskip(name.partition("_")[0])
    monkeypatch.setenv(MPS_MODE, mps)
    lease = node.lease("part", 0.2)
    limit = int(lease["CHRONOS_MEMORY_BYTES"])
    if mps == "off":  # the counter's refusal, not the framework's own limit
        for variable in ("PYTHONPATH", "CUPY_GPU_MEMORY_LIMIT"):
            del lease[variable]
    program = node.start([sys.executable, str(HERE / "framework.py"), name], {**lease, **PROGRAMS[name]})
    answer = program.line(120.0)
    measured(f"{name}, MPS {mps}", (answer["held"], answer["outcome"], f"{answer['total'] / limit:.3f}"))
    assert answer["works"]
    assert answer["outcome"] == "refused"
    assert 15 <= answer["held"] < 20
    assert answer["total"] <= limit
    assert "jax" in name or answer["total"] == limit


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc here")
    target = tmp_path_factory.mktemp("runtime")
    started = {
        kind: subprocess.Popen(["nvcc", f"-cudart={kind}", "-o", target / kind, HERE / "runtime.cu"])
        for kind in ("static", "shared")
    }
    assert [process.wait() for process in started.values()] == [0, 0]
    return {kind: target / kind for kind in started}


@pytest.mark.parametrize("kind", ["static", "shared"])
def test_programs_of_the_cuda_runtime_are_held_in_each_way_to_memory(
    alone: Node, compiled: dict[str, Path], kind: str
) -> None:
    lease = alone.lease("part", 0.2)
    answer = alone.start([str(compiled[kind])], lease).line()
    assert answer.pop("works")
    assert answer.pop("back")
    assert (answer.pop("total"), answer.pop("device")) == (int(lease["CHRONOS_MEMORY_BYTES"]),) * 2
    assert len(answer) == 6
    assert answer == {way: [0, 2] for way in answer}


def test_opencl_and_cuda_take_from_one_account(alone: Node, nvidia_opencl: dict[str, str]) -> None:
    lease = alone.lease("part", 0.2)
    size = size_of(lease, 0.55)
    cuda = alone.cuda("alloc", "device", size, **lease)
    assert cuda.line()["outcome"] == "ok"
    opencl = start(alone, lease, nvidia_opencl)
    assert do(opencl, "buffer", size=size)["error"] == -4
    cuda.kill()
    until(lambda: do(opencl, "buffer", size=size)["error"] == 0)
    assert alone.outcome("device", size, **lease) == REFUSED


def test_nvidia_smi_in_a_job_tells_its_share(alone: Node) -> None:
    lease = alone.lease("part", 0.2)
    held = alone.cuda("alloc", "device", size_of(lease, 0.5), **lease)
    assert held.line()["outcome"] == "ok"
    command = [
        "nvidia-smi",
        "--query-gpu=memory.total,memory.used",
        "--format=csv,noheader,nounits",
        f"--id={alone.gpu.id}",
    ]
    done = subprocess.run(command, env={**os.environ, **lease}, capture_output=True, text=True, check=True)
    total, taken = map(int, done.stdout.split(","))
    limit = int(lease["CHRONOS_MEMORY_BYTES"]) // MIB
    assert total == limit
    assert limit // 2 <= taken < limit // 2 + GIB // MIB


def test_what_counting_costs(alone: Node, measured: Measured) -> None:
    lease = alone.lease("part", 0.2)
    bare, held = allocation_costs({**lease, PRELOAD: ""}, lease)
    for what in bare:
        measured(f"{what}, us without and with the counter", f"{bare[what]:.2f} {held[what]:.2f}")
        assert held[what] < bare[what] * 1.1 + 1


def test_in_a_container_a_context_counts_too(alone: Node, measured: Measured) -> None:
    """In a PID namespace, where NVML does not name the process."""
    lease = alone.lease("part", 0.2)
    job = [sys.executable, "-S", str(HERE / "job.py"), "alloc", "device", str(MIB), "device", str(size_of(lease, 1.0))]
    program = alone.start(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *job], lease)
    assert [program.line()["outcome"] for _ in "12"] == ["ok", REFUSED]
    measured("a context in a PID namespace counts, MiB", used(alone) // MIB - 1)
    assert used(alone) > 65 * MIB


def test_counting_costs_no_throughput(alone: Node, measured: Measured) -> None:
    lease = alone.lease("all", 1.0)
    sides = in_turn({**lease, PRELOAD: ""}, lease)
    bare, counted = ([median(rates) for rates in zip(*side, strict=True)] for side in sides)
    measured("TFLOP/s and TB/s, not counted and counted", [f"{rate:.3f}" for rate in (*bare, *counted)])
    for without, within in zip(bare, counted, strict=True):
        assert within >= 0.99 * without


@pytest.mark.parametrize("name", ["torch_eager", "jax", "cupy"])
def test_a_small_lease_without_mps_has_room_for_the_context(alone: Node, name: str, measured: Measured) -> None:
    """A context is larger there, and the framework's own limit refuses."""
    program = alone.start([sys.executable, str(HERE / "framework.py"), name], alone.lease("small", 0.05))
    answer = program.line(120.0)
    measured(f"{name} in 5 % without MPS", (answer["held"], answer["outcome"]))
    assert (answer["works"], answer["outcome"]) == (True, "refused")
    assert answer["held"] >= 13


def test_after_random_kills_the_drivers_books_and_ours_agree(alone: Node, measured: Measured) -> None:
    """Of as many seconds as PROPERTY_SECONDS says."""
    choose, clock = random.Random(), SystemClock()
    lease = alone.lease("part", 0.2)
    end = clock.monotonic() + float(os.environ.get("PROPERTY_SECONDS", "12"))
    programs: list[Program] = []
    kills = 0
    while clock.monotonic() < end:
        if len(programs) == 4:
            programs.pop(choose.randrange(4)).kill()
            kills += 1
        words = [word for _ in "123" for word in (choose.choice(KINDS[:3]), PAGE * choose.randrange(1, 1000))]
        programs.append(alone.cuda("alloc", *words, **lease))
        if choose.random() < 0.7:  # else it is killed at whatever it does
            assert {programs[-1].line()["outcome"] for _ in "123"} <= {"ok", REFUSED}
    for program in programs:
        with suppress(AssertionError):
            while program.line(1.0):
                pass
    # The first asks for 4 KiB, for which the driver takes a block of 2 MiB; the look before the second finds the rest.
    for _ in range(2):
        clock.sleep(1.2)
        assert all(program.alive() for program in programs), "each looks anew at what it holds"
    driver = nvml.read_utilization()[alone.gpu.id].processes
    counted = account.used("part", alone.home)
    pids = [program.process.pid for program in programs]
    measured(
        f"after {kills} kills, the driver's and our MiB",
        [(driver[p].memory_bytes / MIB, counted[p] / MIB) for p in pids],
    )
    assert set(counted) == set(pids)
    assert all(abs(driver[pid].memory_bytes - counted[pid]) < MIB for pid in pids)
    assert sum(counted.values()) <= int(lease["CHRONOS_MEMORY_BYTES"])
