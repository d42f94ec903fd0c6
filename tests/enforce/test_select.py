"""What is reported of a device, and what a job's environment gets."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cumulus.chronos import enforce
from cumulus.chronos.contract import Device, Lease, variables
from cumulus.chronos.enforce import account, amd, loader
from cumulus.errors import ChronosError, LedgerUnavailable
from cumulus.lib import locks
from cumulus.resources.enforcement import Enforcement

from .conftest import CPU, MIB, make_lease

H100 = Device(0, "GPU-1234", "H100", "NVIDIA Corporation", "gpu", 80 * 2**30)
RADEON = Device(0, "pci-0000:03:00.0", "gfx90a", "Advanced Micro Devices, Inc.", "gpu", 64 * 2**30)
ARC = Device(0, "uuid-1", "Arc", "Intel(R) Corporation", "gpu", 16 * 2**30)


@pytest.fixture
def no_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variables.OPENCL_LAYER, "/nonexistent/layer.so")


@pytest.fixture
def built(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variables.OPENCL_LAYER, str(layer))


@pytest.mark.usefixtures("no_layer")
def test_without_the_layer_a_cpu_device_is_none_and_the_remedy_is_said(tmp_path: Path) -> None:
    report = enforce.strength(CPU, tmp_path)
    assert report.enforcement is Enforcement.NONE
    assert "/nonexistent/layer.so is not there" in report.reason
    assert "scripts/build-enforcement.sh" in report.remedy
    assert [*enforce.environment(make_lease("a", MIB), CPU, tmp_path)] == ["CHRONOS_ACCOUNT"]
    (condition,) = enforce.health([CPU], tmp_path)
    assert (condition.type, condition.status, condition.reason) == ("OpenCLLayer", False, "NotBuilt")


@pytest.mark.usefixtures("built")
def test_with_the_layer_a_cpu_device_is_guarded(tmp_path: Path) -> None:
    assert enforce.strength(CPU, tmp_path).enforcement is Enforcement.GUARDED
    assert enforce.health([CPU], tmp_path)[0].status is True


def test_a_library_that_is_no_layer_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setenv(variables.OPENCL_LAYER, str(broken))
    assert "can't be loaded" in enforce.strength(CPU, tmp_path).reason


def test_a_library_that_no_program_can_be_told_is_not_taken(
    counter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "of mine"
    place.mkdir()
    (place / counter.name).symlink_to(counter)
    monkeypatch.setenv(variables.CUDA_COUNTER, str(place / counter.name))
    (condition,) = [each for each in enforce.health([H100], tmp_path) if each.type == "CUDACounter"]
    assert not condition.status
    assert "its path has a ' '" in condition.message


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("device", "what"), [(H100, "cuda-counter: "), (RADEON, "compute-unit-mask: "), (ARC, "level-zero: ")]
)
def test_a_gpu_is_as_strong_as_the_weakest_way_to_it(
    device: Device, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # without MPS
    monkeypatch.setenv(variables.CUDA_COUNTER, "/nonexistent/counter.so")
    report = enforce.strength(device, tmp_path)
    assert report.enforcement is Enforcement.NONE
    assert report.reason.startswith(what)


@pytest.mark.usefixtures("built")
def test_the_counter_alone_guards_an_nvidia_gpu_and_what_is_missing_beside_it_is_said(
    counter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # without MPS
    monkeypatch.setenv(variables.CUDA_COUNTER, str(counter))
    report = enforce.strength(H100, tmp_path)
    assert report.enforcement is Enforcement.GUARDED
    assert "counted over the lease's processes; mps: nvidia-cuda-mps-control is not installed" in report.reason
    assert "nvidia-compute-utils" in report.remedy
    given = enforce.environment(replace(make_lease("a", MIB), device_id=H100.id), H100, tmp_path)
    assert (given["LD_PRELOAD"], Path(given["CHRONOS_ACCOUNT"]).name) == (str(counter), "a")
    assert given["OPENCL_LAYERS"], "one account for both"
    (condition,) = [each for each in enforce.health([H100], tmp_path) if each.type == "CUDACounter"]
    assert (condition.status, condition.reason) == (True, "Found")


@pytest.mark.usefixtures("built")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes the account another user's")
def test_another_users_job_gets_libraries_that_it_can_reach(
    counter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries of these tests lie in a directory that is root's alone."""
    monkeypatch.setenv(variables.CUDA_COUNTER, str(counter))
    given = enforce.environment(replace(make_lease("a", MIB), device_id=H100.id), H100, tmp_path, 65534)
    for name in ("LD_PRELOAD", "OPENCL_LAYERS"):
        library = Path(given[name])
        assert library.parent == Path(given["CHRONOS_ACCOUNT"])
        assert library.stat().st_mode & 0o777 == 0o755
    assert Path(given["LD_PRELOAD"]).read_bytes() == counter.read_bytes()


