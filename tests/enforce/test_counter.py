"""The CUDA counter before a stand-in for NVIDIA's driver (cuda_driver.c), in real processes: its logic, its lookups,
races, fork and crashes. What the real driver does is tests/gpu's to say."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos.contract import Device, Lease, LeaseState, variables
from cumulus.chronos.enforce import account
from cumulus.chronos.enforce.account import Allocates
from cumulus.chronos.enforce.cuda_counter import CudaCounter
from cumulus.clock import SystemClock
from tests.waiting import PATIENCE, eventually

from .conftest import HERE, MIB, compile_c, make_lease

OK, REFUSED, NOT_SUPPORTED = 0, 2, 801
GIB = 2**30
GPU, OTHER = (
    Device(number, f"GPU-{text * 8}-{text * 4}-{text * 4}-{text * 4}-{text * 12}", "stand-in", "NVIDIA", "gpu", GIB)
    for number, text in enumerate("12")
)
ON_DEVICE = {"ints": [1, 0, 1, 0, 0, 0, 0, 0]}
ON_HOST = {"ints": [1, 0, 2, 0, 0, 0, 0, 0]}
CHUNK = 2 * MIB
CONTEXT = 3 * MIB
LOCK_AT = 16
IMPORTED = 8 * MIB


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory, counter: Path) -> Path:
    target = tmp_path_factory.mktemp("driver")
    options = ("-shared", "-fPIC", "-Wl,-Bsymbolic", "-Wl,-soname,libcuda.so.1")
    compile_c("cuda_driver.c", target / "libcuda.so.1", *options)
    (target / "nvml").mkdir()
    options = ("-shared", "-fPIC", "-DSTAND_IN_NVML", "-Wl,-soname,libnvidia-ml.so.1")
    compile_c("cuda_driver.c", target / "nvml" / "libnvidia-ml.so.1", *options)
    return target


class Job:
    """A running cuda_job.py."""

    def __init__(self, environment: dict[str, str], *within: str) -> None:
        self.process = subprocess.Popen(
            [*within, sys.executable, "-S", str(HERE / "cuda_job.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, bufsize=1, stderr=subprocess.PIPE, env={**os.environ, **environment},
        )  # fmt: skip
        self.pid = self._answer()["pid"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the job ended with {self.process.wait()}: {self.process.stderr.read()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def do(self, **what: Any) -> dict[str, Any]:
        self.begin(**what)
        return self._answer()

    def begin(self, **what: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")

    end = _answer

    def __call__(self, name: str, *arguments: Any) -> int:
        """The code that the function answers; `out` has what it wrote."""
        answer = self.do(call=name, arguments=arguments)
        self.out = answer["out"]
        return int(answer["error"])

    def made(self, name: str, *arguments: Any) -> int:
        """What a function that must succeed wrote first."""
        assert self(name, *arguments) == OK
        return int(self.out[0])

    def held(self) -> int:
        return int(self.do(held=True)["held"])

    def stderr(self) -> str:
        return self.process.communicate(timeout=PATIENCE)[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Leased:
    def __init__(self, home: Path, driver: Path, memory: int, seconds: float) -> None:
        self.home = home
        self.driver = driver
        self.lease = replace(make_lease("lease", memory, seconds), device_id=GPU.id)
        self.environment = self.held_by(self.lease, GPU)
        self.jobs: list[Job] = []

    def held_by(self, lease: Lease, device: Device) -> dict[str, str]:
        return {**CudaCounter().environment(lease, device, self.home), "LD_LIBRARY_PATH": str(self.driver)}

    def job(self, **environment: str) -> Job:
        self.jobs.append(Job({**self.environment, **environment}))
        return self.jobs[-1]

    def used(self, id: str = "lease") -> int:
        return sum(account.used(id, self.home).values())


Make = Callable[..., Leased]


@pytest.fixture
def leased(tmp_path: Path, counter: Path, driver: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv(variables.CUDA_COUNTER, str(counter))
    made: list[Leased] = []

    def make(memory: int = 4 * MIB, seconds: float = 600.0) -> Leased:
        made.append(Leased(tmp_path, driver, memory, seconds))
        return made[-1]

    yield make
    for lease in made:
        for job in lease.jobs:
            job.kill()


# ---- each way to memory ----


@pytest.mark.parametrize(
    ("allocate", "arguments", "free", "size"),
    [
        ("cuMemAlloc_v2", (600_000,), "cuMemFree_v2", 600_000),
        ("cuMemAllocManaged", (600_000, 1), "cuMemFree_v2", 600_000),
        ("cuMemCreate", (MIB, ON_DEVICE, 0), "cuMemRelease", MIB),
        ("cuArrayCreate_v2", ([400, 300, 0x20, 4],), "cuArrayDestroy", 400 * 300 * 16),
        ("cuArrayCreate_v2", ([1000, 0, 0x10, 2],), "cuArrayDestroy", 4000),
    ],
)
def test_memory_is_counted_refused_over_the_lease_and_given_back(
    leased: Make, allocate: str, arguments: tuple[Any, ...], free: str, size: int
) -> None:
    lease = leased(size * 2 - 1)
    job = lease.job()
    first = job.made(allocate, "out", *arguments)
    assert (lease.used(), job.held()) == (size, size)
    assert job(allocate, "out", *arguments) == REFUSED
    assert (lease.used(), job.held()) == (size, size), "the driver was not asked"
    assert job(free, first) == OK
    assert lease.used() == 0
    assert job(allocate, "out", *arguments) == OK


def test_pitched_memory_counts_as_the_driver_lays_it_out(leased: Make) -> None:
    lease = leased()
    job = lease.job()
    pointer = job.made("cuMemAllocPitch_v2", "out", "out", 1000, 10, 16)
    assert lease.used() == job.held() == job.out[1] * 10
    assert job("cuMemAllocPitch_v2", "out", "out", 2**63, 2**63, 16) == REFUSED
    job("cuMemFree_v2", pointer)
    assert lease.used() == 0


def test_memory_of_the_host_is_not_counted(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    assert job("cuMemAllocHost_v2", "out", 2 * MIB) == OK
    assert job("cuMemCreate", "out", 2 * MIB, ON_HOST, 0) == OK
    assert lease.used() == 0


def test_a_pool_counts_what_it_holds_until_it_lets_go(leased: Make) -> None:
    lease = leased(4 * CHUNK)
    job = lease.job()
    pointers = [job.made("cuMemAllocAsync", "out", CHUNK // 2, None) for _ in range(3)]
    assert lease.used() == job.held() == 2 * CHUNK
    for pointer in pointers:
        assert job("cuMemFreeAsync", pointer, None) == OK
    assert lease.used() == job.held() == 2 * CHUNK, "freed, and held by the pool"
    assert job.made("cuMemAllocAsync", "out", 2 * CHUNK, None), "from what it holds"
    assert lease.used() == job.held() == 2 * CHUNK
    assert job("cuMemFreeAsync", job.out[0], None) == OK
    assert job("cuStreamSynchronize", None) == OK
    assert lease.used() == job.held() == 0


def test_a_pool_lets_go_before_anybody_is_refused(leased: Make) -> None:
    lease = leased(4 * CHUNK)
    job = lease.job()
    pointer = job.made("cuMemAllocAsync", "out", 4 * CHUNK, None)
    assert job("cuMemAllocAsync", "out", 1, None) == REFUSED
    assert job("cuMemAlloc_v2", "out", 1) == REFUSED
    assert job("cuMemFreeAsync", pointer, None) == OK
    assert job("cuMemAlloc_v2", "out", 3 * CHUNK) == OK
    assert lease.used() == job.held() == 3 * CHUNK


def test_pools_of_a_programs_own_are_counted_and_those_of_host_memory_are_not(leased: Make) -> None:
    lease = leased(2 * CHUNK)
    job = lease.job()
    pool = job.made("cuMemPoolCreate", "out", ON_DEVICE)
    assert job("cuMemAllocFromPoolAsync", "out", CHUNK + 1, pool, None) == OK
    assert lease.used() == job.held() == 2 * CHUNK
    assert job("cuMemAllocFromPoolAsync", "out", CHUNK, pool, None) == REFUSED
    assert job("cuMemPoolDestroy", pool) == OK
    assert lease.used() == job.held() == 0
    of_host = job.made("cuMemPoolCreate", "out", ON_HOST)
    assert job("cuMemAllocFromPoolAsync", "out", 4 * CHUNK, of_host, None) == OK
    assert lease.used() == 0


def test_memory_freed_by_another_function_than_its_own_comes_back_too(leased: Make) -> None:
    lease = leased()
    job = lease.job()
    pooled, plain = job.made("cuMemAllocAsync", "out", 4096, None), job.made("cuMemAlloc_v2", "out", 4096)
    assert job("cuMemFree_v2", pooled) == OK
    assert job("cuMemFreeAsync", plain, None) == OK
    job("cuCtxSynchronize")
    assert lease.used() == job.held() == 0
    assert job("cuMemFree_v2", plain) != OK
    assert job("cuMemFree_v2", 0) == OK


def test_physical_memory_counts_while_it_is_mapped_or_referred_to(leased: Make) -> None:
    """As PyTorch's expandable segments map it, and NCCL, which retains handles."""
    lease = leased()
    job = lease.job()
    handle, place = job.made("cuMemCreate", "out", 2 * MIB, ON_DEVICE, 0), 1 << 40
    assert job("cuMemMap", place, 2 * MIB, 0, handle, 0) == OK
    assert job("cuMemRelease", handle) == OK
    assert lease.used() == job.held() == 2 * MIB
    assert job.made("cuMemRetainAllocationHandle", "out", place) == handle
    assert job("cuMemUnmap", place - MIB, 4 * MIB) == OK
    assert lease.used() == job.held() == 2 * MIB
    assert job("cuMemRelease", handle) == OK
    assert lease.used() == job.held() == 0


