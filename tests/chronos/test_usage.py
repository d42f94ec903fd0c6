"""What leases are shown to use, from a stand-in for NVIDIA's library and from the OpenCL layer's account."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos import metrics, nvml
from cumulus.chronos.contract import Lease, LeasedTotal, LeaseState
from cumulus.chronos.enforce import account
from cumulus.chronos.usage import LeaseUsage, NodeUsage
from cumulus.lib.processes import read
from tests.chronos.conftest import CPU, GIB, GPUS, open_ledger, request
from tests.chronos.test_cli import Shell, shell
from tests.standin_nvml import StandInNvml

__all__ = ["shell"]

Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """GPU-a, on which the process that is named to it holds 21 GiB and has 40 % of the time."""
    standin = StandInNvml(tmp_path / "nvml", {"GPU-a": 80 * GIB})
    monkeypatch.setenv("LD_LIBRARY_PATH", str(standin.directory))
    used = ("held 1 -", "busy 70", "extra 1")
    standin.say("GPU-a", *used, f"held 0 {21 * GIB}")
    return lambda pid: standin.say("GPU-a", *used, f"held {pid} {21 * GIB}", f"sm {pid} 40")


def test_the_driver_tells_what_each_process_uses(driver: Callable[[int], None]) -> None:
    driver(os.getpid())
    mine = nvml.Utilization(21 * GIB, 400)
    assert nvml.read_utilization() == {
        "GPU-a": nvml.DeviceUtilization(nvml.Utilization(21 * GIB + 1, 700), {os.getpid(): mine})
    }


def test_a_driver_that_does_not_start_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin = StandInNvml(tmp_path / "nvml", {"GPU-a": 80 * GIB})
    standin.head("broken")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(standin.directory))
    assert nvml.read_utilization() == {}


def test_stats_show_what_each_lease_uses_and_flag_one_that_uses_more(
    shell: Shell, home: Path, run: Run, driver: Callable[[int], None]
) -> None:
    ledger = open_ledger(home)
    ledger.grant(request("fits", memory_bytes=40 * GIB, compute=500))
    small = ledger.grant(request("small", memory_bytes=20 * GIB, compute=250))
    holder = run("import time; time.sleep(60)")
    ledger.attach("small", holder.pid, small.token)
    driver(holder.pid)
    lines = shell("stats").splitlines()
    # Figures of devices come first, where a monitor has told any.
    begin = next(number for number, line in enumerate(lines) if line.startswith("PARTITION"))
    assert [line.split() for line in lines[begin:]] == [
        ["PARTITION", "DEVICE", "MEMORY", "USED", "IDLE", "COMPUTE", "BUSY", "IDLE"],
        ["fits", "0", "40Gi", "0", "40Gi", "50%", "0%", "50%"],
        ["small", "0", "20Gi", "21Gi", "0", "25%", "40%", "0%", "over", "its", "lease"],
    ]
    told = shell.json("stats")
    assert (told["devices"][0]["usedMemoryBytes"], told["devices"][0]["usedCompute"]) == (21 * GIB + 1, 700)
    assert told["devices"][1]["usedMemoryBytes"] is None
    assert told["leases"][1] == {
        "partitionId": "small",
        "device": 0,
        "memoryBytes": 20 * GIB,
        "usedMemoryBytes": 21 * GIB,
        "idleMemoryBytes": 0,
        "compute": 250,
        "usedCompute": 400,
        "idleCompute": 0,
        "source": "driver",
        "over": True,
        "overCompute": True,
        "parkedBytes": 0,
    }


def test_without_a_driver_the_layers_account_tells_the_memory(shell: Shell, home: Path) -> None:
    ledger = open_ledger(home)
    lease = ledger.grant(request("a", memory_bytes=2 * GIB))
    ledger.grant(request("b", memory_bytes=2 * GIB))
    place = account.open_account(lease, CPU, home)
    me = read(os.getpid())
    assert me is not None
    namespace = os.stat("/proc/self/ns/pid").st_ino
    # As common/account.h lays it out: one slot, of this process, which holds a GiB.
    slot = struct.pack("=iIQQQQ", me.pid, 0, me.start, namespace, 0, GIB)
    (place / "usage").write_bytes(b"CHRUSE1\0" + struct.pack("=I", 1).ljust(120, b"\0") + slot)
    first, second = shell.json("stats")["leases"]
    assert (first["usedMemoryBytes"], first["idleMemoryBytes"], first["usedCompute"]) == (GIB, GIB, None)
    assert (first["source"], second["source"], second["usedMemoryBytes"]) == ("account", None, None)
    assert shell("stats").splitlines()[5].split() == ["a", "0", "2Gi", "1Gi", "1Gi", "25%", "-", "-"]
    assert shell("stats").splitlines()[6].split() == ["b", "0", "2Gi", "-", "-", "25%", "-", "-"]


def lease(**fields: Any) -> Lease:
    defaults: dict[str, Any] = {"user": 'a"d\\a\n', "owner": "lab", "expires_in": 60.0}
    values: dict[str, Any] = {
        "id": "a",
        "device": 0,
        "device_id": "GPU-a",
        "memory_bytes": 20 * GIB,
        "compute": 250,
        **defaults,
    }
    rest: dict[str, Any] = {"grace": 1.0, "token": 1, "state": LeaseState.ACTIVE, "granted_at": "", "expires_at": ""}
    return Lease(**(values | rest | fields))


def test_metrics_are_prometheus_text() -> None:
    uses = [LeaseUsage(lease(), 21 * GIB, None, "driver"), LeaseUsage(lease(id="b", user="", expires_in=-1.0))]
    text = metrics.exposition(
        [(GPUS[0], LeasedTotal(40 * GIB, 500), 2)], NodeUsage(uses, {"GPU-a": nvml.Utilization(3, 700)})
    )
    lines = text.splitlines()
    a = '{partition="a",device="0",user="a\\"d\\\\a\\n",owner="lab"}'
    device = '{device="0",id="GPU-a",name="H100"}'
    for line in (
        "# TYPE chronos_lease_over gauge",
        f"chronos_device_used_memory_bytes{device} 3",
        f"chronos_device_leased_compute_ratio{device} 0.5",
        f"chronos_device_busy_ratio{device} 0.7",
        f"chronos_device_leases{device} 2",
        f"chronos_lease_used_memory_bytes{a} {21 * GIB}",
        f"chronos_lease_idle_memory_bytes{a} 0",
        f"chronos_lease_over{a} 1",
        f"chronos_lease_remaining_seconds{a} 60",
        'chronos_lease_over{partition="b",device="0",user="",owner="lab"} 0',
        'chronos_lease_remaining_seconds{partition="b",device="0",user="",owner="lab"} 0',
    ):
        assert line in lines
    assert "chronos_lease_busy_ratio" not in text
    assert 'chronos_lease_used_memory_bytes{partition="b"' not in text
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_metrics_of_a_node_with_a_lease(shell: Shell, home: Path) -> None:
    open_ledger(home).grant(request("a"))
    lines = shell("metrics").splitlines()
    assert f'chronos_device_leased_memory_bytes{{device="0",id="GPU-a",name="H100"}} {20 * GIB}' in lines
    assert any(line.startswith('chronos_lease_compute_ratio{partition="a",device="0"') for line in lines)
