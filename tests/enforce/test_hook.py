"""What frameworks are told, with stand-ins for them: the real ones are in tests/gpu."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cumulus.chronos.contract.variables import CUDA_COUNTER
from cumulus.chronos.enforce.frameworks import Frameworks
from cumulus.chronos.enforce.hook.chronos_pool import pool_bytes

from .conftest import CPU, make_lease
from .test_select import H100

GIB = 2**30

TORCH = """
calls = []
class cuda:
    _lazy_call = staticmethod(calls.append)
    device_count = staticmethod(lambda: 2)
    get_device_properties = staticmethod(lambda device: type("P", (), {"total_memory": 80 * 2**30}))
    set_per_process_memory_fraction = staticmethod(lambda fraction, device: calls.append((device, fraction)))
"""
TENSORFLOW = """
set = []
class config:
    list_physical_devices = staticmethod(lambda kind: ["first"])
    LogicalDeviceConfiguration = staticmethod(lambda memory_limit: memory_limit)
    set_logical_device_configuration = staticmethod(lambda device, logical: set.append((device, logical)))
"""
PYOPENCL = """
import os
seen = [os.environ.get("CUDA_MPS_PIPE_DIRECTORY")]
def get_platforms():
    seen.append(os.environ.get("CUDA_MPS_PIPE_DIRECTORY"))
"""


def run(directory: Path, code: str, modules: dict[str, str], **variables: str) -> str:
    for name, source in modules.items():
        (directory / f"{name}.py").write_text(source)
    lease = make_lease("a", 4 * GIB)
    ours = Frameworks().environment(lease, H100, directory)
    path = f"{ours['PYTHONPATH']}:{directory}"
    environment = {**os.environ, "CHRONOS_MEMORY_BYTES": str(4 * GIB), **variables, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_pytorch_is_told_when_cuda_is_first_used(tmp_path: Path) -> None:
    code = "import torch; later, = torch.calls; later(); print(torch.calls[1:])"
    assert run(tmp_path, code, {"torch": TORCH}) == f"[(0, {3.25 / 80})]\n"


def test_each_device_has_its_own_limit(tmp_path: Path) -> None:
    code = "import torch; torch.calls[0](); print(torch.calls[1:])"
    limits = f"{4 * GIB},{8 * GIB}"
    expected = f"[(0, {3.25 / 80}), (1, {7.25 / 80})]\n"
    assert run(tmp_path, code, {"torch": TORCH}, CHRONOS_MEMORY_BYTES=limits) == expected


def test_tensorflow_gets_a_logical_device(tmp_path: Path) -> None:
    code = "import tensorflow; print(tensorflow.set)"
    assert run(tmp_path, code, {"tensorflow": TENSORFLOW}) == "[('first', [3328])]\n"


def test_pyopencl_does_not_see_mps_and_what_comes_after_does(tmp_path: Path) -> None:
    code = "import pyopencl, os, json; print(json.dumps([*pyopencl.seen, os.environ['CUDA_MPS_PIPE_DIRECTORY']]))"
    answer = run(tmp_path, code, {"pyopencl": PYOPENCL}, CUDA_MPS_PIPE_DIRECTORY="/run/mps")
    assert json.loads(answer) == ["/nonexistent", "/nonexistent", "/run/mps"]


def test_a_framework_that_cannot_be_told_still_works(tmp_path: Path) -> None:
    assert run(tmp_path, "import torch; print(torch.x)", {"torch": "x = 1"}).splitlines()[0] == "1"


def test_an_error_in_a_framework_is_the_frameworks(tmp_path: Path) -> None:
    code = "try:\n import torch\nexcept ImportError as error: print(error)"
    assert run(tmp_path, code, {"torch": "raise ImportError('its own')"}) == "its own\n"


def test_the_jobs_own_sitecustomize_runs_too(tmp_path: Path) -> None:
    assert run(tmp_path, "print('job')", {"sitecustomize": "print('site')"}) == "site\njob\n"


def test_outside_a_lease_nothing_is_changed(tmp_path: Path) -> None:
    code = "import torch; print(torch.calls)"
    assert run(tmp_path, code, {"torch": TORCH}, CHRONOS_MEMORY_BYTES="") == "[]\n"


def test_a_cpu_device_needs_none_of_it(tmp_path: Path) -> None:
    assert Frameworks().environment(make_lease("a", GIB), CPU, tmp_path) == {}


def test_jax_is_told_a_part_of_the_lease_where_the_counter_answers_with_that(
    tmp_path: Path, counter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA_COUNTER, str(counter))
    variables = Frameworks().environment(make_lease("a", 4 * GIB), H100, tmp_path)
    assert variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.8125"


def test_jax_and_cupy_are_told_by_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUDA_COUNTER, "/nonexistent/counter.so")
    variables = Frameworks().environment(make_lease("a", 4 * GIB), H100, tmp_path)
    pool = pool_bytes(4 * GIB)
    assert (variables["XLA_PYTHON_CLIENT_MEM_FRACTION"], variables["CUPY_GPU_MEMORY_LIMIT"]) == ("0.0406", str(pool))


@pytest.mark.parametrize(
    ("lease", "kept"),
    [
        (1, 0),
        (2, 1),
        (GIB // 2, GIB // 4),
        (GIB, GIB // 2),
        (4 * GIB, 3 * GIB // 4),
        (20 * GIB, GIB),
        (40 * GIB, 2 * GIB),
        (139 * GIB, 2 * GIB),
    ],
)
def test_a_pool_leaves_room_for_cuda_itself(lease: int, kept: int) -> None:
    assert lease - pool_bytes(lease) == kept


def test_a_fifth_of_an_h200_leaves_what_was_enough_for_jax_there() -> None:
    """At 0.19 of the GPU in a lease of 0.20, JAX's pool was made, and running out raised RESOURCE_EXHAUSTED."""
    whole = 150_110_011_392
    assert pool_bytes(whole // 5) == pytest.approx(whole * 0.19)