def test_a_graph_counts_what_its_launch_takes_and_is_launched_no_more_when_that_is_too_much(leased: Make) -> None:
    lease = leased(4 * MIB)
    job = lease.job()
    graph = job.made("cuGraphCreate", "out", 0)

    # CUDA_MEM_ALLOC_NODE_PARAMS: 22 numbers of the pool's properties, access, its count, the size, the pointer.
    def node(size: int) -> dict[str, list[int]]:
        return {"ints": [1, 0, 1, 0, *[0] * 18, *[0] * 4, size, 0, 0, 0]}

    assert job("cuGraphAddMemAllocNode", "out", graph, None, 0, node(5 * MIB)) == REFUSED
    assert job("cuGraphAddMemAllocNode", "out", graph, None, 0, node(3 * MIB)) == OK
    assert lease.used() == 0
    assert job("cuGraphLaunch", graph, None) == OK
    assert lease.used() == job.held() == 3 * MIB
    assert job("cuDeviceGraphMemTrim", 0) == OK
    assert lease.used() == job.held() == 0
    assert job("cuGraphAddMemAllocNode", "out", graph, None, 0, node(3 * MIB)) == OK
    assert job("cuGraphLaunch", graph, None) == OK
    assert lease.used() == job.held() == 6 * MIB
    held = job.made("cuMemCreate", "out", MIB, ON_DEVICE, 0)
    assert lease.used() == MIB, "the graphs' memory was let go of first"
    job("cuMemRelease", held)


