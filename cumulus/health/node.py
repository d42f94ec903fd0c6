"""Checks this machine as a node: its ledger, its devices, and how leases are enforced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cumulus.health.finding import Finding, Level
from cumulus.lib import locks
from cumulus.resources.quantity import format_bytes
from cumulus.resources.reasons import EnforcementReason, NodeCondition

if TYPE_CHECKING:
    from cumulus.chronos.contract import Device


def ledger() -> Iterator[Finding]:
    """The node's ledger of leases and its monitor."""
    from cumulus.chronos.local import LEDGER, Ledger, default_home, running

    home = default_home()
    there = next(p for p in (home, *home.parents) if p.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("FAIL", "ledger", f"{there} cannot be written", "set CHRONOS_HOME, or chown the directory")
        return
    if not (home / LEDGER).exists():
        yield Finding("OK", "ledger", f"{home} (created on first use)")
        return
    opened = Ledger(home, start_monitor=False)
    try:
        leases = opened.list()
    finally:
        opened.close()
    yield Finding("OK", "ledger", f"{home}, {len(leases)} live lease{'' if len(leases) == 1 else 's'}")
    pid = running(home)
    if pid and locks.is_stopped(pid):
        text = f"{locks.described([pid])}: leases do not end on time"
        yield Finding("FAIL", "monitor", text, locks.hint([pid], home))
    elif pid is not None:
        yield Finding("OK", "monitor", f"process {pid} ends leases on time")
    elif leases:
        fix = "run: chronos_cli monitor, or install scripts/chronos-monitor.service"
        yield Finding("FAIL", "monitor", "no monitor runs, but leases are live", fix)
    else:
        yield Finding("OK", "monitor", "not running; the first lease starts it")


def devices() -> Iterator[Finding]:
    """The devices that can be leased, and how strongly their leases are enforced."""
    from cumulus.chronos import local

    found = local.discover()
    if not found:
        yield Finding("FAIL", "devices", "no device can be leased", local.explain_none())
        return
    gpus = [d for d in found if d.type == "gpu"]
    if not gpus:
        fix = "for a GPU, install its driver and OpenCL support; see /etc/OpenCL/vendors"
        yield Finding("WARN", "devices", "no GPU; the CPU is used instead", fix)
    for each in found:
        opencl = "" if each.platform_index >= 0 else ", not in OpenCL"
        text = f"{each.index}: {each.name}, {each.type}, {format_bytes(each.memory_bytes)}{opencl}"
        fix = "" if each.platform_index >= 0 else "echo libnvidia-opencl.so.1 > /etc/OpenCL/vendors/nvidia.icd"
        yield Finding("OK" if not opencl else "WARN", "device", text, fix)
    yield from sizes(found, _known_devices(local.default_home()))
    for each in found:
        report = local.enforcement_of(each, local.default_home())
        level: Level = "OK" if report.enforcement.value != "none" and not report.remedy else "WARN"
        text = f"device {each.index}: {report.enforcement.value}: {report.reason}"
        yield Finding(level, "enforcement", text, report.remedy)
    yield from policing(local.default_home())
    yield from parking(local.default_home(), gpus)


def parking(home: Path, gpus: Sequence[Device]) -> Iterator[Finding]:
    """Which frameworks the node's self-test showed to come back from main memory: those alone are ever parked."""
    from cumulus.chronos.local import LEDGER, Ledger

    names = sorted({gpu.name for gpu in gpus if "nvidia" in gpu.vendor.lower()})
    if not names or not (home / LEDGER).exists():
        return
    opened = Ledger(home, start_monitor=False)
    try:
        found = opened.parking()
    finally:
        opened.close()
    for name in names:
        proofs = [proof for proof in found.proofs if proof.device == name]
        if not proofs:
            text = f"nothing was tested on {name}: no lease is parked there"
            yield Finding("WARN", "parking", text, "run: chronos_cli park-test --python PYTHON")
        for proof in proofs:
            holds = "comes back" if proof.holds else "is not parked"
            text = f"{name}, driver {proof.driver}: {proof.framework} {holds}: {proof.message}"
            yield Finding("OK" if proof.holds else "WARN", "parking", text)


def policing(home: Path) -> Iterator[Finding]:
    """Whether overuse is seen, whether devices have failed, and who holds one without a lease, as the monitor says."""
    from cumulus.chronos.local import LEDGER, Ledger

    if not (home / LEDGER).exists():
        return
    opened = Ledger(home, start_monitor=False)
    try:
        conditions = {condition.type: condition for condition in opened.health()}
    finally:
        opened.close()
    fixes = {
        NodeCondition.POLICED: "see docs/enforcement.md; a lease of a whole device does not depend on it",
        NodeCondition.DEVICES_HEALTHY: "reset or replace it; then run: chronos_cli devices --refresh",
        NodeCondition.ONLY_LEASED: "ask whose it is; `chronos_cli policy --unleased End` ends such processes",
    }
    for kind, fix in fixes.items():
        found = conditions.get(kind)
        if found is None:
            continue
        total = found.reason == EnforcementReason.BY_DEVICE
        level: Level = "OK" if found.status and not total else "WARN"
        if kind == NodeCondition.DEVICES_HEALTHY and not found.status:
            level = "FAIL"
        yield Finding(level, "policing", found.message or found.reason, "" if level == "OK" else fix)


def sizes(found: Sequence[Device], known: Sequence[Device]) -> Iterator[Finding]:
    """Where a device has another size than the ledger counts on. `found` is what drivers say, `known` the ledger."""
    from cumulus.chronos.local import settled

    said = {device.id: device.memory_bytes for device in found}
    for each in known:
        aim = each.next_memory_bytes or each.memory_bytes
        now = settled(each.type, aim, said.get(each.id, aim))
        counted = format_bytes(each.memory_bytes)
        text = f"device {each.index} has {format_bytes(now)} of memory, but the ledger records {counted}"
        if now != aim:
            yield Finding("WARN", "memory", text, "run: chronos_cli devices --refresh")
        elif now < each.memory_bytes:
            fix = "wait for leases to end, or end some (see chronos_cli list); until then the device grants nothing"
            yield Finding("WARN", "memory", f"{text}, which its leases use", fix)
        elif now > each.memory_bytes:
            yield Finding("OK", "memory", f"{text} until its last lease ends")


def _known_devices(home: Path) -> Sequence[Device]:
    from cumulus.chronos.local import LEDGER, Ledger

    if not (home / LEDGER).exists():
        return ()
    opened = Ledger(home, start_monitor=False)
    try:
        return opened.known()
    finally:
        opened.close()


def kernels() -> Iterator[Finding]:
    """Whether OpenCL can compile a program for each device: some drivers list devices that they can't use."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _BUILD], capture_output=True, text=True, timeout=45, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        yield Finding("FAIL", "opencl", "compiling a kernel takes more than 45 s", "check the OpenCL driver")
        return
    answers = [line.partition(" ")[2] for line in done.stdout.splitlines() if line.startswith("cumulus-doctor: ")]
    if not answers:
        yield Finding("WARN", "opencl", "pyopencl does not answer", "pip install 'pyopencl[pocl]'")
        return
    for name, problem in json.loads(answers[-1]):
        if problem:
            fix = "update the device's OpenCL driver; jobs that compile kernels fail on it"
            yield Finding("WARN", "opencl", f"{name} can't compile a kernel: {problem}", fix)
        else:
            yield Finding("OK", "opencl", f"{name} compiles and runs a kernel")


_BUILD = """
import json, pyopencl as cl
answers = []
for platform in cl.get_platforms():
    for device in platform.get_devices():
        problem = ''
        try:
            context = cl.Context([device])
            queue = cl.CommandQueue(context)
            program = cl.Program(context, 'kernel void one(global int *x) { x[0] = 1; }').build()
            buffer = cl.Buffer(context, cl.mem_flags.READ_WRITE, 4)
            program.one(queue, (1,), None, buffer)
            queue.finish()
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.startswith('error:')]
            problem = (lines or str(error).splitlines() or [type(error).__name__])[0][:200]
        answers.append((device.name.strip(), problem))
print('cumulus-doctor: ' + json.dumps(answers))
"""


def cgroups() -> Iterator[Finding]:
    """Whether jobs run in cgroups of their own, which hold them also where they leave their supervisor."""
    from cumulus.lib import cgroup

    problem, fix = cgroup.why_unavailable()
    if problem:
        text = f"{problem}: a process that clears its environment and leaves its supervisor can outlive its lease"
        yield Finding("WARN", "cgroups", text, fix)
    else:
        yield Finding("OK", "cgroups", "version 2, writable: each job without an image runs in a cgroup of its own")
