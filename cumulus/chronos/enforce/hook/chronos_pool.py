"""How much of a lease a framework's own memory pool may take; the rest is for CUDA.

Beside its pool a process holds a CUDA context, loaded kernels and the workspaces of cuBLAS, cuDNN and NCCL, and all of
it counts towards the lease. A pool of the whole lease does not fit beside them: it fails when it is made (JAX), or
running out ends in an abort or a library's error where the framework would have raised its own.

On every job's PYTHONPATH, so any Python may import it.
"""

MIB = 2**20

LEAST, MOST, PART = 768 * MIB, 2048 * MIB, 20
"""What is kept back: a twentieth of the lease, as TensorFlow does of a GPU, but at least what a context with its
libraries takes (on an H200 the context alone is 120 MiB with MPS and 516 MiB without), and no more than that needs.
1.4 GiB of a lease of 28 GiB were enough for JAX there."""


def pool_bytes(lease: int) -> int:
    """Bytes for the pool. Of a lease that is too small for both, half: it is of little use anyway."""
    kept = min(max(lease // PART, LEAST), MOST)
    return max(lease - kept, lease // 2, 1)