def test_what_could_not_be_counted_is_counted_the_next_time(leased: Make) -> None:
    """A process of the lease may be stopped just while it has the account's lock."""
    lease = leased(8 * MIB)
    job = lease.job()
    graph = job.made("cuGraphCreate", "out", 0)
    node = {"ints": [1, 0, 1, 0, *[0] * 18, *[0] * 4, 3 * MIB, 0, 0, 0]}
    assert job("cuGraphAddMemAllocNode", "out", graph, None, 0, node) == OK
    with (account.directory(lease.home, "lease") / "usage").open("r+b") as file, mmap.mmap(file.fileno(), 0) as usage:
        lock, libc = ctypes.c_char.from_buffer(usage, LOCK_AT), ctypes.CDLL(None)
        assert libc.pthread_mutex_lock(ctypes.byref(lock)) == 0
        assert job("cuGraphLaunch", graph, None) == OK
        assert libc.pthread_mutex_unlock(ctypes.byref(lock)) == 0
        del lock
    assert (lease.used(), job.held()) == (0, 3 * MIB)
    assert job("cuGraphLaunch", graph, None) == OK
    assert lease.used() == job.held() > 0


def test_a_stream_that_is_captured_goes_on_to_be_and_its_graph_counts_when_it_is_launched(leased: Make) -> None:
    lease = leased(4 * MIB)
    job = lease.job()
    assert job("cuMemAllocAsync", "out", MIB, None) == OK
    stream = 0x100
    job("cuStreamBeginCapture_v2", stream, 0)
    assert job("cuMemAllocAsync", "out", 5 * MIB, stream) == REFUSED
    assert job("cuMemAllocAsync", "out", MIB, stream) == OK
    assert job("cuMemAllocAsync", "out", MIB, None) == OK, "beside it, by the thread that captures"
    graph = job.made("cuStreamEndCapture", stream, "out")
    assert lease.used() == job.held() == CHUNK
    assert job("cuGraphLaunch", graph, stream) == OK
    assert lease.used() == job.held() == CHUNK + MIB


