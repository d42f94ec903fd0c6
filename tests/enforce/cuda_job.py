"""The job that the tests of the CUDA counter run: the driver's functions through ctypes, told what to do by lines of
JSON.

    {"call": NAME, "arguments": [...]}    of the integers given; "out" in an argument's place: a variable that it writes
    {"find": NAME, "version": N}          calls of that name go to what cuGetProcAddress gives from now on
    {"threads": N, "rounds": N}           allocate and free at once
    {"fuzz": SEED, "steps": N}            random calls; answers with what the driver holds in the end
    {"fork": true}                        a child allocates what it can and ends; {"held": true}: what the driver holds

Each answer is one line: {"error": code, "out": [...]}.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import threading
from typing import Any

driver = ctypes.CDLL("libcuda.so.1")
functions: dict[str, Any] = {}
MIB = 2**20
WAYS: dict[str, list[Any]] = {
    "device": ["cuMemAlloc_v2"],
    "async": ["cuMemAllocAsync", None],
    "managed": ["cuMemAllocManaged", 1],
    "vmm": ["cuMemCreate", {"ints": [1, 0, 1, 0, 0, 0, 0, 0]}, 0],
    "array": ["cuArrayCreate_v2"],
}


class Array(ctypes.Structure):
    _fields_ = [("sizes", ctypes.c_size_t * 2), ("format", ctypes.c_int), ("channels", ctypes.c_uint)]


class Ipc(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * 64)]


def function(name: str) -> Any:
    return functions.get(name) or getattr(library(name), name)


def library(name: str) -> Any:
    return ctypes.CDLL("libnvidia-ml.so.1") if name.startswith("nvml") else driver


def call(name: str, *arguments: Any) -> tuple[int, list[Any]]:
    made: list[Any] = []
    given: list[Any] = []
    for argument in arguments:
        if argument == "out":
            made.append(ctypes.c_uint64())
            given.append(ctypes.byref(made[-1]))
        elif isinstance(argument, list):  # two sizes, a format, channels
            given.append(ctypes.byref(Array((ctypes.c_size_t * 2)(*argument[:2]), *argument[2:])))
        elif isinstance(argument, str):
            given.append(Ipc(argument.encode()))
        elif isinstance(argument, dict):  # {"ints": [...]}: a structure of ints; {"bytes": N}: room for an answer
            room = (ctypes.c_int * len(argument["ints"]))(*argument["ints"]) if "ints" in argument else None
            room = room or (ctypes.c_uint64 * (argument["bytes"] // 8))()
            if "bytes" in argument:
                made.append(room)
            given.append(room)
        else:
            given.append(None if argument is None else ctypes.c_uint64(argument))
    code = function(name)(*given)
    return code, [list(one) if hasattr(one, "__len__") else one.value for one in made]


def start(device: int = 0) -> None:
    _, (context,) = call("cuDevicePrimaryCtxRetain", "out", device)
    call("cuCtxSetCurrent", context)


def held() -> int:
    driver.standin_held.restype = ctypes.c_uint64
    return int(driver.standin_held(0))


def find(name: str, version: int, flags: int = 0, way: str = "cuGetProcAddress_v2") -> int:
    pointer = ctypes.c_void_p()
    more = [None] if way.endswith("_v2") else []
    code = getattr(driver, way)(name.encode(), ctypes.byref(pointer), version, ctypes.c_uint64(flags), *more)
    if code == 0 and pointer.value:
        functions[name] = ctypes.CFUNCTYPE(ctypes.c_int)(pointer.value)
    return int(code)


def churn(rounds: int) -> None:
    start()
    for _ in range(rounds):
        code, (pointer,) = call("cuMemAlloc_v2", "out", 4096)
        other, (pooled,) = call("cuMemAllocAsync", "out", 4096, None)
        if code == 0:
            call("cuMemFree_v2", pointer)
        if other == 0:
            call("cuMemFreeAsync", pooled, None)


def fuzz(seed: int, steps: int) -> None:
    choose = random.Random(seed)
    mine: list[tuple[str, int]] = []
    mapped = 1 << 40
    for _ in range(steps):
        what = choose.choice([*WAYS, "free", "free", "free", "wait"])
        size = choose.randrange(1, 64) * 65536
        if what == "free" and mine:
            kind, key = mine.pop(choose.randrange(len(mine)))
            if kind == "vmm" and choose.random() < 0.5:
                call("cuMemMap", mapped, MIB, 0, key, 0)
                call("cuMemRelease", key)
                _, (again,) = call("cuMemRetainAllocationHandle", "out", mapped)
                call("cuMemUnmap", mapped - MIB, 2 * MIB)
                call("cuMemRelease", again)
                mapped += 4 * MIB
            else:
                name = {"async": "cuMemFreeAsync", "vmm": "cuMemRelease", "array": "cuArrayDestroy"}
                call(name.get(kind, "cuMemFree_v2"), key, *([None] if kind == "async" else []))
            continue
        if what == "wait":
            call("cuCtxSynchronize")
            continue
        if what == "free":
            continue
        name, *rest = WAYS[what]
        asked = [[size // 8, 2, 0x20, 1]] if what == "array" else [size, *rest]
        code, (key,) = call(name, "out", *asked)
        if code == 0:
            mine.append((what, key))
    call("cuCtxSynchronize")


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    if "call" in asked:
        code, out = call(asked["call"], *asked.get("arguments", ()))
        return {"error": code, "out": out}
    if "find" in asked:
        return {
            "error": find(
                asked["find"], asked["version"], asked.get("flags", 0), asked.get("way", "cuGetProcAddress_v2")
            )
        }
    if "threads" in asked:
        threads = [threading.Thread(target=churn, args=(asked["rounds"],)) for _ in range(asked["threads"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        call("cuCtxSynchronize")
    if "fuzz" in asked:
        fuzz(asked["fuzz"], asked["steps"])
    if "fork" in asked:
        child = os.fork()
        if child == 0:
            code, (pointer,) = call("cuMemAlloc_v2", "out", asked["fork"])
            if code == 0:
                call("cuMemFree_v2", pointer)
            os._exit(code)
        return {"error": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "held": held()}
    return {"error": 0, "held": held()}


start(int(os.environ.get("JOB_DEVICE", "0")))
print(json.dumps({"pid": os.getpid()}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
