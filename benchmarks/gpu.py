"""`python -m benchmarks.gpu`: leases on an NVIDIA GPU beside chronos-gpu 1.1.0 from PyPI, in one run.

The peer needs glibc 2.38. What is missing (the peer, PyTorch, a GPU) is said to be left out.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import LeftOut, Result, at_least, at_most, limit, machine, until
from benchmarks.lease import stopped
from cumulus.chronos import enforce
from cumulus.chronos.contract import FULL_COMPUTE, Device, LeaseRequest, variables
from cumulus.chronos.device import discover
from cumulus.chronos.enforce import cuda_counter
from cumulus.chronos.enforce.mps import Mps
from cumulus.chronos.ledger import Ledger
from cumulus.errors import InsufficientShare

PEER = "chronos-gpu 1.1.0"
COUNT = 1000
BLOCK = 50
WARM_UP = 1000
WARM_SLICES = 5
EXPIRIES = 5
EXPIRY_SECONDS = 4
LIVE = 10_000
PROCESSES = 8
HOLDERS = 6
"""So many of the processes' shares fit on the device: what is over-allocated shows."""

HELD_SECONDS = 0.0005
PAIRS = 400
ROUNDS = 3

SLICES = 40
"""Turns of each side in which throughput is measured, a tenth of a second each: the GPU's clock drifts by more than
the per cent in question between one program and the next."""

THROUGHPUT = """
import json, sys, torch
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in "ab")
x = torch.randn(2**28, device="cuda")
def rate(work, amount):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in "se")
    work()
    start.record()
    for _ in range(40):
        work()
    end.record()
    torch.cuda.synchronize()
    return 40 * amount / start.elapsed_time(end) * 1e3
for line in sys.stdin:
    product = rate(lambda: torch.matmul(a, b), 2 * 8192**3 / 1e12)
    print(json.dumps([product, rate(lambda: x.add_(1.0), 2 * 4 * 2**28 / 1e12)]), flush=True)
"""