def test_the_functions_of_cuda_3_allocate_nothing(leased: Make) -> None:
    job = leased().job()
    assert {job(f"cu{name}", "out", 16) for name in ("MemAlloc", "MemAllocPitch", "ArrayCreate")} == {NOT_SUPPORTED}


# ---- what is noted, since a program that does it is never moved into main memory ----


@pytest.mark.parametrize(
    ("call", "noted"),
    [
        (("cuMemAlloc_v2", "out", MIB), Allocates(0)),
        (("cuMemAllocManaged", "out", MIB, 1), Allocates.MANAGED),
        (("cuMemCreate", "out", MIB, ON_DEVICE, 0), Allocates.MAPPED),
        (("cuIpcGetMemHandle", {"bytes": 64}, 4096), Allocates.SHARED),
        (("cuIpcOpenMemHandle_v2", "out", "handle", 1), Allocates.SHARED),
        (("cuIpcGetEventHandle", {"bytes": 64}, None), Allocates.SHARED),
        (("cuMemExportToShareableHandle", "out", 1, 1, 0), Allocates.SHARED),
        (("cuMemImportFromShareableHandle", "out", None, 1), Allocates.SHARED),
        (("cuCtxEnablePeerAccess", None, 0), Allocates.PEER),
        (("cuMemPoolSetAccess", None, {"ints": [1, 1, 3]}, 1), Allocates.PEER),
        (("cuMemPoolSetAccess", None, {"ints": [1, 0, 3]}, 1), Allocates(0)),
    ],
)
def test_how_a_process_allocates_is_noted(leased: Make, call: tuple[Any, ...], noted: Allocates) -> None:
    lease = leased(64 * MIB)
    job = lease.job()
    assert job(*call) == OK
    assert job("cuMemAlloc_v2", "out", MIB) == OK
    assert set(account.noted("lease", lease.home).values()) == {noted}
    assert job("cuMemAllocManaged", "out", MIB, 1) == OK
    assert set(account.noted("lease", lease.home).values()) == {noted | Allocates.MANAGED}