@pytest.mark.usefixtures("built")
def test_without_the_counter_an_nvidia_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variables.CUDA_COUNTER, "/nonexistent/counter.so")
    (condition,) = [each for each in enforce.health([H100, CPU], tmp_path) if each.type == "CUDACounter"]
    assert (condition.status, condition.reason) == (False, "NotBuilt")
    assert "scripts/build-enforcement.sh" in condition.message
    assert [each.type for each in enforce.health([CPU], tmp_path)] == ["OpenCLLayer"]
    assert "LD_PRELOAD" not in enforce.environment(make_lease("a", MIB), H100, tmp_path)


# ---- the OpenCL loader ----


def make_loaders(directory: Path, *contents: bytes) -> list[Path]:
    paths = [directory / f"loader{index}" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def test_a_loader_that_knows_layers_is_put_before_one_that_does_not(
    tmp_path: Path, built: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_loaders(tmp_path, b"plain", b"..OPENCL_LAYERS..")
    monkeypatch.setattr(loader, "loaders", lambda: found)
    assert enforce.strength(CPU, tmp_path).enforcement is Enforcement.GUARDED
    variables = enforce.environment(make_lease("a", MIB), CPU, tmp_path)
    assert (Path(variables["LD_LIBRARY_PATH"]) / "libOpenCL.so.1").resolve() == found[1]


def test_where_no_loader_knows_layers_nothing_is_held(
    tmp_path: Path, built: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "loaders", lambda: make_loaders(tmp_path, b"plain"))
    report = enforce.strength(CPU, tmp_path)
    assert (report.enforcement, report.remedy) == (Enforcement.NONE, loader.REMEDY)
    assert enforce.health([CPU], tmp_path)[0].reason == "LoaderWithoutLayers"


def test_the_systems_loaders_are_those_of_the_linkers_cache() -> None:
    assert all(path.name.startswith("libOpenCL.so") and path.exists() for path in loader.loaders())


def test_ldconfig_is_run_once_for_each_cache_of_the_linker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, cache, program = tmp_path / "runs", tmp_path / "cache", tmp_path / "ldconfig"
    program.write_text(f"#!/bin/sh\necho run >> {runs}\necho '\tlibOpenCL.so.1 (libc6,x86-64) => /lib/one'\n")
    program.chmod(0o755)
    cache.write_text("one")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(loader, "LINKERS_CACHE", str(cache))
    assert [loader.loaders() for _ in range(3)] == [[Path("/lib/one")]] * 3
    assert runs.read_text().split() == ["run"]
    cache.write_text("another")
    loader.loaders()
    assert runs.read_text().split() == ["run", "run"]


# ---- merging ----


def test_lists_are_joined_ours_first_and_all_else_is_replaced() -> None:
    job = {"PYTHONPATH": "/job", "OPENCL_LAYERS": "/other.so", "CUPY_GPU_MEMORY_LIMIT": "9", "X": "1"}
    ours = {"PYTHONPATH": "/ours", "OPENCL_LAYERS": "/layer.so", "CUPY_GPU_MEMORY_LIMIT": "5"}
    assert variables.merge(job, ours) == {
        "PYTHONPATH": "/ours:/job",
        "OPENCL_LAYERS": "/layer.so:/other.so",
        "CUPY_GPU_MEMORY_LIMIT": "5",
        "X": "1",
    }


def test_a_job_that_uses_jaxs_newer_name_gets_our_limit_under_it() -> None:
    """JAX fails where both are set."""
    ours = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.1900"}
    for own, holds in (("0.9", "0.1900"), ("0.1", "0.1")):
        merged = variables.merge({"XLA_CLIENT_MEM_FRACTION": own}, ours)
        assert merged == {"XLA_CLIENT_MEM_FRACTION": holds}


def test_a_job_without_mps_gets_none_of_its_variables() -> None:
    ours = {"CUDA_MPS_PIPE_DIRECTORY": "/run/mps", "OPENCL_LAYERS": "/layer.so"}
    assert variables.merge({"CHRONOS_MPS": "off"}, ours) == {"CHRONOS_MPS": "off", "OPENCL_LAYERS": "/layer.so"}


def test_merging_twice_changes_nothing() -> None:
    once = variables.merge({"PYTHONPATH": "/job"}, {"PYTHONPATH": "/ours"})
    assert variables.merge(once, {"PYTHONPATH": "/ours"}) == once


def test_of_two_leases_each_devices_memory_is_limited_and_the_smaller_of_other_limits_holds() -> None:
    def limits(device: str, memory: str, percentage: str) -> dict[str, str]:
        return {
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"{device}={memory}",
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": percentage,
        }

    expected = {
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "GPU-2=4M,GPU-1=8M",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "9",
    }
    assert variables.merge(limits("GPU-1", "8M", "9"), limits("GPU-2", "4M", "12.5")) == expected
    assert variables.merge({"CUPY_GPU_MEMORY_LIMIT": "half"}, {"CUPY_GPU_MEMORY_LIMIT": "5"}) == {
        "CUPY_GPU_MEMORY_LIMIT": "5"
    }


def test_one_mps_daemon_holds_a_job_on_several_gpus_and_one_a_lease_cannot() -> None:
    one, same, other = ({"CUDA_MPS_PIPE_DIRECTORY": path, "A": path} for path in ("/run/x", "/run/x", "/run/y"))
    assert variables.join({}, one) == one
    assert variables.join(one, same) == one
    assert variables.join(one, {"B": "1"}) == {**one, "B": "1"}
    with pytest.raises(ChronosError, match="one MPS daemon a lease"):
        variables.join(one, other)


def test_a_job_may_do_without_mps() -> None:
    ours = {"CUDA_MPS_PIPE_DIRECTORY": "/run/x", "OPENCL_LAYERS": "/layer.so"}
    assert "CUDA_MPS_PIPE_DIRECTORY" not in variables.merge({"CHRONOS_MPS": "off"}, ours)


# ---- accounts ----


@pytest.mark.parametrize("id", ["../../etc", "a:b", "a/b", "..", ".", "ü x"])
def test_any_id_gives_one_directory_of_its_own(id: str, tmp_path: Path) -> None:
    place = account.directory(tmp_path, id)
    assert place.parent == tmp_path / "accounts"
    assert ":" not in place.name
    assert place.name not in (".", "..")


def test_an_account_is_made_once_and_forgotten(tmp_path: Path) -> None:
    lease = make_lease("a", MIB)
    place = account.open_account(lease, CPU, tmp_path)
    inode = (place / "limits").stat().st_ino
    assert account.open_account(lease, CPU, tmp_path) == place
    assert (place / "limits").stat().st_ino == inode, "running jobs have it mapped"
    account.close_account("a", tmp_path)
    account.close_account("a", tmp_path)
    assert not place.exists()
    account.update(lease, tmp_path)
    assert not place.exists()
    assert account.used("a", tmp_path) == {}


# ---- AMD ----


def make_topology(directory: Path, units: int) -> Path:
    node = directory / "1"
    node.mkdir(parents=True)
    (node / "properties").write_text(f"simd_count {units * 4}\nsimd_per_cu 4\nlocation_id {3 << 8}\ndomain 0\n")
    cpu = directory / "0"
    cpu.mkdir()
    (cpu / "properties").write_text("simd_count 0\nsimd_per_cu 0\nlocation_id 0\ndomain 0\n")
    return directory


def test_amds_leases_get_compute_units_of_their_own(tmp_path: Path) -> None:
    enforcer = amd.ComputeUnitMask(make_topology(tmp_path / "topology", 104))
    halves = [enforcer.environment(make_lease(id, MIB), RADEON, tmp_path) for id in ("one", "other")]
    assert [half["HSA_CU_MASK"] for half in halves] == ["0:0-51", "0:52-103"]
    masks = [int(half["ROC_GLOBAL_CU_MASK"], 16) for half in halves]
    assert (masks[0] & masks[1], masks[0] | masks[1]) == (0, (1 << 104) - 1)
    assert enforcer.environment(make_lease("one", MIB), RADEON, tmp_path) == halves[0]
    enforcer.forget("one", tmp_path)
    quarter = replace(make_lease("third", MIB), compute=250)
    assert enforcer.environment(quarter, RADEON, tmp_path)["HSA_CU_MASK"] == "0:0-25"


def test_a_stopped_process_that_holds_amds_ranges_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "acquire", lambda descriptor, seconds: False)
    enforcer = amd.ComputeUnitMask(make_topology(tmp_path / "topology", 104))
    with pytest.raises(LedgerUnavailable, match="has been locked for"):
        enforcer.environment(make_lease("a", MIB), RADEON, tmp_path)


def test_amd_without_a_topology_masks_nothing(tmp_path: Path) -> None:
    assert amd.ComputeUnitMask(tmp_path).environment(make_lease("a", MIB), RADEON, tmp_path) == {}


MIG = Device(0, "MIG-1234", "H100 MIG 1g.10gb", "NVIDIA", "gpu", 10 * 2**30, enforcement=Enforcement.HARD)


def whole() -> Lease:
    return replace(make_lease("a", MIG.memory_bytes), compute=1000)


@pytest.mark.usefixtures("no_layer")
def test_a_mig_instance_is_hard_for_who_has_all_of_it(tmp_path: Path) -> None:
    assert enforce.strength(MIG, tmp_path).enforcement is Enforcement.HARD
    assert "CUDA_MPS_PIPE_DIRECTORY" not in enforce.environment(whole(), MIG, tmp_path)
    assert variables.of_lease(whole(), MIG)["CHRONOS_ENFORCEMENT"] == "hard"
    assert variables.of_lease(whole(), MIG)["CUDA_VISIBLE_DEVICES"] == "MIG-1234"


@pytest.mark.usefixtures("no_layer")
def test_a_part_of_a_mig_instance_is_counted_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variables.CUDA_COUNTER, "/nonexistent/counter.so")
    part = make_lease("a", MIG.memory_bytes // 2)
    assert variables.of_lease(part, MIG)["CHRONOS_ENFORCEMENT"] == "guarded"
    with pytest.raises(ChronosError, match="nothing holds a job to a part of a MIG instance"):
        enforce.environment(part, MIG, tmp_path)
