"""The OpenCL layer on PoCL, through the real loader, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cumulus.chronos.contract import LeaseState
from cumulus.chronos.contract.variables import merge
from cumulus.chronos.enforce import account
from cumulus.clock import SystemClock
from tests.waiting import eventually

from .conftest import CPU, MIB, Leased, compile_c, make_lease

REFUSED = -4
"""CL_MEM_OBJECT_ALLOCATION_FAILURE"""
OUT_OF_RESOURCES = -5
NOT_AVAILABLE = -2
IMAGE2D, IMAGE3D, IMAGE2D_ARRAY, IMAGE1D, IMAGE1D_ARRAY = 0x10F1, 0x10F2, 0x10F3, 0x10F4, 0x10F5
PIXEL = 16

Make = Callable[..., Leased]


# ---- each way to memory ----


@pytest.mark.parametrize(
    ("verb", "arguments", "size"),
    [
        ("buffer", {"size": 600_000}, 600_000),
        ("buffer_with_properties", {"size": 600_000}, 600_000),
        ("host_buffer", {"size": 600_000}, 600_000),
        ("image", {"type": IMAGE1D, "width": 8_000}, 8_000 * PIXEL),
        ("image", {"type": IMAGE1D_ARRAY, "width": 400, "array": 100}, 40_000 * PIXEL),
        ("image", {"type": IMAGE2D, "width": 200, "height": 200}, 40_000 * PIXEL),
        ("image", {"type": IMAGE2D_ARRAY, "width": 100, "height": 100, "array": 4}, 40_000 * PIXEL),
        ("image", {"type": IMAGE3D, "width": 100, "height": 100, "depth": 4}, 40_000 * PIXEL),
        ("old_image", {"width": 200, "height": 200}, 40_000 * PIXEL),
    ],
)
def test_an_object_is_counted_refused_over_the_limit_and_given_back(
    leased: Make, verb: str, arguments: dict[str, int], size: int
) -> None:
    lease = leased(size * 2 - 1)
    job = lease.job()
    first = job(verb, **arguments)
    assert (first["error"], lease.used()) == (0, size)
    assert job(verb, **arguments)["error"] == REFUSED
    assert lease.used() == size
    assert job("release", id=first["id"])["error"] == 0
    assert lease.used() == 0
    assert job(verb, **arguments)["error"] == 0


def test_shared_virtual_memory_is_refused_with_null(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    first, second = job("svm", size=MIB // 2), job("svm", size=MIB // 2)
    assert job("svm", size=1)["error"] == "NULL"
    job("svm_free", id=first["id"])
    assert lease.used() == MIB // 2
    third = job("svm", size=MIB // 2)
    assert job("svm_free_queued", ids=[second["id"], third["id"]])["error"] == 0
    assert lease.used() == 0


@pytest.fixture(scope="session")
def fuller_runtime(tmp_path_factory: pytest.TempPathFactory, layer: Path) -> Path:
    return compile_c("runtime.c", tmp_path_factory.mktemp("runtime") / "runtime.so", "-shared", "-fPIC")


@pytest.mark.parametrize("kind", ["Host", "Device", "Shared"])
@pytest.mark.parametrize("blocking", [False, True])
def test_unified_shared_memory_is_counted(leased: Make, fuller_runtime: Path, kind: str, blocking: bool) -> None:
    lease = leased(MIB)
    job = lease.job(OPENCL_LAYERS=below(lease, fuller_runtime))
    first = job("usm", kind=kind, size=MIB)
    assert (first["error"], lease.used()) == (0, MIB)
    assert job("usm", kind=kind, size=1)["error"] == REFUSED
    assert job("usm_free", id=first["id"], blocking=blocking)["error"] == 0
    assert lease.used() == 0


def test_pipes_are_counted(leased: Make, fuller_runtime: Path) -> None:
    lease = leased(MIB)
    job = lease.job(OPENCL_LAYERS=below(lease, fuller_runtime))
    pipe = job("pipe", packet=64, packets=MIB // 64)
    assert (pipe["error"], lease.used()) == (0, MIB)
    assert job("pipe", packet=1, packets=1)["error"] == REFUSED
    job("release", id=pipe["id"])
    assert lease.used() == 0


def test_a_pipe_that_the_runtime_refuses_takes_nothing(leased: Make) -> None:
    lease = leased(MIB)
    assert lease.job()("pipe", packet=64, packets=64)["error"] not in (0, REFUSED)
    assert lease.used() == 0


def below(lease: Leased, runtime: Path) -> str:
    """The loader puts later layers above earlier ones."""
    return f"{runtime}:{lease.environment['OPENCL_LAYERS']}"


# ---- what counts and when it comes back ----


def test_memory_comes_back_when_the_last_reference_goes(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    buffer = job("buffer", size=MIB)
    job("retain", id=buffer["id"])
    job("release", id=buffer["id"])
    assert job("buffer", size=1)["error"] == REFUSED
    job("release", id=buffer["id"])
    assert lease.used() == 0


def test_views_count_nothing_and_keep_their_parent_counted(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    buffer = job("buffer", size=MIB)
    part = job("sub", of=buffer["id"], size=4096)
    assert (part["error"], lease.used()) == (0, MIB)
    job("release", id=buffer["id"])
    assert lease.used() == MIB
    job("release", id=part["id"])
    assert lease.used() == 0


def test_a_buffer_on_counted_shared_virtual_memory_is_not_counted_twice(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    pointer = job("svm", size=MIB)
    assert job("buffer", size=MIB, host=pointer["id"])["error"] == 0
    assert lease.used() == MIB


def test_a_call_that_the_runtime_refuses_takes_nothing(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    assert job("buffer", size=0)["error"] == -61
    assert lease.used() == 0


def test_the_job_is_told_why(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    job("buffer", size=1000)
    job("buffer", size=MIB)
    assert job.stderr() == f"chronos: {MIB} bytes of device memory refused: 1000 of the lease's {MIB} are in use\n"


def test_a_million_allocations_leave_no_drift(leased: Make, tmp_path: Path) -> None:
    lease = leased(MIB)
    program = compile_c("drift.c", tmp_path / "drift", "-O2", "-pthread")
    arguments = [str(program), lease.environment["OPENCL_LIBRARY"], "4", "1000000"]
    process = subprocess.Popen(
        arguments, env={**os.environ, **lease.environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert account.used("lease", tmp_path) == {process.pid: 0}
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("seed", range(8))
def test_random_calls_agree_with_the_model(leased: Make, seed: int) -> None:
    lease = leased(MIB)
    answer = lease.job()("fuzz", seed=seed, steps=5000, limit=MIB)
    assert answer["error"] == 0, answer
    assert answer["refused"] > 100
    assert lease.used() == 0


# ---- several processes ----


def test_processes_share_one_limit(leased: Make) -> None:
    lease = leased(MIB)
    one, other = lease.job(), lease.job()
    first = one("buffer", size=MIB * 3 // 4)
    assert other("buffer", size=MIB // 2)["error"] == REFUSED
    assert other("buffer", size=MIB // 4)["error"] == 0
    assert account.used("lease", lease.home) == {one.pid: MIB * 3 // 4, other.pid: MIB // 4}
    one("release", id=first["id"])
    assert other("buffer", size=MIB * 3 // 4)["error"] == 0


def test_a_killed_process_gives_back_exactly_what_it_held(leased: Make) -> None:
    lease = leased(MIB)
    one, other = lease.job(), lease.job()
    other("buffer", size=1000)
    one("buffer", size=MIB - 1000)
    assert other("buffer", size=1)["error"] == REFUSED
    os.kill(one.pid, signal.SIGKILL)
    eventually(lambda: lease.used() == 1000)  # a zombie, which this test has not yet waited for
    assert other("buffer", size=MIB - 1000)["error"] == 0
    assert other("buffer", size=1)["error"] == REFUSED


def test_a_process_killed_amid_its_calls_leaves_the_account_usable(leased: Make) -> None:
    lease = leased(MIB)
    for _ in range(10):
        job = lease.job()
        assert job.process.stdin is not None
        job.process.stdin.write('{"do": "fuzz", "seed": 1, "steps": 100000000, "limit": 1048576}\n')
        eventually(lambda: lease.used() > 0)
        job.kill()
    survivor = lease.job()
    assert survivor("buffer", size=MIB)["error"] == 0
    assert account.used("lease", lease.home) == {survivor.pid: MIB}


def test_processes_racing_for_the_last_byte_never_exceed_the_limit(leased: Make) -> None:
    lease = leased(MIB)
    jobs = [lease.job() for _ in range(4)]
    for job in jobs:
        assert job.process.stdin is not None
        for _ in range(200):
            job.process.stdin.write('{"do": "buffer", "size": 4096}\n')
    granted = sum(job.answer()["error"] == 0 for job in jobs for _ in range(200))
    assert granted == MIB // 4096
    assert lease.used() == MIB


def test_a_forked_child_has_its_own_share_and_leaves_the_parents_alone(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    buffer = job("buffer", size=MIB // 2)
    child = job("fork", size=MIB // 2, frees=buffer["id"])
    assert child["error"] == 0
    assert account.used("lease", lease.home) == {job.pid: MIB // 2, child["pid"]: MIB // 2}
    assert job("buffer", size=1)["error"] == REFUSED
    job("wait", pid=child["pid"])
    assert account.used("lease", lease.home) == {job.pid: MIB // 2}
    assert job("release", id=buffer["id"])["error"] == 0
    assert lease.used() == 0


def test_a_program_started_in_its_place_starts_from_nothing(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    job("buffer", size=MIB)
    assert job("exec")["pid"] == job.pid
    assert job("buffer", size=MIB)["error"] == 0
    assert account.used("lease", lease.home) == {job.pid: MIB}


# ---- the end of the lease ----


def test_after_its_end_new_work_is_refused_and_results_can_be_saved(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    buffer = job("buffer", size=64)
    job("write", id=buffer["id"], data="2a" * 64)
    account.update(replace(lease.lease, expires_in=0.0), lease.home)
    assert job("buffer", size=64)["error"] == REFUSED
    assert job("svm", size=64)["error"] == "NULL"
    assert job("kernel")["error"] == OUT_OF_RESOURCES
    assert job("fill", id=buffer["id"])["error"] == OUT_OF_RESOURCES
    assert job("write", id=buffer["id"], data="00")["error"] == OUT_OF_RESOURCES
    assert job("queue")["error"] == OUT_OF_RESOURCES
    assert job("context")["error"] == NOT_AVAILABLE
    assert job("read", id=buffer["id"], size=64) == {"error": 0, "data": "2a" * 64}
    assert job("map", id=buffer["id"], size=64) == {"error": 0, "data": "2a" * 64}
    assert job("release", id=buffer["id"])["error"] == 0
    assert "the lease has ended" in job.stderr()


def test_it_ends_by_itself_at_its_deadline_with_nobody_telling(leased: Make) -> None:
    lease = leased(MIB, seconds=8.0)  # Python and PoCL are started by then, also on a busy machine.
    job = lease.job()
    clock = SystemClock()
    deadline = clock.monotonic() + 8.0
    granted = []

    def refused() -> bool:
        asked = clock.monotonic()
        if job("queue")["error"] == OUT_OF_RESOURCES:
            return True
        granted.append(asked)
        return False

    eventually(refused)
    # Whatever was asked for after the deadline was refused, however late this test got to it.
    assert all(asked <= deadline for asked in granted)


def test_a_renewal_reaches_a_running_job(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    account.update(replace(lease.lease, expires_in=0.0), lease.home)
    assert job("buffer", size=64)["error"] == REFUSED
    account.update(replace(lease.lease, expires_in=60.0), lease.home)
    assert job("buffer", size=64)["error"] == 0


def test_a_released_lease_refuses_work_though_time_is_left(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job()
    account.update(make_lease("lease", MIB, 600.0, LeaseState.ENDING), lease.home)
    assert job("queue")["error"] == OUT_OF_RESOURCES


# ---- what is answered, and what is not there ----


def test_the_device_answers_with_the_leases_size(leased: Make) -> None:
    assert leased(MIB).job()("info") == {"error": 0, "global": MIB, "largest": MIB}


def test_a_device_smaller_than_the_lease_answers_with_its_own(leased: Make, opencl: dict[str, str]) -> None:
    lease = leased(2**50)
    assert lease.job()("info") == lease.job(OPENCL_LAYERS="")("info")


def test_without_a_lease_the_layer_is_out_of_the_way(leased: Make) -> None:
    lease = leased(MIB)
    job = lease.job(CHRONOS_ACCOUNT="")
    assert job("buffer", size=2 * MIB)["error"] == 0
    assert job("info")["global"] > MIB


@pytest.mark.parametrize("damage", ["limits missing", "usage missing", "limits damaged", "usage damaged"])
def test_an_account_that_cannot_be_used_refuses_everything(leased: Make, damage: str) -> None:
    lease = leased(MIB)
    name, what = damage.split()
    path = account.directory(lease.home, "lease") / name
    path.unlink() if what == "missing" else path.write_bytes(b"x" * 100_000)
    job = lease.job()
    assert job("buffer", size=1)["error"] == REFUSED
    assert "can't be used" in job.stderr()


def test_a_device_is_known_by_its_uuid_before_its_numbers(leased: Make, layer: Path, tmp_path: Path) -> None:
    """As in a container, whose image numbers platforms and devices its own way. The UUID is that of uuid_layer.c."""
    told = compile_c("uuid_layer.c", tmp_path / "libuuid_layer.so", "-shared", "-fPIC")
    ours = replace(CPU, id="GPU-00010203-0405-0607-0809-0a0b0c0d0e0f", platform_index=3, device_index=7)
    another = replace(CPU, id="GPU-ffffffff-0405-0607-0809-0a0b0c0d0e0f")
    lease = leased(MIB)
    paths = [
        account.open_account(make_lease(id, 2 * MIB), device, tmp_path)
        for id, device in (("another", another), ("ours", ours))
    ]
    accounts = ":".join(map(str, paths))
    job = lease.job(CHRONOS_ACCOUNT=accounts, OPENCL_LAYERS=f"{told}:{layer}")
    assert job("buffer", size=MIB)["error"] == 0
    assert (account.used("another", tmp_path), sum(account.used("ours", tmp_path).values())) == ({}, MIB)
    # A driver that tells no UUIDs: the numbers are all there is.
    untold = lease.job(CHRONOS_ACCOUNT=accounts)
    assert untold("buffer", size=MIB)["error"] == 0
    assert sum(account.used("another", tmp_path).values()) == MIB


def test_an_account_of_an_older_chronos_is_read(leased: Make) -> None:
    lease = leased(MIB)
    limits = account.directory(lease.home, "lease") / "limits"
    limits.write_bytes(limits.read_bytes()[:32])
    job = lease.job()
    assert job("buffer", size=MIB)["error"] == 0
    assert job("buffer", size=1)["error"] == REFUSED


def test_several_leases_of_a_job_each_count_their_device(leased: Make, tmp_path: Path) -> None:
    """Both leases name the one CPU device there is, or a device that is not there: that counts towards the first."""
    lease = leased(MIB)
    elsewhere = replace(CPU, platform_index=0, device_index=7)
    other = account.open_account(make_lease("other", 2 * MIB), elsewhere, tmp_path)
    joined = merge(lease.environment, {"CHRONOS_ACCOUNT": str(other)})
    job = lease.job(CHRONOS_ACCOUNT=joined["CHRONOS_ACCOUNT"])
    assert job("buffer", size=MIB)["error"] == 0
    assert job("buffer", size=1)["error"] == REFUSED
    assert (lease.used(), account.used("other", tmp_path)) == (MIB, {})