def test_a_child_is_what_its_parent_noted(leased: Make) -> None:
    lease = leased(64 * MIB)
    job = lease.job()
    assert job("cuIpcGetMemHandle", {"bytes": 64}, 4096) == OK
    assert list(account.noted("lease", lease.home).values()) == [Allocates.SHARED]
    job.do(fork=MIB)
    assert set(account.noted("lease", lease.home).values()) == {Allocates.SHARED}


# ---- how programs find the driver's functions ----


@pytest.mark.parametrize("way", ["cuGetProcAddress", "cuGetProcAddress_v2"])
@pytest.mark.parametrize("flags", [0, 2])
def test_what_cugetprocaddress_gives_counts(leased: Make, way: str, flags: int) -> None:
    lease = leased()
    job = lease.job()
    for name in ("cuMemAlloc", "cuMemFree", "cuMemAllocAsync", "cuMemGetInfo", "cuGetProcAddress"):
        assert job.do(find=name, version=12080, flags=flags, way=way)["error"] == 0
    pointer = job.made("cuMemAlloc", "out", MIB)
    assert lease.used() == MIB
    assert job("cuMemAlloc", "out", 4 * MIB) == REFUSED
    assert (job("cuMemGetInfo", "out", "out"), job.out) == (OK, [3 * MIB, 4 * MIB])
    assert job("cuMemFree", pointer) == OK
    assert job("cuMemAllocAsync", "out", 5 * MIB, None) == REFUSED
    assert lease.used() == 0


def test_a_function_that_the_driver_does_not_export_is_replaced_by_its_name(leased: Make) -> None:
    lease = leased()
    job = lease.job(STAND_IN_HIDES="1")
    assert job.do(find="cuMemAlloc", version=12080)["error"] == 0
    assert job("cuMemAlloc", "out", MIB) == OK
    assert lease.used() == MIB


def test_what_a_later_driver_has_passes_through(leased: Make) -> None:
    lease = leased()
    job = lease.job()
    assert job("cuBrandNew", 6) == 7
    assert job.do(find="cuMemAlloc", version=99000)["error"] == 0
    assert job("cuMemAlloc", "out", MIB, 1) == OK
    assert (lease.used(), job.held()) == (0, MIB)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory, driver: Path) -> Path:
    options = ("-Wl,--no-as-needed", str(driver / "libcuda.so.1"))
    return compile_c("cuda_program.c", tmp_path_factory.mktemp("program") / "program", *options)


def test_a_linked_program_is_held_and_finds_its_own_symbols(leased: Make, program: Path) -> None:
    environment = {**os.environ, **leased(MIB).environment}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [OK, REFUSED, REFUSED, True, True, True]
    assert done.stderr == "chronos: 614400 bytes of device memory refused: 614400 of the lease's 1048576 are in use\n"


def test_without_a_lease_nothing_is_counted_or_refused(leased: Make) -> None:
    job = leased(MIB).job(CHRONOS_ACCOUNT="")
    assert job("cuMemAlloc_v2", "out", 8 * MIB) == OK
    assert job("cuMemAllocAsync", "out", 8 * MIB, None) == OK
    assert (job("cuMemGetInfo_v2", "out", "out"), job.out) == (OK, [GIB - 16 * MIB, GIB])


def test_a_program_without_cuda_starts_as_ever(leased: Make) -> None:
    environment = {**os.environ, **leased().environment, "LD_LIBRARY_PATH": ""}
    code = "import ctypes; print(ctypes.CDLL(None).getpid() > 0, hasattr(ctypes.CDLL(None), 'no_such_symbol'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("True False\n", "")


# ---- what is answered ----


