"""The job that the tests run inside a lease: OpenCL through ctypes and the real ICD loader, told what to do.

Each line in is a JSON object `{"do": VERB, …}`; each line out is the answer, `{"error": CODE, …}`. Standard library
only, so that it starts quickly and runs on any machine. OPENCL_LIBRARY is the loader, OPENCL_DEVICE cpu or gpu.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import time
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import partial
from typing import Any

LATE_SECONDS = 2.0
"""For so long a driver may take to delete what was released."""

USE_HOST_PTR = 1 << 3
RGBA, FLOAT = 0x10B5, 0x10DE
GLOBAL_MEM_SIZE, MAX_MEM_ALLOC_SIZE = 0x101F, 0x1010
DEVICE_TYPES = {"cpu": 2, "gpu": 4}
SOURCE = b"kernel void fill(global uint *out) { out[get_global_id(0)] = 7; }"

RETURNING_POINTERS = [
    "clCreateContext", "clCreateCommandQueue", "clCreateBuffer", "clCreateBufferWithProperties", "clCreateSubBuffer",
    "clCreateImage", "clCreateImage2D", "clCreatePipe", "clSVMAlloc", "clCreateProgramWithSource", "clCreateKernel",
    "clGetExtensionFunctionAddressForPlatform", "clEnqueueMapBuffer",
]  # fmt: skip


class ImageDesc(ctypes.Structure):
    _fields_ = [
        ("type", c_uint), ("width", c_size_t), ("height", c_size_t), ("depth", c_size_t), ("array", c_size_t),
        ("row_pitch", c_size_t), ("slice_pitch", c_size_t), ("levels", c_uint), ("samples", c_uint),
        ("object", c_void_p),
    ]  # fmt: skip


class Job:
    def __init__(self) -> None:
        self.cl = ctypes.CDLL(os.environ["OPENCL_LIBRARY"])
        for name in RETURNING_POINTERS:
            if hasattr(self.cl, name):
                getattr(self.cl, name).restype = c_void_p
        self.platform, self.device = self.find_device(DEVICE_TYPES[os.environ.get("OPENCL_DEVICE", "cpu")])
        self.objects: dict[int, int] = {}
        self.count = 0
        answer, self.context = self.create_context()
        if answer:
            raise SystemExit(json.dumps({"error": answer}))
        error = c_int()
        self.queue = self.cl.clCreateCommandQueue(c_void_p(self.context), self.device, c_uint64(0), byref(error))
        if error.value:
            raise SystemExit(json.dumps({"error": error.value}))

    def find_device(self, kind: int) -> tuple[c_void_p, c_void_p]:
        platforms, number, device = (c_void_p * 16)(), c_uint(), c_void_p()
        self.cl.clGetPlatformIDs(16, platforms, byref(number))
        for platform in platforms[: number.value]:
            if self.cl.clGetDeviceIDs(c_void_p(platform), c_uint64(kind), 1, byref(device), None) == 0:
                return c_void_p(platform), device
        raise SystemExit(json.dumps({"error": "no device"}))

    def create_context(self) -> tuple[int, int]:
        error = c_int()
        context = self.cl.clCreateContext(None, 1, byref(self.device), None, None, byref(error))
        return error.value, context

    def keep(self, pointer: int | None, error: int) -> dict[str, Any]:
        if not pointer:
            return {"error": error or "NULL"}
        self.count += 1
        self.objects[self.count] = pointer
        return {"error": error, "id": self.count}

    def object(self, id: int) -> c_void_p:
        return c_void_p(self.objects[id])

    # ---- memory objects ----

    def do_buffer(self, size: int, host: int = 0) -> dict[str, Any]:
        error = c_int()
        flags, pointer = (USE_HOST_PTR, self.object(host)) if host else (0, None)
        made = self.cl.clCreateBuffer(c_void_p(self.context), c_uint64(flags), c_size_t(size), pointer, byref(error))
        return self.keep(made, error.value)

    def do_host_buffer(self, size: int) -> dict[str, Any]:
        """A buffer on memory of the host's own."""
        self.host = ctypes.create_string_buffer(size + 4096)
        aligned = (ctypes.addressof(self.host) + 4095) & ~4095
        error = c_int()
        made = self.cl.clCreateBuffer(
            c_void_p(self.context), c_uint64(USE_HOST_PTR), c_size_t(size), c_void_p(aligned), byref(error)
        )
        return self.keep(made, error.value)

    def do_buffer_with_properties(self, size: int) -> dict[str, Any]:
        error = c_int()
        made = self.cl.clCreateBufferWithProperties(
            c_void_p(self.context), None, c_uint64(0), c_size_t(size), None, byref(error)
        )
        return self.keep(made, error.value)

    def do_sub(self, of: int, size: int) -> dict[str, Any]:
        error, region = c_int(), (c_size_t * 2)(0, size)
        made = self.cl.clCreateSubBuffer(self.object(of), c_uint64(0), c_uint(0x1220), region, byref(error))
        return self.keep(made, error.value)

    def do_image(
        self, type: int, width: int, height: int = 0, depth: int = 0, array: int = 0, of: int = 0
    ) -> dict[str, Any]:
        error, format = c_int(), (c_uint * 2)(RGBA, FLOAT)
        desc = ImageDesc(type, width, height, depth, array, 0, 0, 0, 0, self.objects[of] if of else None)
        made = self.cl.clCreateImage(c_void_p(self.context), c_uint64(0), format, byref(desc), None, byref(error))
        return self.keep(made, error.value)

    def do_old_image(self, width: int, height: int) -> dict[str, Any]:
        error, format = c_int(), (c_uint * 2)(RGBA, FLOAT)
        made = self.cl.clCreateImage2D(
            c_void_p(self.context), c_uint64(0), format, c_size_t(width), c_size_t(height), c_size_t(0), None,
            byref(error),
        )  # fmt: skip
        return self.keep(made, error.value)

    def do_pipe(self, packet: int, packets: int) -> dict[str, Any]:
        error = c_int()
        made = self.cl.clCreatePipe(
            c_void_p(self.context), c_uint64(0), c_uint(packet), c_uint(packets), None, byref(error)
        )
        return self.keep(made, error.value)

    def do_retain(self, id: int) -> dict[str, Any]:
        return {"error": self.cl.clRetainMemObject(self.object(id))}

    def do_release(self, id: int) -> dict[str, Any]:
        return {"error": self.cl.clReleaseMemObject(self.object(id))}

    # ---- memory by pointer ----

    def do_svm(self, size: int) -> dict[str, Any]:
        return self.keep(self.cl.clSVMAlloc(c_void_p(self.context), c_uint64(1), c_size_t(size), c_uint(0)), 0)

    def do_svm_free(self, id: int) -> dict[str, Any]:
        self.cl.clSVMFree(c_void_p(self.context), self.object(id))
        return {"error": 0}

    def do_svm_free_queued(self, ids: list[int]) -> dict[str, Any]:
        pointers = (c_void_p * len(ids))(*(self.objects[id] for id in ids))
        error = self.cl.clEnqueueSVMFree(c_void_p(self.queue), len(ids), pointers, None, None, 0, None, None)
        return {"error": error or self.cl.clFinish(c_void_p(self.queue))}

    def extension(self, name: str, result: Any) -> Any:
        address = self.cl.clGetExtensionFunctionAddressForPlatform(self.platform, c_char_p(name.encode()))
        if not address:
            raise SystemExit(json.dumps({"error": f"no {name}"}))
        return ctypes.CFUNCTYPE(result)(address)

    def do_usm(self, kind: str, size: int) -> dict[str, Any]:
        error, on = c_int(), [self.device] if kind != "Host" else []
        allocate = self.extension(f"cl{kind}MemAllocINTEL", c_void_p)
        pointer = allocate(c_void_p(self.context), *on, None, c_size_t(size), c_uint(0), byref(error))
        return self.keep(pointer, error.value)

    def do_usm_free(self, id: int, blocking: bool = False) -> dict[str, Any]:
        free = self.extension("clMemBlockingFreeINTEL" if blocking else "clMemFreeINTEL", c_int)
        return {"error": free(c_void_p(self.context), self.object(id))}

    # ---- work and information ----

    def do_context(self) -> dict[str, Any]:
        return {"error": self.create_context()[0]}

    def do_queue(self) -> dict[str, Any]:
        error = c_int()
        self.cl.clCreateCommandQueue(c_void_p(self.context), self.device, c_uint64(0), byref(error))
        return {"error": error.value}

    def do_kernel(self, id: int = 0) -> dict[str, Any]:
        """Run a kernel on buffer `id`; without one, none: for a lease that has ended, where PoCL is not asked."""
        kernel = self.build(id) if id else None
        code = self.cl.clEnqueueNDRangeKernel(
            c_void_p(self.queue), kernel, 1, None, byref(c_size_t(16)), None, 0, None, None
        )
        return {"error": code or self.cl.clFinish(c_void_p(self.queue))}

    def build(self, id: int) -> c_void_p:
        error, source = c_int(), c_char_p(SOURCE)
        program = self.cl.clCreateProgramWithSource(c_void_p(self.context), 1, byref(source), None, byref(error))
        code = self.cl.clBuildProgram(c_void_p(program), 0, None, None, None, None)
        if code:
            raise SystemExit(json.dumps({"error": code}))
        kernel = c_void_p(self.cl.clCreateKernel(c_void_p(program), b"fill", byref(error)))
        self.cl.clSetKernelArg(kernel, 0, c_size_t(8), byref(self.object(id)))
        return kernel

    def do_fill(self, id: int) -> dict[str, Any]:
        pattern = c_uint(7)
        code = self.cl.clEnqueueFillBuffer(
            c_void_p(self.queue), self.object(id), byref(pattern), c_size_t(4), c_size_t(0), c_size_t(64), 0, None, None
        )
        return {"error": code or self.cl.clFinish(c_void_p(self.queue))}

    def transfer(self, function: str, id: int, data: bytes) -> dict[str, Any]:
        host = ctypes.create_string_buffer(data, len(data))
        code = getattr(self.cl, function)(
            c_void_p(self.queue), self.object(id), c_uint(1), c_size_t(0), c_size_t(len(data)), host, 0, None, None
        )
        return {"error": code, "data": host.raw.hex()}

    def do_write(self, id: int, data: str) -> dict[str, Any]:
        return self.transfer("clEnqueueWriteBuffer", id, bytes.fromhex(data))

    def do_read(self, id: int, size: int) -> dict[str, Any]:
        return self.transfer("clEnqueueReadBuffer", id, bytes(size))

    def do_map(self, id: int, size: int) -> dict[str, Any]:
        error = c_int()
        pointer = self.cl.clEnqueueMapBuffer(
            c_void_p(self.queue), self.object(id), c_uint(1), c_uint64(1), c_size_t(0), c_size_t(size), 0, None, None,
            byref(error),
        )  # fmt: skip
        if error.value:
            return {"error": error.value}
        data = ctypes.string_at(pointer, size).hex()
        self.cl.clEnqueueUnmapMemObject(c_void_p(self.queue), self.object(id), c_void_p(pointer), 0, None, None)
        return {"error": self.cl.clFinish(c_void_p(self.queue)), "data": data}

    def do_info(self) -> dict[str, Any]:
        total, largest = c_uint64(), c_uint64()
        code = self.cl.clGetDeviceInfo(self.device, c_uint(GLOBAL_MEM_SIZE), c_size_t(8), byref(total), None)
        self.cl.clGetDeviceInfo(self.device, c_uint(MAX_MEM_ALLOC_SIZE), c_size_t(8), byref(largest), None)
        return {"error": code, "global": total.value, "largest": largest.value}

    # ---- whole programs ----

    def do_fork(self, size: int, frees: int = 0) -> dict[str, Any]:
        """A child that lets go of the parent's object `frees`, takes `size` and holds it until `wait` ends it."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            if frees:
                self.do_release(frees)
            os.write(writing, json.dumps(self.do_buffer(size)).encode())
            os.close(writing)
            signal.pause()
        os.close(writing)
        answer = os.read(reading, 4096)
        os.close(reading)
        return {**json.loads(answer), "pid": child}

    def do_wait(self, pid: int) -> dict[str, Any]:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        return {"error": 0}

    def do_exec(self) -> dict[str, Any]:
        os.execv(sys.executable, [sys.executable, *sys.argv])

    def do_fuzz(self, seed: int, steps: int, limit: int) -> dict[str, Any]:
        """Random calls beside a model of what they should leave; the first difference, or none."""
        return fuzz(self, random.Random(seed), steps, limit)


def fuzz(job: Job, dice: random.Random, steps: int, limit: int) -> dict[str, Any]:
    live: dict[int, list[Any]] = {}  # id -> [kind, bytes, references held by us and by sub-buffers, parent]
    taken = late = 0
    trace: list[str] = []

    def let_go(id: int) -> None:
        nonlocal taken
        entry = live[id]
        entry[2] -= 1
        if entry[2] == 0:
            del live[id]
            taken -= entry[1]
            if entry[3]:
                let_go(entry[3])

    owned: dict[int, int] = {}  # id -> references that are ours to release
    for _ in range(steps):
        kind = dice.choice(
            ["buffer", "buffer", "properties", "image", "svm", "sub", "retain", "release", "release", "free"]
        )
        size = dice.choice([64, 4096, limit // 16, limit // 4, limit // 2, limit])
        buffers = [id for id in owned if live[id][0] == "buffer"]
        if kind in ("buffer", "properties", "image", "svm"):
            if kind == "image":
                width = max(size // 1024, 1) % 8192 + 1
                size, again = width * 64 * 16, partial(job.do_image, 0x10F1, width, 64)
            else:
                call = {"svm": job.do_svm, "buffer": job.do_buffer, "properties": job.do_buffer_with_properties}[kind]
                again = partial(call, size)
            answer = again()
            fits = taken + size <= limit
            trace.append(f"{kind} {size}: {answer['error']}")
            patience = time.monotonic() + LATE_SECONDS
            while fits and answer["error"] in (-4, "NULL") and time.monotonic() < patience:
                # The runtime has not deleted yet what was released.
                late += 1
                time.sleep(0.001)
                answer = again()
            expected = 0 if fits else "NULL" if kind == "svm" else -4
            if answer["error"] != expected:
                return {"error": f"with {taken} taken expected {expected}", "trace": trace[-20:]}
            if fits:
                taken += size
                live[answer["id"]] = ["buffer" if kind == "properties" else kind, size, 1, 0]
                owned[answer["id"]] = 1
        elif kind == "sub" and buffers:
            parent = dice.choice(buffers)
            answer = job.do_sub(parent, 64)
            if answer["error"] == 0:
                live[parent][2] += 1
                live[answer["id"]] = ["sub", 0, 1, parent]
                owned[answer["id"]] = 1
        elif kind == "retain" and buffers:
            id = dice.choice(buffers)
            job.do_retain(id)
            live[id][2] += 1
            owned[id] += 1
        elif kind in ("release", "free") and owned:
            id = dice.choice(list(owned))
            job.do_svm_free(id) if live[id][0] == "svm" else job.do_release(id)
            trace.append(f"{live[id][0]} released")
            owned[id] -= 1
            if owned[id] == 0:
                del owned[id]
            let_go(id)
    for id in list(owned):
        for _ in range(owned[id]):
            job.do_svm_free(id) if live[id][0] == "svm" else job.do_release(id)
            let_go(id)
    return {
        "error": 0,
        "left": taken,
        "late": late,
        "refused": sum(": -4" in line or ": NULL" in line for line in trace),
    }


def main() -> None:
    job = Job()
    print(json.dumps({"error": 0, "pid": os.getpid()}), flush=True)
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        print(json.dumps(getattr(job, f"do_{order.pop('do')}")(**order)), flush=True)


if __name__ == "__main__":
    main()
