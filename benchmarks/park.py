"""`python -m benchmarks.park [GIB…]`: how long a lease takes to be parked and to come back, by size, beside a bare copy
of the same bytes between the GPU and pinned main memory. For a machine with an NVIDIA GPU of its own, as root.

The goal is 0.7 of the bare copy where main memory is warm. docs/parking.md has what was measured: coming back misses it
by far, since the driver itself does.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import LeftOut, Result, at_least
from cumulus.chronos import enforce
from cumulus.chronos.contract import Device, Lease, LeaseRequest, LeaseState, variables
from cumulus.chronos.device import discover
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.parking.driver import CheckpointDriver
from cumulus.chronos.parking.self_test import SelfTest
from cumulus.resources.enforcement import Sharing

GIB = 2**30
SIZES = (1, 4, 20)
GOAL = 0.7
ROUNDS = 3
LOCK_MILLISECONDS = 10_000
SPARE = 2 * GIB
"""Of a lease, for the context."""

LEASE_SECONDS = 900.0
WAIT_SECONDS = 300.0


class Cuda:
    """One context on the first visible device."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self.lib, name)(*arguments):
            raise SystemExit(f"{name} answers {code}")

    def hold(self, size: int) -> ctypes.c_uint64:
        pointer = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        self.call("cuMemsetD8_v2", pointer, ctypes.c_ubyte(7), ctypes.c_size_t(size))
        self.call("cuCtxSynchronize")
        return pointer

    def copies(self, size: int) -> tuple[float, float]:
        """Seconds to pinned main memory, which is made for it, and back."""
        pointer, host = self.hold(size), ctypes.c_void_p()
        began = time.perf_counter()
        self.call("cuMemAllocHost_v2", ctypes.byref(host), ctypes.c_size_t(size))
        self.call("cuMemcpyDtoH_v2", host, pointer, ctypes.c_size_t(size))
        there = time.perf_counter() - began
        began = time.perf_counter()
        self.call("cuMemcpyHtoD_v2", pointer, host, ctypes.c_size_t(size))
        self.call("cuCtxSynchronize")
        return there, time.perf_counter() - began


def program(words: Sequence[str]) -> None:
    """`copy BYTES`: the bare copies. `hold BYTES`: hold so many until the input ends."""
    what, size = words[0], int(words[1])
    cuda = Cuda()
    if what == "copy":
        print(json.dumps([cuda.copies(size) for _ in range(ROUNDS)]), flush=True)
        return
    cuda.hold(size)
    print(json.dumps("held"), flush=True)
    sys.stdin.read()


def results(sizes: Sequence[int]) -> Iterator[Result]:
    gpus = [device for device in discover() if device.type == "gpu" and "nvidia" in device.vendor.lower()]
    if not gpus:
        yield LeftOut("parking", "there is no NVIDIA GPU here")
        return
    with tempfile.TemporaryDirectory() as home:
        ledger = Ledger(Path(home) / "chronos")
        device = next(each for each in ledger.devices() if each.id == gpus[0].id)
        shown = SelfTest(ledger, device).run("cuda")
        if shown is None or not shown.holds:
            yield LeftOut("parking", shown.message if shown else "a plain program does not run")
            return
        for size in sizes:
            yield from _size(ledger, device, size * GIB)
        ledger.close()


def _size(ledger: Ledger, device: Device, size: int) -> Iterator[Result]:
    bare = json.loads(_run(["copy", str(size)], {"CUDA_VISIBLE_DEVICES": device.id}).communicate()[0])
    there, back = (min(each[way] for each in bare) for way in (0, 1))
    alone = _driver_alone(device, size)
    request = LeaseRequest(
        f"bench-{size}", device.index, size + SPARE, 100, LEASE_SECONDS, grace=0.0, sharing=Sharing.PARKABLE
    )
    lease = ledger.grant(request)
    holder = _run(["hold", str(size)], {**variables.of_lease(lease, device), **_held(ledger, lease, device)})
    ledger.attach(lease.id, holder.pid, lease.token)
    assert holder.stdout is not None
    holder.stdout.readline()
    took: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        parked = _moved(ledger, ledger.park(lease.id, LEASE_SECONDS), LeaseState.PARKED)
        returned = _moved(ledger, ledger.unpark(lease.id, LEASE_SECONDS), LeaseState.ACTIVE)
        took.append((parked.moved_in, returned.moved_in))
    holder.kill()
    holder.wait()
    ledger.release(lease.id)
    for way, name, other in ((0, "park", there), (1, "unpark", back)):
        least, driver = min(each[way] for each in took), min(each[way] for each in alone)
        what, note = f"{name} {size // GIB} GiB", f"{least:.2f} s, the driver alone {driver:.2f} s"
        yield at_least(
            what, size / GIB / least, size / GIB / other, GOAL, unit="GiB/s", peer_name="pinned copy", note=note
        )


def _driver_alone(device: Device, size: int) -> list[tuple[float, float]]:
    """Seconds of the driver's own functions, called for a program without a lease: lock and move, restore and
    unlock."""
    holder, driver, took = _run(["hold", str(size)], {"CUDA_VISIBLE_DEVICES": device.id}), CheckpointDriver(), []
    assert holder.stdout is not None
    holder.stdout.readline()
    for _ in range(ROUNDS):
        marks = [time.perf_counter()]
        for code in (driver.lock(holder.pid, LOCK_MILLISECONDS), driver.checkpoint(holder.pid)):
            assert code == 0, f"the driver answers {code}"
        marks.append(time.perf_counter())
        for code in (driver.restore(holder.pid), driver.unlock(holder.pid)):
            assert code == 0, f"the driver answers {code}"
        took.append((marks[1] - marks[0], time.perf_counter() - marks[1]))
    holder.kill()
    holder.wait()
    return took


def _held(ledger: Ledger, lease: Lease, device: Device) -> dict[str, str]:
    return {**enforce.environment(lease, device, ledger.home), variables.HOME: str(ledger.home)}


def _run(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.park", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=variables.merge(os.environ, environment),
    )  # fmt: skip


def _moved(ledger: Ledger, lease: Lease, wanted: LeaseState) -> Lease:
    deadline = time.monotonic() + WAIT_SECONDS
    while lease.state in (LeaseState.PARKING, LeaseState.UNPARKING) and time.monotonic() < deadline:
        time.sleep(0.01)
        lease = ledger.get(lease.id) or lease
    if lease.state is not wanted:
        raise SystemExit(f"the lease is {lease.state}: {lease.park_refused or lease.end_reason}")
    return lease


def main(words: Sequence[str]) -> int:
    if words[:1] in (["copy"], ["hold"]):
        program(words)
        return 0
    met = True
    for result in results([int(word) for word in words] or SIZES):
        print(report.line(result), flush=True)
        met &= isinstance(result, LeftOut) or result.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
