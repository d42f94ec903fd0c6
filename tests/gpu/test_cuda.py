"""CUDA jobs inside leases, held by MPS and the frameworks' own limits."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest

from benchmarks.gpu import in_turn
from cumulus.chronos.contract import Device
from cumulus.chronos.contract.variables import MPS_MODE, selection
from cumulus.chronos.device import discover
from cumulus.chronos.enforce import strength
from cumulus.resources.enforcement import Enforcement

from .conftest import FITS, GIB, HUGE, Node, memory_used, until

Measured = Callable[[str, object], None]
REFUSED = "CUDA_ERROR_OUT_OF_MEMORY"

TRY = """
import json, sys
def attempt(size):
    try:
        {allocate}
        return "ok"
    except Exception as error:
        refused = any(text in str(error) + type(error).__name__ for text in ("OutOfMemory", "RESOURCE_EXHAUSTED"))
        return "refused" if refused else repr(error)
{imports}
print(json.dumps([attempt(int(size)) for size in sys.argv[1:]]))
"""
TORCH = TRY.format(imports="import torch", allocate="torch.empty(size, dtype=torch.uint8, device='cuda')")
JAX = TRY.format(imports="import jax.numpy", allocate="jax.numpy.zeros(size, jax.numpy.uint8).block_until_ready()")
CUPY = TRY.format(imports="import cupy", allocate="cupy.empty(size, dtype=cupy.uint8)")

FILL = """
import json, os
held = []
size = int(os.environ["CHRONOS_MEMORY_BYTES"]) // 20
def fill():
    while len(held) < 40:
        held.append({allocate})
{imports}
try:
    fill()
    outcome = "never refused"
except Exception as error:
    named = any(text in str(error) + type(error).__name__ for text in ("OutOfMemory", "RESOURCE_EXHAUSTED"))
    outcome = "refused" if named else repr(error)
print(json.dumps([len(held), outcome]))
"""
"""Takes a twentieth of the lease after another until its framework refuses."""


def test_the_node_reports_guarded_with_mps_and_the_layer(node: Node) -> None:
    report = strength(node.gpu, node.home)
    assert report.enforcement is Enforcement.GUARDED, report


@pytest.mark.parametrize("kind", ["device", "async", "vmm", "managed"])
def test_a_quarter_of_the_memory_in_a_lease_of_5_percent_is_refused(node: Node, kind: str) -> None:
    lease = node.lease("small", 0.05)
    assert node.outcome(kind, node.part(HUGE), **lease) == REFUSED
    assert node.outcome(kind, node.part(FITS), **lease) == "ok"


def test_a_quarter_of_the_memory_in_a_lease_of_5_percent_is_refused_under_pytorch(node: Node) -> None:
    lease = node.lease("small", 0.05)
    del lease["PYTHONPATH"]  # by MPS, without the hook
    assert node.python(TORCH, node.part(HUGE), node.part(FITS), **lease).line() == ["refused", "ok"]


@pytest.mark.parametrize(
    ("name", "code"), [("torch", TORCH), ("jax", JAX), ("cupy", CUPY)], ids=["torch", "jax", "cupy"]
)
def test_the_frameworks_keep_within_the_lease_without_mps(node: Node, name: str, code: str) -> None:
    pytest.importorskip(name)
    lease = node.lease("small", 0.05)
    held = {name: value for name, value in lease.items() if not name.startswith("CUDA_MPS_")}
    program = node.python(code, node.part(HUGE), node.part(FITS), **held)
    assert program.line() == ["refused", "ok"]


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize(
    ("name", "allocate"),
    [
        ("torch", "torch.empty(size, dtype=torch.uint8, device='cuda')"),
        ("jax", "jax.numpy.zeros(size, jax.numpy.uint8).block_until_ready()"),
        ("cupy", "cupy.empty(size, dtype=cupy.uint8)"),
    ],
)
def test_a_framework_fills_its_lease_and_then_raises_its_own_error(
    node: Node, name: str, allocate: str, share: float
) -> None:
    """With MPS, so that the context must fit beside the pool: at the pool's end the driver still has room."""
    pytest.importorskip(name)
    code = FILL.format(imports="import jax.numpy" if name == "jax" else f"import {name}", allocate=allocate)
    held, outcome = node.python(code, **node.lease("full", share)).line()
    assert outcome == "refused"
    assert 13 <= held < 20


