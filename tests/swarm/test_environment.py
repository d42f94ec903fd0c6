"""What joins a container to its lease: variables, and mounts for what the node's Chronos prepared."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import EnvVar, Workload
from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.backends.swarm import spec
from cumulus.backends.swarm.environment import engine_environment
from tests.swarm.test_backend import lease

PREPARED = {
    "OPENCL_LAYERS": "/lib/layer.so", "CHRONOS_ACCOUNT": "/var/lib/chronos/a:/var/lib/chronos/b",
    "CUDA_MPS_PIPE_DIRECTORY": "/run/mps/pipe", "LD_LIBRARY_PATH": "/node/only", "LD_PRELOAD": "/lib/counter.so",
}  # fmt: skip


def workload(**more: object) -> Workload:
    fields: dict[str, object] = {
        "name": "n", "namespace": "default", "job": "j", "job_uid": "u", "attempt": 2, "replica": 0, "replicas": 1,
        "node": "w", "command": (), "leases": (lease(),), "submitter": "root", "submitter_admin": True,
    }  # fmt: skip
    return Workload(**{**fields, **more})  # type: ignore[arg-type]


def test_what_the_node_prepared_is_mounted_where_it_is() -> None:
    variables, mounts = engine_environment(workload(), PREPARED)
    assert {(m["Source"], m["ReadOnly"]) for m in mounts} == {
        ("/lib/layer.so", True), ("/lib/counter.so", True),
        ("/var/lib/chronos/a", False), ("/var/lib/chronos/b", False),
        ("/run/mps/pipe", False), ("/dev/shm", False),
    }  # fmt: skip
    assert all(m["Source"] == m["Target"] for m in mounts)
    assert variables["OPENCL_LAYERS"] == "/lib/layer.so"
    assert "LD_LIBRARY_PATH" not in variables


def test_numbers_of_the_nodes_platforms_do_not_get_into_a_container() -> None:
    variables, _ = engine_environment(workload(), {})
    assert "PYOPENCL_CTX" not in variables
    assert variables["CHRONOS_DEVICE_NAME"] == "H100"


def test_a_job_cannot_change_whose_lease_it_is_in() -> None:
    job = (EnvVar("CHRONOS_PARTITION_ID", "another"), EnvVar("MINE", "1"))
    variables, _ = engine_environment(workload(env=job), {})
    assert (variables["CHRONOS_PARTITION_ID"], variables["MINE"]) == ("lease-1", "1")


def test_other_vendors_devices_are_named_to_chronos_runtime() -> None:
    leases = (lease("a", device_id="pci-0000:03:00.0"), lease("b", device_id="pci-0000:04:00.0"))
    variables, _ = engine_environment(workload(leases=leases), {})
    assert variables["CHRONOS_DEVICES"] == "pci-0000:03:00.0,pci-0000:04:00.0"
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_a_job_without_such_a_lease_names_no_device() -> None:
    variables, _ = engine_environment(workload(env=(EnvVar("CHRONOS_DEVICES", "pci-0000:03:00.0"),)), {})
    assert not variables.get("CHRONOS_DEVICES")
    variables, _ = engine_environment(workload(env=(EnvVar("NVIDIA_VISIBLE_DEVICES", "all"),), leases=()), {})
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_a_job_that_takes_no_mps_gets_none() -> None:
    """NVIDIA's OpenCL does not run beside it."""
    variables, mounts = engine_environment(workload(env=(EnvVar("CHRONOS_MPS", "off"),)), PREPARED)
    assert "CUDA_MPS_PIPE_DIRECTORY" not in variables
    assert not {"/run/mps/pipe", "/dev/shm"} & {mount["Source"] for mount in mounts}


def test_the_jobs_own_paths_come_after_ours() -> None:
    job = (EnvVar("PYTHONPATH", "/job"),)
    variables, mounts = engine_environment(workload(env=job), {"PYTHONPATH": "/lib/hook"})
    assert variables["PYTHONPATH"] == "/lib/hook:/job"
    assert [mount["Source"] for mount in mounts] == ["/lib/hook"]


def test_a_container_has_the_user_shared_memory_network_and_ports_that_were_asked_for() -> None:
    def made(prepared: dict[str, str] | None = None, **more: object) -> dict[str, Any]:
        return spec.service(workload(**more), instance="i", node_id="n", image="x", prepared=prepared)

    def shared_memory(body: dict[str, Any]) -> list[dict[str, Any]]:
        return [m for m in body["TaskTemplate"]["ContainerSpec"]["Mounts"] if m["Target"] == "/dev/shm"]

    body = made(user_id=0, shm_bytes=2**30, ports=((80, 8080),))
    assert body["TaskTemplate"]["ContainerSpec"]["User"] == "0"
    size = {"SizeBytes": 2**30, "Mode": 0o1777}
    assert shared_memory(body) == [{"Type": "tmpfs", "Target": "/dev/shm", "TmpfsOptions": size}]
    assert [m["Type"] for m in shared_memory(made(PREPARED, shm_bytes=2**30))] == ["bind"], "MPS needs the node's own"
    assert body["EndpointSpec"]["Ports"] == [
        {"Protocol": "tcp", "PublishMode": "host", "TargetPort": 80, "PublishedPort": 8080}
    ]
    assert "Networks" not in body["TaskTemplate"]
    body = made(host_network=True, ports=((80, 80),))
    assert (body["TaskTemplate"]["Networks"], body.get("EndpointSpec")) == ([{"Target": "host"}], None)
    assert "User" not in body["TaskTemplate"]["ContainerSpec"]
    assert not shared_memory(body)


def test_the_engine_keeps_as_much_of_a_log_as_is_saved() -> None:
    def kept_by_engine(kept: LogRetention) -> int:
        body = spec.service(workload(), instance="i", node_id="n", image="x", retention=kept)
        options = body["TaskTemplate"]["LogDriver"]["Options"]
        # The oldest file goes when another is begun.
        return int(options["max-size"].removesuffix("m")) * 2**20 * (int(options["max-file"]) - 1)

    assert kept_by_engine(DEFAULT_RETENTION) == sum(DEFAULT_RETENTION)
    assert sum(odd := LogRetention(1, 5 * 2**20)) <= kept_by_engine(odd) <= 7 * 2**20


def test_a_secret_path_hides_no_other_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "SECRETS", str(tmp_path))
    values = {"PATH": "/none of the system's", "TOKEN": "hush\nhush", "LD_LIBRARY_PATH": "/none"}
    for name, value in values.items():
        (tmp_path / name).write_text(value)
    secrets = [spec.SecretFile(name, f"id-{name}", f"secret-{name}") for name in values]
    body = spec.service(
        workload(command=("/usr/bin/env", "-0")), instance="i", node_id="n", image="x", secrets=secrets
    )  # fmt: skip
    command = body["TaskTemplate"]["ContainerSpec"]["Command"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = dict(pair.split("=", 1) for pair in done.stdout.split("\0") if pair)
    assert {name: told[name] for name in values} == values
