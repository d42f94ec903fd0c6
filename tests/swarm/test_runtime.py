"""Device nodes for containers whose GPU's vendor has no runtime for services: Chronos' own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import WorkloadMount, WorkloadState
from cumulus.chronos import container_gc, runtime
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor import Monitor
from cumulus.clock import FakeClock
from cumulus.testing.leases import fake_device
from tests.standin_nvml import GIB, StandInNvml
from tests.swarm.bed import SwarmBed
from tests.swarm.test_backend import lease
from tests.unix_users import open_directory

ID = "pci-0000:03:00.0"


def config(tmp_path: Path, *env: str) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"process": {"env": list(env)}, "linux": {"devices": []}}))
    return path


def machine(tmp_path: Path, vendor: str) -> dict[str, Path]:
    """A /sys and /dev with one GPU."""
    place = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:03:00.0"
    (place / "drm" / "renderD128").mkdir(parents=True)
    (place / "drm" / "card0").mkdir()
    (place / "vendor").write_text(f"{vendor}\n")
    dev = tmp_path / "dev"
    (dev / "dri").mkdir(parents=True)
    for path in (dev / "dri" / "renderD128", dev / "dri" / "card0", dev / "kfd"):
        path.symlink_to("/dev/null")
    return {"home": tmp_path, "sys": tmp_path / "sys", "dev": dev}


@pytest.mark.parametrize(
    ("vendor", "names"), [("0x1002", ["card0", "renderD128", "kfd"]), ("0x8086", ["card0", "renderD128"])]
)
def test_a_gpu_is_found_by_its_address(tmp_path: Path, vendor: str, names: list[str]) -> None:
    path = config(tmp_path, "A=1", f"CHRONOS_DEVICES={ID}")
    runtime.prepare(path, **machine(tmp_path, vendor))
    linux: dict[str, Any] = json.loads(path.read_text())["linux"]
    assert [os.path.basename(device["path"]) for device in linux["devices"]] == names
    assert all(rule["allow"] and rule["access"] == "rwm" for rule in linux["resources"]["devices"])


@pytest.mark.parametrize("linked", [True, False])
def test_python_is_the_one_that_the_installation_names(tmp_path: Path, linked: bool) -> None:
    """Else it is looked for, which takes one start of Python more."""
    for name, word in (("linked", "linked"), ("bin/python3", "looked for")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'#!/bin/sh\n[ "$1" = -c ] || echo "{word}: $*"\n')
        (tmp_path / name).chmod(0o755)
    shutil.copy(Path(runtime.__file__).parents[1] / "nodes" / "worker" / "chronos-runtime", tmp_path)
    if linked:
        (tmp_path / "python").symlink_to("linked")
    environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    command = [str(tmp_path / "chronos-runtime"), "--root", "/r", "create", "id"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said == f"{'linked' if linked else 'looked for'}: -I {tmp_path}/chronos_runtime.py --root /r create id\n"


def test_a_container_without_a_lease_is_left_as_it_is(tmp_path: Path) -> None:
    before = config(tmp_path, "A=1").read_text()
    runtime.prepare(tmp_path / "config.json", **machine(tmp_path, "0x1002"))
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("terminal", "given", "size"),
    [
        (True, "101x33", {"width": 101, "height": 33}),
        (True, "0x0", None),
        (True, "much", None),
        (True, "70000x1", None),
        (False, "101x33", None),
    ],
)
def test_a_terminal_has_its_size_from_the_start(
    tmp_path: Path, terminal: bool, given: str, size: dict[str, int] | None
) -> None:
    path = config(tmp_path, f"{runtime.TERMINAL_VARIABLE}={given}")
    made = json.loads(path.read_text())
    made["process"]["terminal"] = terminal
    path.write_text(json.dumps(made))
    runtime.size_terminal(path)
    assert json.loads(path.read_text())["process"].get("consoleSize") == size


def test_a_device_that_is_not_here_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no device node of pci-0000:99"):
        runtime.prepare(config(tmp_path, "CHRONOS_DEVICES=pci-0000:99:00.0"), **machine(tmp_path, "0x1002"))


UUIDS = ["GPU-00000000-0000-0000-0000-00000000000a", "GPU-00000000-0000-0000-0000-00000000000b"]


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A machine with two of NVIDIA's GPUs, the second as number 0, and their driver."""
    places = machine(tmp_path, "0x10de") | {"proc": tmp_path / "proc"}
    for number, id in enumerate(reversed(UUIDS)):
        information = tmp_path / "proc" / "driver" / "nvidia" / "gpus" / f"0000:0{number}:00.0" / "information"
        information.parent.mkdir(parents=True)
        information.write_text(f"Model: \t\t NVIDIA H100\nGPU UUID: \t {id}\nDevice Minor: \t {number}\n")
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).symlink_to("/dev/null")
    driver = tmp_path / "driver"
    driver.mkdir()
    for name in ("libcuda.so.1", "libnvidia-ml.so.1", "libEGL_nvidia.so.0", "libcuda.so"):
        (driver / name).write_text("")
    lines = "\n".join(f"\t{name} (libc6,x86-64) => {driver / name}" for name in os.listdir(driver))
    (driver / "ldconfig").write_text(f"#!/bin/sh\ncat <<.\n3 libs found\n{lines}\n.\n")
    (driver / "ldconfig").chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver}:{os.environ['PATH']}")
    return places