def test_the_lease_is_the_devices_size(leased: Make) -> None:
    lease = leased(4 * MIB)
    job = lease.job(LD_LIBRARY_PATH=f"{lease.driver}:{lease.driver}/nvml")
    assert job.made("cuDeviceTotalMem_v2", "out", 0) == 4 * MIB
    assert job("cuMemAlloc_v2", "out", MIB // 2) == OK
    assert (job("cuMemGetInfo_v2", "out", "out"), job.out) == (OK, [4 * MIB - CONTEXT - MIB // 2, 4 * MIB])
    mine, others = (job.made("nvmlDeviceGetHandleByIndex_v2", number, "out") for number in (0, 1))
    assert job("nvmlDeviceGetMemoryInfo", mine, {"bytes": 24}) == OK
    assert job.out[0] == [4 * MIB, MIB // 2, CONTEXT + MIB // 2]
    assert job("nvmlDeviceGetMemoryInfo", others, {"bytes": 24}) == OK
    assert job.out[0][0] == GIB


def test_what_the_driver_holds_beside_counts_too(leased: Make) -> None:
    lease = leased(8 * MIB)
    job = lease.job(LD_LIBRARY_PATH=f"{lease.driver}:{lease.driver}/nvml")
    assert lease.used() == CONTEXT
    assert job("cuMemAlloc_v2", "out", 6 * MIB) == REFUSED
    assert job("cuMemAlloc_v2", "out", 5 * MIB) == OK
    job.kill()
    other = lease.job()
    assert other("cuMemAlloc_v2", "out", 8 * MIB) == OK


def test_an_import_is_on_its_exporters_account_whomever_the_driver_charges(leased: Make) -> None:
    lease = leased(64 * MIB)
    job = lease.job(LD_LIBRARY_PATH=f"{lease.driver}:{lease.driver}/nvml")
    imported = job.made("cuIpcOpenMemHandle_v2", "out", "handle", 1)
    held = CONTEXT
    for charged in (0, IMPORTED, 0):
        assert job("standin_charge", charged) == OK
        SystemClock().sleep(1.1)  # looks are a second apart
        assert job("cuMemAlloc_v2", "out", MIB) == OK
        held += MIB
        assert lease.used() == held
    assert job("cuIpcCloseMemHandle", imported) == OK
    assert job("cuIpcCloseMemHandle", 2) != OK


@pytest.mark.skipif(os.geteuid() != 0, reason="it needs root to make a PID namespace")
def test_in_a_container_a_context_counts_by_what_the_device_holds_more(leased: Make) -> None:
    """NVML names processes by numbers that are others' there. The bounds leave 64 MiB of the stand-in's 3."""
    lease = leased(GIB)
    libraries = f"{lease.driver}:{lease.driver}/nvml"
    job = Job({**lease.environment, "LD_LIBRARY_PATH": libraries}, "unshare", "--pid", "--fork", "--kill-child")
    lease.jobs.append(job)
    assert lease.used() == 64 * MIB
    assert job("cuMemAlloc_v2", "out", MIB) == OK
    assert job("cuDevicePrimaryCtxReset_v2", 0) == OK
    assert lease.used() == 0


# ---- processes ----


def test_processes_of_a_lease_share_it_and_a_crash_gives_back(leased: Make) -> None:
    lease = leased(4 * MIB)
    one, other = lease.job(), lease.job()
    assert one("cuMemAlloc_v2", "out", 3 * MIB) == OK
    assert other("cuMemAllocAsync", "out", 2 * MIB, None) == REFUSED
    assert other("cuMemGetInfo_v2", "out", "out") == OK
    assert other.out == [MIB, 4 * MIB]
    os.kill(one.pid, signal.SIGKILL)
    eventually(lambda: other("cuMemAlloc_v2", "out", 3 * MIB) == OK, what="it is given back")
    assert lease.used() == 3 * MIB


def test_a_child_has_an_account_of_its_own(leased: Make) -> None:
    lease = leased(4 * MIB)
    job = lease.job()
    pointer = job.made("cuMemAlloc_v2", "out", 2 * MIB)
    job.made("cuMemAllocAsync", "out", 4096, None)
    assert job.do(fork=MIB)["error"] == REFUSED, "the parent's count"
    assert job("cuMemFree_v2", pointer) == OK
    assert job.do(fork=2 * MIB)["error"] == OK
    assert lease.used() == job.held() == CHUNK


def test_four_processes_that_race_get_the_lease_and_no_more(leased: Make) -> None:
    lease = leased(10 * 65536)
    jobs = [lease.job() for _ in range(4)]
    granted = 0
    for _ in range(4):
        for job in jobs:
            job.begin(call="cuMemAlloc_v2", arguments=["out", 65536])
        granted += sum(job.end()["error"] == OK for job in jobs)
    assert (granted, lease.used()) == (10, 10 * 65536)


def test_threads_leave_the_account_at_nothing(leased: Make) -> None:
    lease = leased(GIB)
    job = lease.job()
    job.do(threads=4, rounds=500)
    assert lease.used() == job.held() == 0


@pytest.mark.parametrize("memory", [GIB, 8 * MIB])
def test_random_calls_agree_with_the_driver(leased: Make, memory: int) -> None:
    lease = leased(memory)
    job = lease.job()
    held = job.do(fuzz=random.randrange(2**32), steps=1500)["held"]
    assert lease.used() == held
    # A pool may end with more than the lease, by the rest of a chunk.
    assert held <= memory + CHUNK


# ---- contexts, devices, ends ----


def test_what_a_context_held_goes_with_it(leased: Make) -> None:
    lease = leased()
    job = lease.job()
    job.made("cuMemAlloc_v2", "out", MIB)
    context = job.made("cuCtxCreate_v2", "out", 0, 0)
    job.made("cuMemAlloc_v2", "out", MIB)
    assert job("cuCtxDestroy_v2", context) == OK
    assert lease.used() == job.held() == MIB
    assert job("cuDevicePrimaryCtxRelease_v2", 0) == OK
    assert lease.used() == job.held() == 0


def test_each_device_of_a_job_has_the_account_of_its_lease(leased: Make) -> None:
    lease = leased(4 * MIB)
    second = lease.held_by(replace(make_lease("second", MIB), device_id=OTHER.id), OTHER)
    job = lease.job(**variables.join(lease.environment, second))
    assert (job.made("cuDeviceTotalMem_v2", "out", 0), job.made("cuDeviceTotalMem_v2", "out", 1)) == (4 * MIB, MIB)
    assert job("cuMemAlloc_v2", "out", 3 * MIB) == OK
    on_second = {"ints": [1, 0, 1, 1, 0, 0, 0, 0]}
    assert job("cuMemCreate", "out", 3 * MIB, on_second, 0) == REFUSED
    assert job("cuMemCreate", "out", MIB, on_second, 0) == OK
    assert (lease.used(), lease.used("second")) == (3 * MIB, MIB)


def test_after_the_leases_end_no_memory_is_granted(leased: Make) -> None:
    lease = leased()
    job = lease.job()
    pointer = job.made("cuMemAlloc_v2", "out", MIB)
    account.update(replace(lease.lease, state=LeaseState.ENDING), lease.home)
    assert job("cuMemAlloc_v2", "out", 1) == REFUSED
    assert job("cuMemFree_v2", pointer) == OK
    assert lease.used() == 0


def test_without_its_account_everything_is_refused(leased: Make) -> None:
    job = leased().job(CHRONOS_ACCOUNT="/nowhere")
    assert job("cuMemAlloc_v2", "out", 1) == REFUSED
    assert job("cuMemAllocAsync", "out", 1, None) == REFUSED
    job.kill()
    assert "device memory is refused" in job.stderr()


def test_what_the_user_preloads_stays(leased: Make) -> None:
    ours = leased().environment["LD_PRELOAD"]
    assert variables.merge({"LD_PRELOAD": "/a.so /b.so"}, {"LD_PRELOAD": ours})["LD_PRELOAD"] == f"{ours}:/a.so /b.so"
