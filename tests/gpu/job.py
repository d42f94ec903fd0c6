"""The job that the GPU tests run: CUDA's driver interface through ctypes, so that a start takes a fraction of a second.

    python job.py alloc KIND BYTES [KIND BYTES …]   allocate, say how each went, hold until stdin closes;
                                                     to each line from there, say whether the device still works
    python job.py hold BYTES SECONDS                 allocate, say how it went, hold
    python job.py spin SECONDS                       keep the multiprocessors busy, say how many blocks a second
    python job.py fault                              write to an illegal address

Prints one JSON object a line. KIND: device (cuMemAlloc), async (cuMemAllocAsync), vmm (cuMemCreate), managed, host.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

BLOCKS = 132 * 64
PTX = b""".version 7.0
.target sm_70
.address_size 64
.visible .entry spin(.param .u64 out, .param .u32 rounds) {
  .reg .pred %p; .reg .f32 %f<5>; .reg .u32 %r<3>; .reg .u64 %rd<2>;
  ld.param.u64 %rd0, [out];
  ld.param.u32 %r0, [rounds];
  mov.f32 %f0, 0f3F800000; mov.f32 %f1, 0f3F800001; mov.f32 %f2, 0f3F800002; mov.f32 %f3, 0f3F800003;
  mov.u32 %r1, 0;
again:
  fma.rn.f32 %f0, %f0, %f1, %f2; fma.rn.f32 %f1, %f1, %f2, %f3;
  fma.rn.f32 %f2, %f2, %f3, %f0; fma.rn.f32 %f3, %f3, %f0, %f1;
  add.u32 %r1, %r1, 1;
  setp.lt.u32 %p, %r1, %r0;
  @%p bra again;
  st.global.f32 [%rd0], %f3;
  ret;
}
"""


class Cuda:
    """One context on a device of those visible: JOB_DEVICE, or the first."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libcuda.so.1")
        self.device = ctypes.c_int()
        context = ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(self.device), int(os.environ.get("JOB_DEVICE", "0")))
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self.call("cuCtxSetCurrent", context)

    def status(self, name: str, *arguments: Any) -> int:
        return int(getattr(self.lib, name)(*arguments))

    def call(self, name: str, *arguments: Any) -> None:
        code = self.status(name, *arguments)
        if code:
            say({"failed": name, "error": self.error(code)})
            raise SystemExit(1)

    def error(self, code: int) -> str:
        text = ctypes.c_char_p()
        self.lib.cuGetErrorName(code, ctypes.byref(text))
        return (text.value or str(code).encode()).decode()

    def memory(self) -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def multiprocessors(self) -> int:
        count = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(count), 16, self.device)
        return count.value

    def works(self) -> bool:
        """Whether the device still does what this program asks."""
        pointer = ctypes.c_uint64()
        return not (
            self.status("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(4096))
            or self.status("cuMemsetD8_v2", pointer, 1, ctypes.c_size_t(4096))
            or self.status("cuCtxSynchronize")
        )

    def allocate(self, kind: str, size: int) -> str:
        """`ok` or the driver's name of the error."""
        pointer, bytes_ = ctypes.c_uint64(), ctypes.c_size_t(size)
        if kind == "device":
            code = self.status("cuMemAlloc_v2", ctypes.byref(pointer), bytes_)
        elif kind == "async":
            code = self.status("cuMemAllocAsync", ctypes.byref(pointer), bytes_, None) or self.status(
                "cuCtxSynchronize"
            )
        elif kind == "managed":
            code = self.status("cuMemAllocManaged", ctypes.byref(pointer), bytes_, 1)
            code = code or self.status("cuMemsetD8_v2", pointer, 1, bytes_) or self.status("cuCtxSynchronize")
        elif kind == "host":
            code = self.status("cuMemAllocHost_v2", ctypes.byref(pointer), bytes_)
        elif kind == "vmm":
            # CUmemAllocationProp: type pinned, no handle types, location device 0, nothing else.
            properties = (ctypes.c_int * 8)(1, 0, 1, 0, 0, 0, 0, 0)
            code = self.status("cuMemCreate", ctypes.byref(pointer), bytes_, properties, ctypes.c_uint64(0))
        else:
            raise SystemExit(f"unknown kind {kind}")
        return self.error(code) if code else "ok"

    def spin(self, seconds: float) -> float:
        """Blocks of a fixed length of work a second: proportional to the multiprocessors that the job gets."""
        module, kernel, out = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
        self.call("cuModuleLoadData", ctypes.byref(module), PTX)
        self.call("cuModuleGetFunction", ctypes.byref(kernel), module, b"spin")
        self.call("cuMemAlloc_v2", ctypes.byref(out), ctypes.c_size_t(4))
        rounds = ctypes.c_uint32(2000)
        arguments = (ctypes.c_void_p * 2)(ctypes.addressof(out), ctypes.addressof(rounds))

        def launch() -> None:
            self.call("cuLaunchKernel", kernel, BLOCKS, 1, 1, 256, 1, 1, 0, None, arguments, None)

        for _ in range(20):
            launch()
        self.call("cuCtxSynchronize")
        say({"ready": True})
        sys.stdin.readline()
        blocks, start = 0, time.monotonic()
        while time.monotonic() - start < seconds:
            for _ in range(4):
                launch()
            self.call("cuCtxSynchronize")
            blocks += 4 * BLOCKS
        return blocks / (time.monotonic() - start)


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main(verb: str, *rest: str) -> None:
    if os.environ.get("JOB_UID"):
        os.setuid(int(os.environ["JOB_UID"]))
    cuda = Cuda()
    if verb == "alloc":
        for kind, size in zip(rest[::2], rest[1::2], strict=True):
            outcome = cuda.allocate(kind, int(size))
            free, total = cuda.memory() if outcome == "ok" else (0, 0)
            say({"kind": kind, "bytes": int(size), "outcome": outcome, "free": free, "total": total})
        for _ in sys.stdin:
            say({"alive": cuda.works()})
    elif verb == "hold":
        say({"outcome": cuda.allocate("device", int(rest[0]))})
        time.sleep(float(rest[1]))
    elif verb == "spin":
        rate = cuda.spin(float(rest[0]))
        say({"blocks_per_second": rate, "multiprocessors": cuda.multiprocessors()})
    elif verb == "fault":
        module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
        cuda.call("cuModuleLoadData", ctypes.byref(module), PTX)
        cuda.call("cuModuleGetFunction", ctypes.byref(kernel), module, b"spin")
        bad, rounds = ctypes.c_uint64(0x7000000000000000), ctypes.c_uint32(1)
        arguments = (ctypes.c_void_p * 2)(ctypes.addressof(bad), ctypes.addressof(rounds))
        cuda.call("cuLaunchKernel", kernel, 1, 1, 1, 32, 1, 1, 0, None, arguments, None)
        say({"fault": cuda.error(cuda.status("cuCtxSynchronize"))})


if __name__ == "__main__":
    main(*sys.argv[1:])