def test_an_nvidia_gpu_is_found_by_its_uuid_and_the_driver_comes_along(tmp_path: Path, nvidia: dict[str, Path]) -> None:
    """nvidia-container-toolkit is not needed."""
    path = config(tmp_path, "LD_LIBRARY_PATH=/job", f"NVIDIA_VISIBLE_DEVICES={UUIDS[0]}")
    runtime.prepare(path, **nvidia)
    made: dict[str, Any] = json.loads(path.read_text())
    assert [os.path.basename(d["path"]) for d in made["linux"]["devices"]] == ["nvidia1", "nvidiactl", "nvidia-uvm"]
    mounts = {mount["destination"]: mount["source"] for mount in made["mounts"] if "nvidia-smi" not in mount["source"]}
    names = ("libcuda.so.1", "libnvidia-ml.so.1")
    assert mounts == {f"{runtime.NVIDIA_LIBRARIES}/{name}": str(tmp_path / "driver" / name) for name in names}
    assert all("ro" in mount["options"] for mount in made["mounts"])
    assert made["process"]["env"][-1] == f"LD_LIBRARY_PATH={runtime.NVIDIA_LIBRARIES}:/job"


@pytest.mark.parametrize(
    ("loaders", "preloads"),
    [
        (["lib64/ld-linux-x86-64.so.2"], True),
        (["lib/ld-musl-x86_64.so.1"], False),
        (["lib/ld-musl-x86_64.so.1", "lib64/ld-linux-x86-64.so.2"], True),
        ([], True),
    ],
)
def test_the_counter_is_not_preloaded_into_images_with_musl(
    tmp_path: Path, nvidia: dict[str, Path], loaders: list[str], preloads: bool
) -> None:
    path = config(tmp_path, "LD_PRELOAD=/counter.so", f"NVIDIA_VISIBLE_DEVICES={UUIDS[0]}")
    for loader in loaders:
        (tmp_path / "rootfs" / loader).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rootfs" / loader).touch()
    runtime.prepare(path, **nvidia)
    assert ("LD_PRELOAD=/counter.so" in json.loads(path.read_text())["process"]["env"]) is preloads


MIG = "MIG-00000000-0000-0000-0000-00000000000c"


def test_a_mig_instance_is_its_gpu_and_what_lets_into_the_instance(tmp_path: Path, nvidia: dict[str, Path]) -> None:
    driver = StandInNvml(tmp_path / "nvml", {"GPU-0": GIB, "GPU-1": GIB})
    driver.say("GPU-1", "mig", f"instance MIG-other {GIB} 1 1", f"instance {MIG} {GIB} 1 1")
    for place, minor in (("gi2", 12), ("gi2/ci0", 13)):
        access = nvidia["proc"] / "driver" / "nvidia" / "capabilities" / "gpu1" / "mig" / place / "access"
        access.parent.mkdir(parents=True)
        access.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\n")
    # A process of its own, since the loader reads where libraries are at its start.
    places = ", ".join(f"Path({str(nvidia[name])!r})" for name in ("home", "sys", "dev", "proc"))
    made = f"from pathlib import Path; import runpy; made = runpy.run_path({runtime.__file__!r})"
    code = f"{made}; print(*made['device_nodes']({MIG!r}, {places}))"
    env = {**os.environ, "LD_LIBRARY_PATH": str(driver.directory)}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True, check=True)
    dev = nvidia["dev"]
    named = ("nvidia1", "nvidia-caps/nvidia-cap12", "nvidia-caps/nvidia-cap13", "nvidiactl", "nvidia-uvm")
    assert done.stdout.split() == [str(dev / name) for name in named]


