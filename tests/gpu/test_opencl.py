"""OpenCL jobs inside leases, held by the layer, on NVIDIA's driver."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cumulus.chronos.contract import Lease, LeaseState
from cumulus.chronos.contract.variables import MPS_MODE
from cumulus.chronos.enforce import account

from .conftest import FITS, HUGE, Node, Program, until

REFUSED, OUT_OF_RESOURCES, NOT_AVAILABLE = -4, -5, -2


def do(job: Program, verb: str, **arguments: Any) -> Any:
    job.tell(json.dumps({"do": verb, **arguments}))
    return job.line()


def start(node: Node, *variables: dict[str, str]) -> Program:
    job = node.opencl(**{name: value for some in variables for name, value in some.items()})
    assert job.line()["error"] == 0
    return job


def test_a_quarter_of_the_memory_in_a_lease_of_5_percent_is_refused(node: Node, nvidia_opencl: dict[str, str]) -> None:
    lease = node.lease("small", 0.05)
    job = start(node, lease, nvidia_opencl)
    limit = int(lease["CHRONOS_MEMORY_BYTES"])
    assert do(job, "info") == {"error": 0, "global": limit, "largest": limit}
    assert do(job, "buffer", size=node.part(HUGE))["error"] == REFUSED
    assert do(job, "image", type=0x10F1, width=16384, height=32768)["error"] == REFUSED
    held = do(job, "buffer", size=node.part(FITS))
    assert held["error"] == 0
    assert do(job, "svm", size=node.part(0.0375))["error"] == "NULL"
    assert do(job, "svm", size=node.part(0.0125))["error"] == 0
    assert do(job, "kernel", id=held["id"])["error"] == 0
    assert do(job, "read", id=held["id"], size=8)["data"] == "07000000" * 2


def test_processes_of_a_lease_share_its_limit_and_a_crash_gives_back(node: Node, nvidia_opencl: dict[str, str]) -> None:
    lease = node.lease("small", 0.05)
    one, other = start(node, lease, nvidia_opencl), start(node, lease, nvidia_opencl)
    size = node.part(0.0375)
    assert do(one, "buffer", size=size)["error"] == 0
    assert do(other, "buffer", size=size)["error"] == REFUSED
    one.process.kill()
    until(lambda: do(other, "buffer", size=size)["error"] == 0)


def test_two_leases_of_50_percent_do_not_touch_each_other(node: Node, nvidia_opencl: dict[str, str]) -> None:
    jobs = [start(node, node.lease(id, 0.5), nvidia_opencl) for id in ("one", "other")]
    quarter = int(node.gpu.memory_bytes * 0.22)
    for job in jobs:
        buffers = [do(job, "buffer", size=quarter) for _ in "12"]
        assert [buffer["error"] for buffer in buffers] == [0, 0]
        assert [do(job, "fill", id=buffer["id"])["error"] for buffer in buffers] == [0, 0]
        assert do(job, "buffer", size=quarter)["error"] == REFUSED


def test_after_its_end_new_work_is_refused_and_results_can_be_read(node: Node, nvidia_opencl: dict[str, str]) -> None:
    variables = node.lease("ends", 0.05)
    job = start(node, variables, nvidia_opencl)
    buffer = do(job, "buffer", size=4096)
    assert do(job, "kernel", id=buffer["id"])["error"] == 0
    size = int(variables["CHRONOS_MEMORY_BYTES"])
    lease = Lease("ends", 0, node.gpu.id, size, 50, "", 1.0, 1, LeaseState.ACTIVE, "", "", 600.0)
    account.update(replace(lease, expires_in=0.0), node.home)
    assert do(job, "kernel", id=buffer["id"])["error"] == OUT_OF_RESOURCES
    assert do(job, "buffer", size=64)["error"] == REFUSED
    assert do(job, "context")["error"] == NOT_AVAILABLE
    assert do(job, "read", id=buffer["id"], size=8) == {"error": 0, "data": "07000000" * 2}


def test_random_calls_agree_with_the_model(node: Node, nvidia_opencl: dict[str, str]) -> None:
    variables = node.lease("small", 0.05)
    limit = int(variables["CHRONOS_MEMORY_BYTES"])
    assert do(start(node, variables, nvidia_opencl), "fuzz", seed=1, steps=600, limit=limit)["error"] == 0


def test_evasion_unsetting_the_layer_works(node: Node, nvidia_opencl: dict[str, str]) -> None:
    job = start(node, node.lease("small", 0.05), nvidia_opencl, {"OPENCL_LAYERS": ""})
    buffer = do(job, "buffer", size=node.part(0.22))
    assert (buffer["error"], do(job, "fill", id=buffer["id"])["error"]) == (0, 0)


def test_beside_mps_nvidias_driver_makes_no_context_and_the_job_is_told(
    node: Node, nvidia_opencl: dict[str, str]
) -> None:
    job = node.opencl(**node.lease("small", 0.05), **{k: v for k, v in nvidia_opencl.items() if k != MPS_MODE})
    assert job.process.stdout is not None
    said = job.process.stdout.read().decode()
    assert "-9999" in said
    assert "set CHRONOS_MPS=off" in said


def test_pyopencl_runs_in_a_lease_with_mps_and_cuda_beside_it_is_still_limited(
    node: Node, nvidia_opencl: dict[str, str]
) -> None:
    pytest.importorskip("pyopencl")
    variables = {**node.lease("small", 0.05), "OCL_ICD_VENDORS": nvidia_opencl["OCL_ICD_VENDORS"]}
    assert node.python(PYOPENCL % node.part(HUGE), **variables).line() == ["small", -4, 0, 2]


PYOPENCL = """
import ctypes, json, os
import pyopencl as cl
huge = %d
devices = [d for p in cl.get_platforms() for d in p.get_devices() if d.type == cl.device_type.GPU]
context = cl.Context(devices[:1])
size = "small" if devices[0].global_mem_size == int(os.environ["CHRONOS_MEMORY_BYTES"]) else "whole"
try:
    cl.Buffer(context, cl.mem_flags.READ_WRITE, huge)
    refused = 0
except cl.Error as error:
    refused = error.code
cuda, device, cuda_context, pointer = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
codes = [cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), 0)]
codes += [cuda.cuDevicePrimaryCtxRetain(ctypes.byref(cuda_context), device), cuda.cuCtxSetCurrent(cuda_context)]
print(json.dumps([size, refused, max(codes), cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(huge))]))
"""
