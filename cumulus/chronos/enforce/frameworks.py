"""The environment that keeps PyTorch, JAX, TensorFlow and CuPy within the lease: a second line, per process.

JAX and CuPy read variables of their own. PyTorch and TensorFlow are told by `hook/sitecustomize.py`, which Python
runs at its start: PYTORCH_ALLOC_CONF knows a fraction only since 2.9, and older versions refuse to start with it.
All four get less than the lease, since CUDA's own memory must fit into it too: `hook/chronos_pool.py` says how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus.chronos.contract import Device, Health, Lease
from cumulus.chronos.enforce import cuda_counter
from cumulus.chronos.enforce.base import EnforcementReport
from cumulus.chronos.enforce.hook.chronos_pool import pool_bytes
from cumulus.resources.enforcement import Enforcement

HOOK = Path(__file__).parent / "hook"


class Frameworks:
    """Only programs that use those frameworks, and each process for itself: alone it holds nobody."""

    name = "frameworks"
    way = ""

    def covers(self, device: Device) -> bool:
        return False

    def strength(self, device: Device, home: Path) -> EnforcementReport:
        return EnforcementReport(
            Enforcement.NONE, "PyTorch, JAX, TensorFlow and CuPy are told the limit, other programs are not"
        )

    def environment(self, lease: Lease, device: Device, home: Path, user: int | None = None) -> dict[str, str]:
        if device.type != "gpu":
            return {}
        pool = pool_bytes(lease.memory_bytes)
        # Where the counter answers, what JAX takes a fraction of is the lease.
        counted = cuda_counter.CudaCounter().covers(device) and cuda_counter.find()[0] is not None
        whole = lease.memory_bytes if counted else device.memory_bytes
        return {
            "PYTHONPATH": str(HOOK),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{_fraction(pool, whole):.4f}",
            "CUPY_GPU_MEMORY_LIMIT": str(pool),
        }

    def update(self, lease: Lease, home: Path) -> None:
        """The size of a lease never changes."""

    def forget(self, lease_id: str, home: Path) -> None:
        """Nothing was made."""

    def health(self, devices: Sequence[Device], home: Path) -> Sequence[Health]:
        return ()


def _fraction(part: int, whole: int) -> float:
    """Rounded down to four digits, but never to nothing."""
    return max(part * 10_000 // whole, 1) / 10_000