def test_all_of_nvidias_gpus_are_no_lease(tmp_path: Path, nvidia: dict[str, Path]) -> None:
    """Images of CUDA set `all` of themselves."""
    for value in ("all", "void", ""):
        before = config(tmp_path, f"NVIDIA_VISIBLE_DEVICES={value}").read_text()
        runtime.prepare(tmp_path / "config.json", **nvidia)
        assert (tmp_path / "config.json").read_text() == before


def test_an_nvidia_gpu_without_its_driver_starts_nothing(
    tmp_path: Path, nvidia: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "driver" / "ldconfig").write_text("#!/bin/sh\n")
    with pytest.raises(ValueError, match="NVIDIA's driver is not in the loader's cache"):
        runtime.prepare(config(tmp_path, f"NVIDIA_VISIBLE_DEVICES={UUIDS[0]}"), **nvidia)


CONTAINER = "c" * 64


def slot(tmp_path: Path, name: str = "default.train.uid-a1-r0", lease: str = "l-1") -> Path:
    """The configuration of a container with that slot, whose engine has its files in engine/containers/CONTAINER."""
    path = config(tmp_path, f"CHRONOS_SLOT={name}", f"CHRONOS_PARTITION_ID={lease}", "CHRONOS_SUBMITTER=admin")
    directory = tmp_path / "engine" / "containers" / CONTAINER
    directory.mkdir(parents=True, exist_ok=True)
    made = json.loads(path.read_text())
    made["mounts"] = [{"destination": "/etc/hostname", "source": f"{directory}/hostname"}]
    path.write_text(json.dumps(made))
    return path


def test_a_slot_is_used_once(tmp_path: Path) -> None:
    """By any container, the same one included: an engine can start one that has ended again."""
    home = tmp_path / "home"
    runtime.take_slot(slot(tmp_path), CONTAINER, home)
    for container in (CONTAINER, "d" * 64):
        with pytest.raises(ValueError, match=r"default\.train\.uid-a1-r0 was started on this node before"):
            runtime.take_slot(slot(tmp_path), container, home)
    runtime.take_slot(slot(tmp_path, "default.train.uid-a2-r0"), "e" * 64, home)
    runtime.take_slot(config(tmp_path, "A=1"), "f" * 64, home)


