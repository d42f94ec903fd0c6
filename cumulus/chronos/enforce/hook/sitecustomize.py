"""Run by Python at its start inside a lease: prepares PyTorch, TensorFlow and pyopencl when they are imported.

CHRONOS_MEMORY_BYTES holds one number a leased device, in the order of the visible ones. Any Python and any version
of the frameworks may be here, so whatever goes wrong is left alone: this is the second line, not the first.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from typing import Any

from chronos_pool import pool_bytes


def limits() -> list[int]:
    """Leased bytes of each visible device."""
    return [int(text) for text in os.environ.get("CHRONOS_MEMORY_BYTES", "").split(",") if text.strip().isdigit()]


def limit_torch(torch: Any) -> None:
    """When CUDA is first used and not before: setting it earlier would make a context, and so break a later fork."""

    def apply() -> None:
        for device, limit in enumerate(limits()[: torch.cuda.device_count()]):
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, pool_bytes(limit) / total), device)

    torch.cuda._lazy_call(apply)


def limit_tensorflow(tensorflow: Any) -> None:
    # No strict=: Python had it only from 3.10.
    for gpu, limit in zip(tensorflow.config.list_physical_devices("GPU"), limits()):  # noqa: B905
        logical = tensorflow.config.LogicalDeviceConfiguration(memory_limit=pool_bytes(limit) // 2**20)
        tensorflow.config.set_logical_device_configuration(gpu, [logical])


def start_opencl(pyopencl: Any) -> None:
    """NVIDIA's OpenCL driver looks for MPS when it is first asked, and then makes no context beside it."""
    pyopencl.get_platforms()


HANDLERS = {"torch": limit_torch, "tensorflow": limit_tensorflow, "pyopencl": start_opencl}
WITHOUT_MPS = ("pyopencl",)
MPS_DIRECTORY = "CUDA_MPS_PIPE_DIRECTORY"


class Finder:
    """First on sys.meta_path: finds the frameworks as Python would, and has them told once they are loaded."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name not in HANDLERS:
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return spec
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: load_and_tell(name, module, load)
        return spec


def load_and_tell(name: str, module: Any, load: Any) -> None:
    mps = os.environ.get(MPS_DIRECTORY) if name in WITHOUT_MPS else None
    if mps is not None:
        os.environ[MPS_DIRECTORY] = "/nonexistent"
    try:
        load(module)
        try:
            HANDLERS[name](module)
        except Exception as error:
            sys.stderr.write(f"chronos: {name} was not told of the lease: {error}\n")
    finally:
        if mps is not None:
            os.environ[MPS_DIRECTORY] = mps


def run_shadowed() -> None:
    """Run the sitecustomize that this one stands before, as Python would have."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [place for place in sys.path if os.path.abspath(place or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if limits():
    sys.meta_path.insert(0, Finder)
run_shadowed()
