"""What `doctor` looks at, one function for each part of the machine. Each answers within its own time-out and
changes nothing, but for files that it removes again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cumulus import daemon_lock, environment, paths
from cumulus.cli import context
from cumulus.clock import SystemClock, parse_timestamp
from cumulus.errors import BackendError, CumulusError, NotFound
from cumulus.lib import locks
from cumulus.resources.columns import age
from cumulus.resources.documents import condition
from cumulus.resources.quantity import format_bytes
from cumulus.service import diagnose

if TYPE_CHECKING:
    from cumulus.chronos.contract import Device

Level = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` is what to do about it, "" where nothing needs to be done."""

    level: Level
    what: str
    text: str
    fix: str = ""


def state() -> Iterator[Finding]:
    """The state directory: there or to be made, writable, private."""
    home = paths.home()
    there = next(p for p in (home, *home.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        fix = "set CUMULUS_HOME to a directory that you may write, or chown this one"
        yield Finding("FAIL", "state", f"{there} cannot be written", fix)
        return
    if there != home:
        yield Finding("OK", "state", f"{home} (is made when it is first used)")
        return
    free = shutil.disk_usage(home).free
    if free < 2**28:
        yield Finding("WARN", "state", f"{home} has only {format_bytes(free)} free", "free some disk space")
    elif home.stat().st_mode & 0o002:
        yield Finding("FAIL", "state", f"{home} can be written by everybody", f"run: chmod go-w {home}")
    elif home.stat().st_mode & 0o020:
        yield Finding("WARN", "state", f"{home} can be written by other users", f"run: chmod go-w {home}")
    else:
        yield Finding("OK", "state", f"{home}, {format_bytes(free)} free")


def store() -> Iterator[Finding]:
    """The store: opens, reads every object, and takes a write."""
    directory = paths.store_dir(paths.home())
    if not directory.exists():
        daemon_lock.refuse_unread(paths.home())
        yield Finding("OK", "store", f"{directory} (is made when it is first used)")
        return
    from cumulus import stores
    from cumulus.resources.registry import KINDS
    from cumulus.store.base import Query

    daemon_lock.refuse_unread(paths.home())
    opened = stores.open_store(directory)
    try:
        counts = [(kind, len(opened.list(Query(kind=kind.name)).items)) for kind in KINDS]
        revision = opened.revision()
        wrong = list(diagnose.damaged(opened))
    finally:
        opened.close()
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        fix = "free some disk space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"chown or chmod {directory}"
        yield Finding("FAIL", "store", f"{directory} cannot be written: {error.strerror}", fix)
        return
    shown = ", ".join(f"{n} {k.name.lower() if n == 1 else k.plural}" for k, n in counts if n) or "no objects"
    if wrong:
        said = f"{len(wrong)} of its objects {'is' if len(wrong) == 1 else 'are'} not valid and left alone: {wrong[0]}"
        yield Finding("WARN", "store", f"revision {revision}, {shown}; {said}", wrong[0].hint or "")
        return
    yield Finding("OK", "store", f"revision {revision}, {shown}; every object reads well")


def daemon() -> Iterator[Finding]:
    """Whether a daemon runs here, and which leads."""
    pid = daemon_lock.daemon_pid(paths.home())
    if pid is None:
        yield Finding("WARN", "daemon", "none runs on this state directory", "run: cumulus serve")
        return
    from cumulus.resources.key import Key

    with context.open_store() as opened:
        try:
            lease = opened.get(Key("Lease", "", "cumulus-controller"))
        except NotFound:
            lease = {}
    yield leadership(pid, lease, SystemClock().now())


RENEWED_SECONDS = 20.0
"""A leader renews every 2 s. One that did not for so long does not lead, also where clocks of machines differ."""


def leadership(pid: int, lease: dict[str, Any], now: datetime) -> Finding:
    """Who leads, by the Lease's document, and whether it does the work. `pid` is that of a daemon that runs here."""
    from cumulus.machinery.process_identity import pid_here

    spec = lease.get("spec") or {}
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if not lease:
        return Finding("OK", "daemon", f"process {pid}; none leads yet")
    if not holder or not renewed:
        fix = "look again in some seconds; where it stays so, read the daemon's log"
        return Finding("WARN", "daemon", f"process {pid}; none leads: nothing that is applied comes true", fix)
    said = f"{holder} leads, renewed {age(renewed, now)} ago"
    leader = pid_here(spec.get("holderProcess") or "")
    if leader is not None and locks.is_stopped(leader):
        return Finding("FAIL", "daemon", f"{said}: {locks.described([leader])}", locks.hint([leader], ""))
    if (now - parse_timestamp(renewed)).total_seconds() > RENEWED_SECONDS:
        fix = f"read the log of process {pid}, and start it again where it says nothing: jobs go on without it"
        return Finding("FAIL", "daemon", f"process {pid}; none leads: {holder} renewed {age(renewed, now)} ago", fix)
    progress = condition(lease, "Progressing")
    if progress.get("status") == "False":
        fix = "read its log for what it waits for; start it again where that does not end: jobs go on without it"
        return Finding("FAIL", "daemon", f"{said}, but does not do its work: {progress.get('message', '')}", fix)
    return Finding("OK", "daemon", f"process {pid}; {said}")


def ledger() -> Iterator[Finding]:
    """The node's ledger of leases and its monitor."""
    from cumulus.chronos.local import LEDGER, Ledger, default_home, running

    home = default_home()
    there = next(p for p in (home, *home.parents) if p.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("FAIL", "ledger", f"{there} cannot be written", "set CHRONOS_HOME, or chown the directory")
        return
    if not (home / LEDGER).exists():
        yield Finding("OK", "ledger", f"{home} (is made when it is first used)")
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
        yield Finding("FAIL", "monitor", "none runs, though leases are live", fix)
    else:
        yield Finding("OK", "monitor", "none runs; the first lease starts it")


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
        yield Finding("WARN", "devices", "no GPU; the CPU stands in for one", fix)
    for each in found:
        opencl = "" if each.platform_index >= 0 else ", not in OpenCL"
        text = f"{each.index}: {each.name}, {each.type}, {format_bytes(each.memory_bytes)}{opencl}"
        fix = "" if each.platform_index >= 0 else "echo libnvidia-opencl.so.1 > /etc/OpenCL/vendors/nvidia.icd"
        yield Finding("OK" if not opencl else "WARN", "device", text, fix)
    yield from sizes(found, _known_devices(local.default_home()))
    for each in found:
        report = local.enforcement_of(each, local.default_home())
        level: Level = "OK" if report.enforcement.value != "none" else "WARN"
        text = f"device {each.index}: {report.enforcement.value}: {report.reason}"
        yield Finding(level, "enforcement", text, report.remedy)


def sizes(found: Sequence[Device], known: Sequence[Device]) -> Iterator[Finding]:
    """Where a device has another size than the ledger counts on. `found` is what drivers say, `known` the ledger."""
    from cumulus.chronos.local import settled

    said = {device.id: device.memory_bytes for device in found}
    for each in known:
        aim = each.next_memory_bytes or each.memory_bytes
        now = settled(each.type, aim, said.get(each.id, aim))
        counted = format_bytes(each.memory_bytes)
        text = f"device {each.index} has {format_bytes(now)} of memory, and the ledger counts on {counted}"
        if now != aim:
            yield Finding("WARN", "memory", text, "run: chronos_cli devices --refresh")
        elif now < each.memory_bytes:
            fix = "let leases end, or end some: chronos_cli list; until then nothing is granted there"
            yield Finding("WARN", "memory", f"{text}, which its leases hold", fix)
        elif now > each.memory_bytes:
            yield Finding("OK", "memory", f"{text} until no lease lives there")


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

    problem, fix = cgroup.trouble()
    if problem:
        text = f"{problem}: a process that clears its environment and leaves its supervisor can outlive its lease"
        yield Finding("WARN", "cgroups", text, fix)
    else:
        yield Finding("OK", "cgroups", "version 2, writable: each job without an image runs in a cgroup of its own")


def docker() -> Iterator[Finding]:
    """The engine for jobs with an image."""
    if shutil.which("docker") is None:
        yield Finding("WARN", "docker", "not installed: jobs with an image can't run here", "apt install docker.io")
        return
    done = _run(["docker", "info", "--format", "{{json .}}"], 8)
    info = _json_object(done.stdout) if done else {}
    if not info.get("ServerVersion"):
        said = done.stderr.strip() if done else "no answer within 8 s"
        problem = (info.get("ServerErrors") or [said or "no version"])[0]
        fix = "start it (systemctl start docker), and put yourself into the group docker"
        yield Finding("WARN", "docker", f"the engine does not answer: {str(problem)[:160]}", fix)
        return
    swarm = (info.get("Swarm") or {}).get("LocalNodeState", "unknown")
    yield Finding("OK", "docker", f"Engine {info.get('ServerVersion', '?')}, swarm {swarm}")


def ssh() -> Iterator[Finding]:
    """The client and agent by which other nodes are reached."""
    if shutil.which("ssh") is None:
        yield Finding("WARN", "ssh", "no client: other nodes can't be reached", "apt install openssh-client")
        return
    done = _run(["ssh", "-V"], 5)
    version = done.stderr.strip().split(",")[0] if done else "ssh does not answer"
    if not os.environ.get(environment.SSH_AUTH_SOCK):
        yield Finding("WARN", "ssh", f"{version}; no agent runs", "run: eval $(ssh-agent) && ssh-add")
        return
    keys = _run(["ssh-add", "-l"], 5)
    if keys is None or keys.returncode == 2:
        yield Finding("WARN", "ssh", f"{version}; the agent does not answer", "run: eval $(ssh-agent) && ssh-add")
    elif keys.returncode == 1:
        yield Finding("WARN", "ssh", f"{version}; the agent holds no key", "run: ssh-add")
    else:
        yield Finding("OK", "ssh", f"{version}; the agent holds {len(keys.stdout.splitlines())} keys")


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    """None where it can't be run or does not answer in time."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def owner() -> Iterator[Finding]:
    """Whether the Swarm that the environment names is this state directory's."""
    from cumulus.infrastructure import swarm

    if swarm.engine() is None:
        return
    with context.open_store() as opened:
        backend = swarm.named_backend(paths.home(), opened)
        try:
            trouble: BackendError | None = backend.ownership.trouble()
        except BackendError as error:
            yield Finding("WARN", "swarm", str(error), error.hint or "")
            return
        finally:
            backend.close()
    if trouble is None:
        yield Finding("OK", "swarm", "answers, and belongs to nobody else")
    else:
        yield Finding("FAIL", "swarm", str(trouble), trouble.hint or "")


CHECKS = (state, store, daemon, ledger, devices, kernels, cgroups, docker, owner, ssh)


def guarded(check: object) -> list[Finding]:
    """What a check found; an error of ours is a finding too."""
    assert callable(check)
    name = str(getattr(check, "__name__", "check"))
    try:
        return list(check())
    except (CumulusError, OSError) as error:
        return [Finding("FAIL", name, str(error), getattr(error, "hint", None) or "")]