@pytest.mark.parametrize("name", ["../../etc/x", "a" * 253, ".hidden", "a b"])
def test_a_slot_of_any_name_is_a_file_in_its_place(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    runtime.take_slot(slot(tmp_path, name), CONTAINER, home)
    with pytest.raises(ValueError, match="was started on this node before"):
        runtime.take_slot(slot(tmp_path, name), CONTAINER, home)
    [taken] = (home / "slots" / "taken").iterdir()
    assert json.loads(taken.read_text())["slot"] == name


def test_a_refusal_is_told_where_the_engine_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CHRONOS_RUNC", "true")
    monkeypatch.chdir(tmp_path)
    runtime.take_slot(slot(tmp_path), "first", tmp_path / "home")
    log = tmp_path / "log.json"
    words = ["--log", str(log), "--log-format", "json", "create", "--bundle", str(tmp_path), CONTAINER]
    assert runtime.main(words) == 1
    assert "was started on this node before" in json.loads(log.read_text())["msg"]


def test_a_log_outlives_its_container(tmp_path: Path) -> None:
    home = tmp_path / "home"
    runtime.take_slot(slot(tmp_path), CONTAINER, home)
    files = tmp_path / "engine" / "containers" / CONTAINER
    for age, (name, text) in enumerate([("json.log.1", "old\n"), ("json.log", "new\n")]):
        (files / f"{CONTAINER}-{name}").write_text(text)
        os.utime(files / f"{CONTAINER}-{name}", (age, age))
    runtime.keep_log(CONTAINER, home)
    with (files / f"{CONTAINER}-json.log").open("a") as log:
        log.write("what the engine had yet to write\n")
    shutil.rmtree(files)
    kept = tmp_path / "engine" / "chronos-logs" / CONTAINER
    assert [(kept / name).read_text() for name in ("0", "1")] == ["old\n", "new\nwhat the engine had yet to write\n"]
    runtime.keep_log("another", home)


def test_slots_and_logs_go_when_nobody_can_want_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    runtime.take_slot(slot(tmp_path), CONTAINER, home)
    (tmp_path / "engine" / "containers" / CONTAINER / f"{CONTAINER}-json.log").write_text("x" * 100)
    runtime.keep_log(CONTAINER, home)
    kept = tmp_path / "engine" / "chronos-logs" / CONTAINER
    day = container_gc.REMEMBERED + 60

    def tidied(known: bool, after: float) -> tuple[bool, bool]:
        container_gc.collect(home, lambda lease: known, time.time() + after)
        return any((home / "slots" / "taken").iterdir()), kept.exists()

    assert tidied(known=False, after=0) == (True, True)
    assert tidied(known=True, after=day) == (True, True), "a lease that lives, a container that is there"
    shutil.rmtree(tmp_path / "engine" / "containers" / CONTAINER)
    assert tidied(known=True, after=0) == (True, True), "a day for whoever wants to read it"
    monkeypatch.setattr(container_gc, "KEPT_BYTES", 10)
    assert tidied(known=True, after=0) == (True, False), "too much is kept"
    assert tidied(known=False, after=day) == (False, False)


def test_the_monitor_tidies_slots_up(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "home", FakeClock(), lambda: [fake_device()])
    ledger.list()
    runtime.take_slot(slot(tmp_path), CONTAINER, ledger.home)
    taken = ledger.home / "slots" / "taken"
    # Of long before the fake clock's time.
    os.utime(next(taken.iterdir()), (0, 0))
    Monitor(ledger).step()
    assert not list(taken.iterdir())


@pytest.mark.docker
def test_a_users_container_is_that_users_on_the_node(bed: SwarmBed) -> None:
    """What the engine makes of the specification, and the runtime of that."""
    look = "id -u; id -g; grep -E 'NoNewPrivs|CapBnd|CapEff' /proc/self/status"
    ann: dict[str, Any] = {"submitter": "ann", "submitter_uid": 4_000_001, "submitter_admin": False}
    with open_directory() as data:
        (data / "link").symlink_to("/etc")
        bed.backend.close()
        bed.backend = bed.open(mounts=[str(data)])
        bed.backend.start(work := bed.work("sh", "-c", look, mounts=(WorkloadMount(str(data), "/data"),), **ann))
        bed.finish(work)
        said = bed.log(work).decode().split()
        assert said[:2] == ["4000001", "65534"]
        assert said[2:8] == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
        bed.backend.start(led := bed.work("true", mounts=(WorkloadMount(f"{data}/link", "/data"),), attempt=2, **ann))
        end = bed.finish(led)
        assert end.state is WorkloadState.FAILED
        assert "link leads to /etc, which is in no directory that may be mounted from" in end.message


@pytest.mark.docker
def test_a_service_gets_the_devices_it_leased_and_no_others(bed: SwarmBed) -> None:
    """moby#24865, #40133: services take no --device. /dev/fuse stands for a GPU that the lab does not have."""
    worker = bed.lab.nodes["worker1"]
    (worker.chronos_home / "devices.json").write_text(json.dumps({ID: ["/dev/fuse"]}))
    look = "ls /dev/fuse && : < /dev/fuse && echo opened; ls /dev/net/tun || echo no other"
    try:
        bed.backend.start(work := bed.work("sh", "-c", look, leases=(lease(device_id=ID),)))
        assert bed.finish(work).state is WorkloadState.SUCCEEDED
        assert b"opened" in bed.log(work)
        assert b"no other" in bed.log(work)
        bed.backend.start(plain := bed.work("sh", "-c", "ls /dev/fuse || echo none", attempt=2))
        bed.finish(plain)
        assert b"none" in bed.log(plain)
    finally:
        (worker.chronos_home / "devices.json").unlink()