def test_without_a_lease_a_quarter_of_the_memory_is_granted(node: Node) -> None:
    """The other side of the tests above: it is the lease that refuses."""
    assert node.outcome("device", node.part(HUGE)) == "ok"


def test_two_leases_of_50_percent_run_at_once_without_touching_each_other(
    node: Node, full_rate: float, measured: Measured
) -> None:
    one, other = node.lease("one", 0.5), node.lease("other", 0.5)
    size = int(node.gpu.memory_bytes * 0.45)
    held = [node.cuda("alloc", "device", size, "device", size, **lease) for lease in (one, other)]
    assert [[program.line()["outcome"] for _ in "12"] for program in held] == [["ok", REFUSED]] * 2
    assert all(program.alive() for program in held)
    for program in held:
        program.kill()
    rates = node.rates(one, other)
    measured("two leases of 50 % at once, part of the GPU's rate", [f"{rate / full_rate:.3f}" for rate in rates])
    for rate in rates:
        assert rate == pytest.approx(full_rate / 2, rel=0.15)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_the_compute_share_is_within_15_percent_of_the_ask(
    node: Node, full_rate: float, share: float, measured: Measured
) -> None:
    (rate,) = node.rates(node.lease("part", share))
    measured(f"lease of {share:.0%} alone, part of the GPU's rate", f"{rate / full_rate:.3f}")
    assert rate == pytest.approx(full_rate * share, rel=0.15)


def test_unequal_leases_get_unequal_parts_at_once(node: Node, full_rate: float, measured: Measured) -> None:
    large, small = node.rates(node.lease("large", 0.75), node.lease("small", 0.25))
    measured("leases of 75 % and 25 % at once", f"{large / full_rate:.3f} {small / full_rate:.3f}")
    assert large == pytest.approx(full_rate * 0.75, rel=0.15)
    assert small == pytest.approx(full_rate * 0.25, rel=0.15)


def test_a_lease_of_the_whole_gpu_costs_next_to_nothing(node: Node, measured: Measured) -> None:
    bare, leased = in_turn({}, node.lease("all", 1.0))
    (matrix, memory), (leased_matrix, leased_memory) = (
        [median(rates) for rates in zip(*side, strict=True)] for side in (bare, leased)
    )
    measured("bf16 matrix product, TFLOP/s without and with a lease", f"{matrix:.0f} {leased_matrix:.0f}")
    measured("memory-bound kernel, TB/s without and with a lease", f"{memory:.3f} {leased_memory:.3f}")
    assert leased_matrix > 0.98 * matrix
    assert leased_memory > 0.98 * memory


def test_memory_is_free_again_when_a_job_is_killed(node: Node, measured: Measured) -> None:
    program = node.cuda("alloc", "device", node.part(HUGE), **node.lease("half", 0.5))
    assert program.line()["outcome"] == "ok"
    assert memory_used(node.gpu) > node.part(HUGE)
    program.process.kill()
    took = until(lambda: memory_used(node.gpu) < GIB, 5.0)
    measured("SIGKILL to memory free, s", f"{took:.3f}")


def test_the_gpu_is_device_0_and_joined_with_its_opencl_device(
    gpu: Device, nvidia_opencl: dict[str, str], monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    assert gpu.index == 0
    pytest.importorskip("pyopencl")
    monkeypatch.setenv("OCL_ICD_VENDORS", nvidia_opencl["OCL_ICD_VENDORS"])
    (found,) = [device for device in discover() if device.id == gpu.id]
    measured("OpenCL numbers of the GPU", (found.platform_index, found.device_index))
    assert found.platform_index >= 0
    assert found.device_index == 0
    expected = {"CUDA_VISIBLE_DEVICES": gpu.id, "PYOPENCL_CTX": f"{found.platform_index}:0"}
    assert expected.items() <= selection([(found.id, found.platform_index, found.device_index)]).items()


def test_isolated_leases_are_limited_and_bound_by_the_daemon(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MPS_MODE, "isolated")
    lease = node.lease("isolated", 0.05)
    assert node.outcome("device", node.part(HUGE), **lease) == REFUSED
    assert node.outcome("device", node.part(FITS), **lease) == "ok"
