"""Which devices this machine has: NVIDIA's through nvidia-smi and NVML, all others through OpenCL's C interface: by
the loader that pyopencl is linked with, on macOS by Apple's. pyopencl itself takes ten times as long to import.

Drivers crash, hang, print and keep contexts, so each is asked in a process of its own with a time-out. NVIDIA's
OpenCL driver is often not registered (no nvidia.icd) where the GPU is in full use through CUDA: hence nvidia-smi.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cumulus.chronos import nvml_devices, opencl_library
from cumulus.chronos.contract import Device
from cumulus.chronos.contract.variables import loader_environment
from cumulus.chronos.nvml_devices import Mig
from cumulus.resources.device import Link

TIMEOUT = 30.0
"""Seconds for a driver to answer; a first CUDA initialisation on a big machine takes several."""

_ANSWER = opencl_library.ANSWER
_PROBE = opencl_library.__file__
"""The program that asks an OpenCL library for its devices."""


def discover() -> list[Device]:
    """All devices, GPUs first, then accelerators, then one CPU at most; indices as in this list.

    Empty where no driver answers: `explain_none` says why.
    """
    opencl = read_opencl()
    nvidia = read_nvidia()
    told = nvml_devices.read() if nvidia else nvml_devices.NvmlFindings()
    merged: list[Device] = []
    for gpu, address in nvidia:
        mig = told.mig.get(gpu.id)
        merged += [_joined(gpu, address, opencl)] if mig is None else _instances(gpu, mig)
    taken = {d.id for d in merged} | {(d.platform_index, d.device_index) for d in merged}
    # The same device may be offered by two drivers; the machine's CPU always is one device.
    for device in opencl:
        is_nvidia = bool(nvidia) and "nvidia" in device.vendor.lower()
        cpu_twice = device.type == "cpu" and any(d.type == "cpu" for d in merged)
        if not (is_nvidia or cpu_twice or device.id in taken):
            merged.append(device)
            taken.add(device.id)
    order = {"gpu": 0, "accelerator": 1, "cpu": 2}
    if _nvidia_driver_has_gpus() and not any(d.type == "gpu" for d in merged):
        # There is a GPU, only its tools fail: the CPU must not take its place as device 0.
        merged = [d for d in merged if d.type != "cpu"]
    merged.sort(key=lambda d: order[d.type])
    numbers = {d.id: index for index, d in enumerate(merged)}
    return [replace(d, index=numbers[d.id], links=_links(told.links.get(d.id, {}), numbers)) for d in merged]


def read_nvidia() -> list[tuple[Device, str]]:
    """NVIDIA's GPUs in the driver's (PCI) order, with their UUIDs, and the PCI address of each as the OpenCL probe
    writes it. Empty where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = "--query-gpu=uuid,name,memory.total,driver_version,pci.bus_id"
    output = _run(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    found: list[tuple[Device, str]] = []
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 5 or not fields[0].startswith("GPU-") or not fields[2].isdecimal():
            continue
        uuid, name, mebibytes, driver, address = fields
        device = Device(
            index=len(found),
            id=uuid,
            name=name,
            vendor="NVIDIA",
            type="gpu",
            memory_bytes=int(mebibytes) * 2**20,
            driver=driver,
        )
        # nvidia-smi writes the PCI domain with eight digits.
        found.append((device, f"pci-{address.lower()[-12:]}"))
    return found


def read_opencl() -> list[Device]:
    """The devices of every OpenCL platform, in the loader's order. Empty where there is no pyopencl or platform."""
    rows = _probe()["devices"]
    return [Device(index=index, **row) for index, row in enumerate(rows)]


def explain_none() -> str:
    """Why no device was found, and what to do, in one line."""
    if nvml_devices.read().mig:
        return "the GPUs are in MIG mode and have no instances: an administrator makes some with nvidia-smi mig -cgi"
    if _nvidia_driver_has_gpus():
        return "the NVIDIA driver has a GPU, but neither nvidia-smi nor OpenCL reports it: see what nvidia-smi says"
    if sys.platform == "darwin":
        return "Apple's OpenCL offers no device"
    output = _run([sys.executable, "-c", "import pyopencl, sys; sys.stdout.write('there')"])
    if not output.endswith("there"):
        return "pyopencl is not installed for this Python: pip install 'pyopencl[pocl]' also brings a CPU device"
    for unusable in _probe()["unusable"]:
        return f"{unusable} cannot compile for this CPU: pip install 'cumulus-gpu[intel-cpu]' brings a runtime that can"
    return "no OpenCL platform has a device: install the GPU's driver, or pip install 'pyopencl[pocl]' for a CPU device"


def _probe() -> dict[str, list[Any]]:
    """What the probe found: the devices, and the names of CPU devices that are there but of no use."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENCL_LAYERS", "PYOPENCL_CTX")}
    if sys.platform == "darwin":
        library = opencl_library.APPLE
    elif (extension := _pyopencl()) is None:
        return {"devices": [], "unusable": []}
    else:
        library = str(extension)
        # The wheel's loader looks for its driver there; pyopencl sets it too.
        environment |= {"PYOPENCL_HOME": str(extension.parent), **loader_environment()}
    # It needs the standard library alone, and sets up no site-packages.
    return _parsed(_run([sys.executable, "-I", "-S", _PROBE, library], environment))


def _pyopencl() -> Path | None:
    """pyopencl's extension module, through which its loader is found, bundled or the system's; pyopencl is not
    imported. None where it is not installed."""
    from importlib.util import find_spec

    spec = find_spec("pyopencl")
    places = spec.submodule_search_locations if spec is not None else None
    return next((path for place in places or () for path in sorted(Path(place).glob("_cl.*so"))), None)


def _parsed(output: str) -> dict[str, list[Any]]:
    """What a probe printed, between the words of drivers."""
    answers = [line for line in output.splitlines() if line.startswith(_ANSWER)]
    if not answers:
        return {"devices": [], "unusable": []}
    found: dict[str, list[Any]] = json.loads(answers[-1][len(_ANSWER) :])
    return found


def _nvidia_driver_has_gpus() -> bool:
    """As the kernel's part of the driver says."""
    try:
        return bool(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return False


def _joined(gpu: Device, address: str, opencl: Sequence[Device]) -> Device:
    """The GPU with its OpenCL numbers, where OpenCL has it: by its UUID, else by its address."""
    same = next((d for d in opencl if d.id in (gpu.id, address)), None)
    if same is None:
        return gpu
    return replace(gpu, platform_index=same.platform_index, device_index=same.device_index)


def _instances(gpu: Device, mig: Mig) -> list[Device]:
    """Those of a GPU in MIG mode, which is no device itself: nothing can run on it."""
    return [
        replace(
            gpu, id=found.id, name=f"{gpu.name} MIG {found.profile}", memory_bytes=found.memory_bytes, parent=gpu.id
        )
        for found in mig.instances
    ]


def _links(told: Mapping[str, Link], numbers: Mapping[str, int]) -> tuple[tuple[Link, tuple[int, ...]], ...]:
    """By indices, the fastest first; of devices that are offered alone."""
    found = {
        link: tuple(sorted(numbers[id] for id, over in told.items() if over is link and id in numbers)) for link in Link
    }
    return tuple((link, indices) for link, indices in found.items() if indices)


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What the command printed, "" where it failed, crashed or did not end in time."""
    import subprocess

    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=TIMEOUT,
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