ALLOCATION = """
import ctypes, json, sys, time
lib, device, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
lib.cuInit(0); lib.cuDeviceGet(ctypes.byref(device), 0)
lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), device); lib.cuCtxSetCurrent(context)
pointer = ctypes.c_uint64()
def cost(count, size, allocate, free, *stream):
    allocate, free, size = getattr(lib, allocate), getattr(lib, free), ctypes.c_size_t(size)
    start = time.perf_counter()
    for _ in range(count):
        assert allocate(ctypes.byref(pointer), size, *stream) == 0
        assert free(pointer, *stream) == 0
    return (time.perf_counter() - start) / count * 1e6
for line in sys.stdin:
    print(json.dumps({"cuMemAlloc and cuMemFree of 32 MiB": cost(200, 32 << 20, "cuMemAlloc_v2", "cuMemFree_v2"),
        "cuMemAlloc and cuMemFree of 4 KiB": cost(5000, 4096, "cuMemAlloc_v2", "cuMemFree_v2"),
        "cuMemAllocAsync and cuMemFreeAsync of 1 MiB":
            cost(5000, 1 << 20, "cuMemAllocAsync", "cuMemFreeAsync", None)}), flush=True)
"""
TURNS = 9


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as directory:
        yield from _verbs(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        yield from _expiry(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        yield from _many_live(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        yield from _many_processes(Path(directory))
    for part in (_allocation, _throughput):
        with tempfile.TemporaryDirectory() as directory:
            yield from part(Path(directory))


def request(id: str, seconds: float = 3600, *, device: int = 0, memory: int = 1, compute: int = 1) -> LeaseRequest:
    return LeaseRequest(id, device=device, memory_bytes=memory, compute=compute, seconds=seconds, grace=0)


def devices(count: int = 1) -> list[Device]:
    return [Device(index, f"bench-{index}", "bench", "bench", "gpu", 1 << 40) for index in range(count)]


# ---- create, release, list ----


def _verbs(directory: Path) -> Iterator[Result]:
    """In turn, a block of each: a bare fsync, ours, the peer's; in a ledger whose log has grown to its size, as one in
    use. In blocks, since the files that the peer leaves unsynced would be synced by ours."""
    peer, why = _peer()
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        answer = call()
        times.setdefault(name, []).append((time.perf_counter() - start) * 1000)
        return answer

    with _quiet(), _ledger(directory) as ledger, open(directory / "floor", "ab", buffering=0) as floor:
        for number in range(WARM_UP):
            ledger.grant(request(f"warm{number}"))
            ledger.release(f"warm{number}")
        for block in range(0, COUNT, BLOCK):
            for _ in range(BLOCK):
                floor.write(b"x" * 256)
                timed("floor", lambda: os.fsync(floor.fileno()))
            for number in range(block, block + BLOCK):
                lease = timed("create", lambda: ledger.grant(request(f"l{number}")))  # noqa: B023
                timed("release", lambda: ledger.release(lease.id))  # noqa: B023
            for _ in range(BLOCK if peer else 0):
                held = timed("peer create", lambda: peer.create_raw(0, 0.1, 3600))
                timed("peer release", lambda: peer.release(held))  # noqa: B023
        ledger.grant(request("listed"))
        held = peer.create_raw(0, 0.1, 3600) if peer else None
        for _ in range(COUNT):
            timed("list", ledger.list)
            if peer:
                timed("peer list", peer.list)
        if peer:
            peer.release(held)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for verb in ("create", "release"):
        what = f"lease {verb}, synced to disk, median of {COUNT:,}"
        yield at_most(what, medians[verb], medians["floor"], 3, unit="ms", peer_name="one fsync of 256 bytes")
    for verb in ("create", "release", "list"):
        what = f"lease {verb}, median of {COUNT:,}"
        if peer is None:
            yield LeftOut(f"{what} against {PEER}", why)
            continue
        durable = f"ours durable, theirs not; one fsync alone takes {medians['floor']:.3g} ms"
        note = "one live lease" if verb == "list" else durable
        yield at_most(what, medians[verb], medians[f"peer {verb}"], 1, unit="ms", peer_name=PEER, note=note)


# ---- expiry ----


def _expiry(directory: Path) -> Iterator[Result]:
    """Ours: when a process in the lease is gone. The peer, which ends no process: when the lease is off its list."""
    peer, why = _peer()
    theirs = {}
    late: list[float] = []
    with _quiet(), _ledger(directory) as ledger:
        running = {}
        for number in range(EXPIRIES):
            process = subprocess.Popen(["sleep", "600"])
            lease = ledger.grant(request(f"l{number}", EXPIRY_SECONDS))
            ledger.attach(lease.id, process.pid, lease.token)
            found = ledger.get(lease.id)
            assert found is not None
            running[process] = time.monotonic() + found.expires_in
            if peer:
                theirs[peer.create_raw(0, 0.1, EXPIRY_SECONDS)] = time.monotonic() + EXPIRY_SECONDS
            time.sleep(0.173)
        ends: dict[str, float] = {}
        while running or len(ends) < len(theirs):
            time.sleep(0.001)
            for process in [process for process in running if process.poll() is not None]:
                late.append((time.monotonic() - running.pop(process)) * 1000)
            listed = {found.partition_id for found in peer.list()} if peer else set()
            ends |= {id: time.monotonic() for id in theirs.keys() - listed - ends.keys()}
            if time.monotonic() > max([*running.values(), *theirs.values()]) + 30:
                raise TimeoutError("some leases do not end")
    what = f"expiry error of leases of {EXPIRY_SECONDS} s, mean of {EXPIRIES}"
    yield limit(f"{what}: a process in it is gone", statistics.mean(late), 100, unit="ms", note=f"max {max(late):.1f}")
    if peer is None:
        yield LeftOut(f"{what} against {PEER}", why)
        return
    theirs_late = statistics.mean((ends[id] - due) * 1000 for id, due in theirs.items())
    yield at_most(
        what, statistics.mean(late), theirs_late, 0.1, unit="ms", peer_name=PEER,
        note="ours ends the process, theirs takes the lease off its list",
    )  # fmt: skip


# ---- many leases, many processes ----


def _many_live(directory: Path) -> Iterator[Result]:
    with _ledger(directory, devices(2 * LIVE // FULL_COMPUTE)) as ledger:
        one = _create_median(ledger, "one")
        start = time.perf_counter()
        for number in range(LIVE):
            ledger.grant(request(f"l{number}", device=number % (2 * LIVE // FULL_COMPUTE)))
        took = time.perf_counter() - start
        live = len(ledger.list())
        if live != LIVE:
            raise AssertionError(f"{live} leases are live, not {LIVE}")
        many = _create_median(ledger, "many")
    what = f"lease create beside {LIVE:,} live leases, median of 200"
    yield at_most(
        what, many, one, 1.5, unit="ms", peer_name="beside none", note=f"all granted in {took:.1f} s, one by one"
    )


def _create_median(ledger: Ledger, prefix: str) -> float:
    times = []
    for number in range(200):
        start = time.perf_counter()
        ledger.grant(request(f"{prefix}{number}"))
        times.append((time.perf_counter() - start) * 1000)
        ledger.release(f"{prefix}{number}")
    return statistics.median(times)


def _many_processes(directory: Path) -> Iterator[Result]:
    """Each process grants and releases in a loop; at every moment, what they hold at once must fit."""
    context = multiprocessing.get_context("spawn")
    with _ledger(directory) as ledger:
        ledger.devices()
        rates, most, refused = [], 0, 0
        for number in range(ROUNDS):
            barrier, answers = context.Barrier(PROCESSES), context.Queue()
            workers = [
                context.Process(target=_worker, args=(directory, f"{number}-{worker}", barrier, answers))
                for worker in range(PROCESSES)
            ]
            for worker in workers:
                worker.start()
            told = [answers.get(timeout=120) for _ in workers]
            for worker in workers:
                worker.join()
            held = [interval for intervals, _ in told for interval in intervals]
            rates.append(len(held) / (max(end for _, end in held) - min(start for start, _ in held)))
            most = max(most, _most_at_once(held))
            refused += sum(count for _, count in told)
    what = f"grants with their releases a second, {PROCESSES} processes, one device"
    note = f"up to {most} of at most {HOLDERS} shares held at once; {refused} more were refused"
    yield at_least(what, statistics.median(rates), 2000, 1, unit="pairs/s", peer_name="goal", note=note)
    yield limit("shares held at once over those that fit", most, HOLDERS, unit="shares")


def _worker(directory: Path, name: str, barrier: Any, answers: Any) -> None:
    """Tells when it surely held a share: from after the grant to before the release."""
    ledger = Ledger(directory / "chronos", discover=devices)
    ledger.list()
    memory = (1 << 40) // HOLDERS
    intervals: list[tuple[float, float]] = []
    refused = 0
    barrier.wait(60)
    while len(intervals) < PAIRS:
        id = f"{name}-{len(intervals)}-{refused}"
        try:
            ledger.grant(request(id, memory=memory))
        except InsufficientShare:
            refused += 1
            time.sleep(HELD_SECONDS)
            continue
        granted = time.monotonic()
        time.sleep(HELD_SECONDS)
        released = time.monotonic()
        ledger.release(id)
        intervals.append((granted, released))
    ledger.close()
    answers.put((intervals, refused))


def _most_at_once(intervals: list[tuple[float, float]]) -> int:
    changes = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


# ---- allocating, counted ----


def _allocation(directory: Path) -> Iterator[Result]:
    gpu, (counter, why) = _gpu(), cuda_counter.find()
    if gpu is None or counter is None:
        yield LeftOut("allocating CUDA memory in a lease, counted", why if gpu else "there is no NVIDIA GPU")
        return
    with _ledger(directory, [gpu]) as ledger:
        lease = ledger.grant(request("fifth", memory=gpu.memory_bytes // 5, compute=FULL_COMPUTE))
        same = variables.of_lease(lease, gpu)
        held = cuda_counter.CudaCounter().environment(lease, gpu, ledger.home)
        try:
            bare, counted = allocation_costs(same, same | held)
        finally:
            enforce.forget(lease.id, gpu, ledger.home)
            ledger.release(lease.id)
    for what, without in bare.items():
        yield at_most(f"{what}, counted", counted[what], without + 1, 1.1, unit="us", peer_name="not counted, and 1 us")


def allocation_costs(*environments: dict[str, str]) -> list[dict[str, float]]:
    """For each environment microseconds of an allocation with its free: the least of several turns of two programs."""
    started = [*enumerate(environments), *reversed([*enumerate(environments)])]
    programs = [(index, _program(ALLOCATION, held)) for index, held in started]
    least: list[dict[str, float]] = [{} for _ in environments]
    try:
        for _ in range(TURNS):
            for index, program in programs:
                for what, cost in _asked(program).items():
                    least[index][what] = min(cost, least[index].get(what, cost))
    finally:
        for _, program in programs:
            program.kill()
            program.communicate()
    return least


# ---- throughput ----


def _throughput(directory: Path) -> Iterator[Result]:
    names = ("bf16 matrix product of 8192³", "memory-bound kernel")
    gpu = _gpu()
    why = "there is no NVIDIA GPU" if gpu is None else "PyTorch is not installed" if not _has("torch") else ""
    if gpu is None or why:
        yield from (LeftOut(f"{name}, in a lease of the whole GPU", why) for name in names)
        return
    with _ledger(directory, [gpu]) as ledger:
        lease = ledger.grant(request("all", memory=gpu.memory_bytes, compute=FULL_COMPUTE))
        held = variables.of_lease(lease, gpu) | enforce.environment(lease, gpu, ledger.home)
        try:
            bare, leased = in_turn({}, held)
        finally:
            enforce.forget(lease.id, gpu, ledger.home)
            Mps("shared").stop(ledger.home)
            ledger.release(lease.id)
    for index, name in enumerate(names):
        without, within = (statistics.median(rates[index] for rates in side) for side in (bare, leased))
        unit = ("TFLOP/s", "TB/s")[index]
        what = f"{name}, in a lease of the whole GPU, {SLICES} slices in turn, median"
        yield at_least(what, within, without, 0.99, unit=unit, peer_name="no lease")


def in_turn(*environments: dict[str, str]) -> list[list[list[float]]]:
    """For each environment the rates of its program, slice by slice: all live at once, and one at a time works."""
    programs = [_program(THROUGHPUT, held) for held in environments]
    rates: list[list[list[float]]] = [[] for _ in programs]
    try:
        for number in range(WARM_SLICES + SLICES):
            # Who begins alternates.
            for index in range(len(programs))[:: -1 if number % 2 else 1]:
                rates[index].append(_asked(programs[index]))
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    return [side[WARM_SLICES:] for side in rates]


# ---- common ----


def _gpu() -> Device | None:
    return next((device for device in discover() if device.type == "gpu" and device.vendor.startswith("NVIDIA")), None)


def _program(code: str, held: dict[str, str]) -> subprocess.Popen[bytes]:
    """Answers each line with one of JSON."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=variables.merge(os.environ, held), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    )  # fmt: skip


def _asked(program: subprocess.Popen[bytes]) -> Any:
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(b"go\n")
    return json.loads(program.stdout.readline())


class _ledger:
    """A ledger in the directory while the block lasts, and with it the monitor that it starts."""

    def __init__(self, directory: Path, offered: list[Device] | None = None) -> None:
        self._home = directory / "chronos"
        self._ledger = Ledger(self._home, discover=lambda: offered or devices())

    def __enter__(self) -> Ledger:
        return self._ledger

    def __exit__(self, *_: object) -> None:
        self._ledger.close()
        until(lambda: stopped(self._home), seconds=30, what="the monitor stops")


@contextmanager
def _quiet() -> Iterator[None]:
    """The peer prints what it does."""
    sys.stdout.flush()
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


def _peer() -> tuple[Any, str]:
    """The peer's Partitioner, or None and why."""
    try:
        return importlib.import_module("chronos").Partitioner(), ""
    except ModuleNotFoundError:
        return None, f"{PEER} is not installed"
    except Exception as error:
        return None, f"{PEER} does not run here: {' '.join(str(error).split())[:120]}"


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def main() -> int:
    print(f"on {machine()}", flush=True)
    with suppress(FileNotFoundError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        subprocess.run(query, check=False)
    return report.shown(run())


if __name__ == "__main__":
    sys.exit(main())
