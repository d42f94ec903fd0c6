"""Gives a container the device nodes of the GPUs it leased, once: an OCI runtime before runc, for GPUs of all vendors.

    dockerd -> chronos-runtime create --bundle DIR ID -> (its slot is taken, config.json gets the devices) -> runc
    dockerd -> chronos-runtime delete ID -> (its log is kept) -> runc

Docker's services take no --device, and the vendors' own runtimes exist for NVIDIA and AMD alone. As the engine's
default runtime this serves services and plain containers alike. A container says what it leased in CHRONOS_DEVICES:
device ids as `chronos_cli devices` shows them, separated by commas; NVIDIA's GPUs and MIG instances by UUID in
NVIDIA_VISIBLE_DEVICES, as with NVIDIA's own runtime, and with them the driver's libraries.

A container with a CHRONOS_SLOT starts only where no other one has had that slot, so that a replica of an attempt runs
once on its lease, whatever the engine is told. An engine that is stopped removes the containers of a Swarm's tasks with
their logs, so those stay under a second name: CHRONOS_HOME/slots says where (`cumulus.chronos.container_gc` tidies up).

A container with a slot also says who submitted it. Unless that was an admin, it runs as them, without capabilities and
ways to get any, in namespaces of its own; what it mounts is looked up as them, and lies where an administrator said.
One of the host image gets the node's root: see `host_program`, which lies beside this file.
Standard library only; other calls go to runc untouched.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VARIABLE = "CHRONOS_DEVICES"
NVIDIA_VARIABLE = "NVIDIA_VISIBLE_DEVICES"
SLOT_VARIABLE = "CHRONOS_SLOT"
"""The replica of an attempt that the container is: used once on this node."""
LEASES_VARIABLE = "CHRONOS_PARTITION_ID"
SUBMITTER_VARIABLE = "CHRONOS_SUBMITTER"
"""Whom the container must run as, UID:GID:GROUP,…; UNCONFINED: it has what its job asks for. With a slot only."""
UNCONFINED = "admin"
HOST_PREFIX = "host:"
"""What it begins with where the container is to have the node's root: host:NAME:UID. The daemon writes that variable to
every container, so no job and no image can."""
HOST_MARK = ".cumulus-host"
"""The only file of the host image."""
MOUNTS_VARIABLE = "CHRONOS_MOUNTS"
"""JSON: `targets`, the container's paths whose sources its submitter named, and the directories those are `under`."""

INPUT_VARIABLE = "CHRONOS_INPUT"
"""Of a container whose program is given its standard input later. With a slot only."""

TERMINAL_VARIABLE = "CHRONOS_TERMINAL"
"""Of a container with a terminal: that one's size at the start, COLUMNSxROWS. The engine has no word for it."""

SLOTS = "slots"
"""In CHRONOS_HOME: taken/SLOT a slot that was used, logs/CONTAINER where a container's log is."""
TAKEN, LOGS, JOINED, INPUTS = "taken", "logs", "joined", "inputs"
"""JOINED: of a container, as what processes join it. The engine knows nothing of what was changed here. INPUTS: of a
container, the socket at which its program's input is handed out: see `hold_input`."""
GIVEN, END = b"given", b"end"
"""What comes with the pipe there, and what is said once all is written."""
KEPT = "chronos-logs"
"""Beside the engine's own directory `containers`, so on the same disk: the logs of containers that have ended."""

NVIDIA_LIBRARIES = "/usr/local/lib/chronos/nvidia"
"""Where a container finds the driver's libraries."""

RUNC = "runc"
PROGRAMS = "programs"
"""A call of ours, not runc's: what the node says of those who want programs of its disk run."""

_PCI = re.compile(r"pci-([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")
_AMD = "0x1002"
_NVIDIA = re.compile(r"(?:GPU|MIG)-[0-9a-f-]{36}")
_NVIDIA_SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
_NVIDIA_LIBRARY = re.compile(
    r"\s*(lib(?:cuda|nvidia-(?:allocator|cfg|gpucomp|ml|nvvm|opencl|pkcs11\S*?|ptxjitcompiler))\.so\.\S+)"
    r" \(libc6,(?:x86-64|AArch64)[^)]*\) => (\S+)"
)
"""In the loader's cache: what computing needs, by the name that programs ask for."""


def main(arguments: Sequence[str]) -> int:
    """Prepare the bundle where a container is made, then become runc. Returns only where that fails."""
    if list(arguments[:1]) == [PROGRAMS]:
        print(_host_program().answer(arguments[1]))
        return 0
    bundle = _bundle(arguments)
    home = Path(os.environ.get("CHRONOS_HOME", "/var/lib/chronos"))
    if bundle is not None:
        try:
            make(bundle, arguments[-1], home)
        except (OSError, ValueError, KeyError) as error:
            _say(f"chronos-runtime: {error}", arguments)
            return 1
    elif "exec" in arguments:
        try:
            join(arguments, home)
        except (OSError, ValueError, KeyError) as error:
            _say(f"chronos-runtime: {error}", arguments)
            return 1
    elif "delete" in arguments:
        with contextlib.suppress(OSError):
            (home / SLOTS / JOINED / arguments[-1]).unlink(missing_ok=True)
            (home / SLOTS / INPUTS / arguments[-1]).unlink(missing_ok=True)
            keep_log(arguments[-1], home)
    runc = os.environ.get("CHRONOS_RUNC") or RUNC
    try:
        os.execvp(runc, [runc, *arguments])
    except OSError as error:
        _say(f"chronos-runtime: {runc} cannot be run: {error.strerror}", arguments)
    return 127


def make(bundle: Path, container: str, home: Path) -> None:
    """All that is done before a container is made. Raises ValueError, OSError, KeyError where it may not be."""
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    given = _given(config)
    submitter = given.get(SUBMITTER_VARIABLE, "")
    marked = os.path.lexists(bundle / str((config.get("root") or {}).get("path", "")) / HOST_MARK)
    program = None
    if submitter.startswith(HOST_PREFIX):
        if not marked or not given.get(SLOT_VARIABLE):
            raise ValueError("a program of the node runs in the host image alone, for a job")
        program = _host_program().program_of(config, submitter.removeprefix(HOST_PREFIX), given)
    elif marked:
        raise ValueError("the host image runs programs of the node for Cumulus alone: no container can be made of it")
    else:
        confine(path)
    prepare(path, home, driver=program is None)
    size_terminal(path)
    take_slot(path, container, home)
    hold_input(path, container, home)
    note = {}
    if program is not None:
        config = json.loads(path.read_text())
        directory = _host_program().enter(config, program, home)
        _replace(path, config)
        note = _host_program().shared(config, directory)
    elif given.get(SLOT_VARIABLE):
        note = shared(json.loads(path.read_text()), given)
    if note:
        _write_once(home / SLOTS / JOINED / container, json.dumps(note), durably=False)
    if program is not None:
        _host_program().bind_root()


def shared(config: Mapping[str, Any], before: Mapping[str, str]) -> dict[str, Any]:
    """What processes that join a container later have of it, where the engine would not give it to them. `before`: the
    variables that the engine knows."""
    note: dict[str, Any] = {}
    after = _given(config)
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    gone = [name for name in before if name not in after]
    if changed or gone:
        note["changed"] = {**dict.fromkeys(gone), **changed}
    if before.get(SUBMITTER_VARIABLE) != UNCONFINED:
        note["user"] = config["process"]["user"]
    return note


def join(arguments: Sequence[str], home: Path) -> None:
    """Let a process that joins a container be no more than the program there: of one with the node's root, say, the
    engine knows nothing, and would give it root's group and another environment. Raises OSError, ValueError."""
    try:
        note = json.loads((home / SLOTS / JOINED / arguments[-1]).read_text())
    except FileNotFoundError:
        note = {}
    named = next((after for word, after in itertools.pairwise(arguments) if word in ("--process", "-p")), "")
    if not named and note:
        raise ValueError("a process joins a job's container by a file that describes it")
    process = json.loads(Path(named).read_text()) if named else {}
    given = _given({"process": process})
    # Also in a container that an older runtime made, which left no note.
    confined = "user" in note or (given.get(SLOT_VARIABLE) and given.get(SUBMITTER_VARIABLE) != UNCONFINED)
    if not note and not confined:
        return
    if "user" in note:
        process["user"] = note["user"]
    if confined:
        process["capabilities"] = {}
        process["noNewPrivileges"] = True
    if "env" in note:
        _host_program().join(process, note)
    elif "changed" in note:
        kept = [entry for entry in process.get("env") or () if entry.partition("=")[0] not in note["changed"]]
        new = [f"{name}={value}" for name, value in note["changed"].items() if value is not None]
        process["env"] = [*kept, *new]
    Path(named).write_text(json.dumps(process))


def _host_program() -> Any:
    """Loaded for those alone: every start of a container waits for this program's imports. -I has no directory of the
    script's among those that modules are found in."""
    sys.path.append(str(Path(__file__).resolve().parent))
    import host_program  # type: ignore[import-not-found]

    return host_program


def size_terminal(path: Path) -> None:
    """Let the container's terminal have its size before the program starts. One that makes no sense is no size."""
    config = json.loads(path.read_text())
    size = re.fullmatch("([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", _given(config).get(TERMINAL_VARIABLE, ""))
    if size is not None and config["process"].get("terminal"):
        config["process"]["consoleSize"] = {"width": int(size[1]), "height": int(size[2])}
        _replace(path, config)


def take_slot(path: Path, container: str, home: Path) -> None:
    """Note that the container has its slot. Raises ValueError where one had it before, however that ended."""
    config = json.loads(path.read_text())
    given = _given(config)
    slot = given.get(SLOT_VARIABLE, "")
    if not slot:
        return
    taken = home / SLOTS / TAKEN / _file_name(slot)
    leases = [lease for lease in given.get(LEASES_VARIABLE, "").split(",") if lease]
    note = {"slot": slot, "container": container, "leases": leases}
    try:
        _write_once(taken, json.dumps(note))
    except FileExistsError:
        raise ValueError(f"{slot} was started on this node before: a lease runs its program once") from None
    if directory := _engines_directory(config, container):
        _write_once(home / SLOTS / LOGS / container, directory, durably=False)


def hold_input(path: Path, container: str, home: Path) -> None:
    """Make a pipe the container's standard input, where its program waits for one. A process of its own holds the other
    end, and hands it out once to whoever connects to the container's socket. It holds it until they say that all is
    written, or the container is gone: where they are killed, the program reads no end. Raises OSError."""
    given = _given(json.loads(path.read_text()))
    if not given.get(SLOT_VARIABLE) or not given.get(INPUT_VARIABLE):
        return
    # Others do not wait for this import.
    import socket

    place = home / SLOTS / INPUTS / container
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    readable, writable = os.pipe()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(place.parent)
    # An address has less room than a path.
    listener.bind(place.name)
    os.fchdir(here)
    os.close(here)
    listener.listen(1)
    child = os.fork()
    if child == 0:
        try:
            if os.fork() == 0:
                _hold(listener, writable, place)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.dup2(readable, 0)
    for descriptor in (readable, writable):
        os.close(descriptor)
    listener.close()


def _hold(listener: Any, writable: int, place: Path) -> None:
    """In a process that belongs to nobody, and holds nothing else of the container's."""
    import array
    import select
    import socket

    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    kept = sorted((listener.fileno(), writable))
    for first, last in ((3, kept[0]), (kept[0] + 1, kept[1]), (kept[1] + 1, os.sysconf("SC_OPEN_MAX"))):
        os.closerange(first, last)
    poll = select.poll()
    # Told where nobody can read it any more.
    poll.register(writable, 0)
    poll.register(listener, select.POLLIN)
    connection = None
    while writable not in (ready := dict(poll.poll())):
        if connection is None:
            place.unlink(missing_ok=True)
            connection, _ = listener.accept()
            poll.unregister(listener)
            rights = array.array("i", [writable])
            connection.sendmsg([GIVEN], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            poll.register(connection, select.POLLIN)
        elif connection.fileno() in ready:
            if connection.recv(len(END)) == END:
                return
            poll.unregister(connection)
    place.unlink(missing_ok=True)


def confine(path: Path) -> None:
    """Hold a container to what its submitter may do here. Raises ValueError where it asks for more."""
    config = json.loads(path.read_text())
    given = _given(config)
    submitter = given.get(SUBMITTER_VARIABLE, "")
    if not given.get(SLOT_VARIABLE) or submitter == UNCONFINED:
        return
    if not submitter:
        raise ValueError("the container does not say who submitted it: the daemon is older than this node's runtime")
    uid, gid, groups = submitter.split(":")
    allowed = {int(gid), *(int(group) for group in groups.split(",") if group)}
    process = config["process"]
    user = process.get("user") or {}
    if user.get("uid") != int(uid) or not int(uid):
        raise ValueError(f"the container would run as the user {user.get('uid')}, not as its submitter, {uid}")
    if not allowed.issuperset({user.get("gid"), *(user.get("additionalGids") or ())}):
        raise ValueError("the container would be in groups that its submitter is not in")
    namespaces = {namespace.get("type") for namespace in config["linux"].get("namespaces") or ()}
    if missing := {"pid", "network", "ipc", "mount"} - namespaces:
        raise ValueError(f"the container would share the node's own: {', '.join(sorted(missing))}")
    process["noNewPrivileges"] = True
    process["capabilities"] = {}
    _look_up_mounts(config, json.loads(given.get(MOUNTS_VARIABLE) or "{}"), int(uid), int(gid), allowed)
    _replace(path, config)


def _look_up_mounts(config: dict[str, Any], wanted: dict[str, Any], uid: int, gid: int, groups: set[int]) -> None:
    """Put what the submitter reaches by the source of each of their mounts in its place: no link leads elsewhere.

    Whoever may rename a directory above a source can still do so until runc has mounted it."""
    under = [os.path.realpath(place) for place in wanted.get("under") or ()]
    mounts = {os.path.normpath(mount["destination"]): mount for mount in config.get("mounts") or ()}
    for target in wanted.get("targets") or ():
        mount = mounts.get(target)
        if mount is None:
            raise ValueError(f"nothing is mounted at {target}, where the job mounts something")
        source = _reached(mount["source"], uid, gid, groups)
        if not any(source == place or source.startswith(f"{place.rstrip('/')}/") for place in under):
            raise ValueError(f"{mount['source']} leads to {source}, which is in no directory that may be mounted from")
        mount["source"] = source


def _reached(path: str, uid: int, gid: int, groups: set[int]) -> str:
    """Where a path leads for that user. Raises ValueError where they reach nothing by it."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(sorted(groups))
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            found = os.open(path, os.O_PATH | os.O_CLOEXEC)
            os.write(writable, b"=" + os.fsencode(os.readlink(f"/proc/self/fd/{found}")))
        except OSError as error:
            os.write(writable, (error.strerror or str(error)).encode())
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    if not said.startswith(b"="):
        raise ValueError(f"{path} can't be mounted: for its submitter it is: {said.decode(errors='replace')}")
    return os.fsdecode(said[1:])


def keep_log(container: str, home: Path) -> None:
    """Give what a container wrote, which has ended, names that stay when its engine removes it: 0, 1, … by age."""
    note = home / SLOTS / LOGS / container
    try:
        directory = Path(note.read_text())
    except FileNotFoundError:
        return
    files = sorted(directory.glob(f"{container}-json.log*"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    kept = directory.parent.parent / KEPT / container
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number, file in enumerate(files):
        with contextlib.suppress(FileExistsError):
            os.link(file, kept / str(number))


def prepare(
    path: Path,
    home: Path | None = None,
    sys: Path = Path("/sys"),
    dev: Path = Path("/dev"),
    proc: Path = Path("/proc"),
    *,
    driver: bool = True,
) -> None:
    """Add the leased devices to an OCI configuration (runtime-spec, config-linux.md). `driver`: with NVIDIA's
    libraries, which a program of the node finds itself. Raises OSError, ValueError."""
    config = json.loads(path.read_text())
    wanted = _wanted(config)
    if not wanted:
        return
    home = home or Path(os.environ.get("CHRONOS_HOME", "/var/lib/chronos"))
    if driver and any(_NVIDIA.fullmatch(id) for id in wanted):
        _add_driver(config, nvidia_libraries())
        _preload_nothing_in_musl(config, path.parent)
    linux = config.setdefault("linux", {})
    present = {device["path"] for device in linux.setdefault("devices", [])}
    rules = linux.setdefault("resources", {}).setdefault("devices", [])
    for id in wanted:
        nodes = device_nodes(id, home, sys, dev, proc)
        if not nodes:
            raise ValueError(f"no device node of {id} is here; name them in {home}/devices.json")
        for node in nodes:
            device, rule = _entry(node)
            if device["path"] not in present:
                present.add(device["path"])
                linux["devices"].append(device)
            rules.append(rule)
    _replace(path, config)


def device_nodes(id: str, home: Path, sys: Path, dev: Path, proc: Path) -> Sequence[Path]:
    """The device nodes of a device: what `home`/devices.json says of it, else what the kernel does."""
    try:
        named = json.loads((home / "devices.json").read_text()).get(id)
    except FileNotFoundError:
        named = None
    if named is not None:
        return [Path(path) for path in named]
    if _NVIDIA.fullmatch(id):
        return _nvidia_nodes(id, dev, proc)
    match = _PCI.fullmatch(id)
    if match is None:
        return []
    place = sys / "bus" / "pci" / "devices" / match[1]
    try:
        names = sorted(path.name for path in (place / "drm").iterdir() if re.fullmatch(r"(card|renderD)\d+", path.name))
        vendor = (place / "vendor").read_text().strip()
    except FileNotFoundError:
        return []
    nodes = [dev / "dri" / name for name in names]
    if vendor == _AMD and (dev / "kfd").exists():
        # ROCm's compute queues; which GPU they reach is limited by the render nodes that are there.
        nodes.append(dev / "kfd")
    return nodes


def nvidia_libraries() -> dict[str, str]:
    """The driver's libraries on this machine, as the loader knows them: name to path."""
    ldconfig = shutil.which("ldconfig", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if ldconfig is None:
        return {}
    cache = subprocess.run([ldconfig, "-p"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    found: dict[str, str] = {}
    for match in filter(None, map(_NVIDIA_LIBRARY.fullmatch, cache.stdout.splitlines())):
        # The loader takes the first.
        found.setdefault(match[1], os.path.realpath(match[2]))
    return found


def _nvidia_nodes(id: str, dev: Path, proc: Path) -> Sequence[Path]:
    """NVIDIA's driver says in /proc which minor number a UUID has (driver README, chapter 20, "Using the /proc File
    System Interface"); the other nodes belong to all of its GPUs."""
    shared = [dev / name for name in _NVIDIA_SHARED if (dev / name).exists()]
    if id.startswith("MIG-"):
        return [*_mig_nodes(id, dev, proc), *shared]
    for information in (proc / "driver" / "nvidia" / "gpus").glob("*/information"):
        told = dict(line.split(":", 1) for line in information.read_text().splitlines() if ":" in line)
        if told.get("GPU UUID", "").strip() == id:
            return [dev / f"nvidia{told['Device Minor'].strip()}", *shared]
    return []


def _mig_nodes(id: str, dev: Path, proc: Path) -> Sequence[Path]:
    """Of a MIG instance: its GPU, and what lets a program into its GPU instance and its compute instance (driver's
    documentation of /proc/driver/nvidia/capabilities)."""
    gpu, instance, part = _mig_place(id)
    place = proc / "driver" / "nvidia" / "capabilities" / f"gpu{gpu}" / "mig" / f"gi{instance}"
    nodes = [dev / f"nvidia{gpu}"]
    for access in (place / "access", place / f"ci{part}" / "access"):
        told = dict(line.split(":", 1) for line in access.read_text().splitlines() if ":" in line)
        nodes.append(dev / "nvidia-caps" / f"nvidia-cap{int(told['DeviceFileMinor'])}")
    return nodes


def _mig_place(id: str) -> tuple[int, int, int]:
    """The minor number of its GPU, and the numbers of its GPU instance and its compute instance, as NVML says. Raises
    OSError."""
    # Containers without such an instance do not pay for it.
    import ctypes

    library = ctypes.CDLL("libnvidia-ml.so.1")
    mig, gpu = ctypes.c_void_p(), ctypes.c_void_p()
    numbers = [ctypes.c_uint() for _ in range(3)]
    for name, *words in (
        ("nvmlInit_v2",),
        ("nvmlDeviceGetHandleByUUID", id.encode(), ctypes.byref(mig)),
        ("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", mig, ctypes.byref(gpu)),
        ("nvmlDeviceGetMinorNumber", gpu, ctypes.byref(numbers[0])),
        ("nvmlDeviceGetGpuInstanceId", mig, ctypes.byref(numbers[1])),
        ("nvmlDeviceGetComputeInstanceId", mig, ctypes.byref(numbers[2])),
    ):
        if code := getattr(library, name)(*words):
            raise OSError(f"{name} failed with {code} for {id}")
    return numbers[0].value, numbers[1].value, numbers[2].value


def _add_driver(config: dict[str, Any], libraries: dict[str, str]) -> None:
    if not any(name.startswith("libcuda.so") for name in libraries):
        raise ValueError("NVIDIA's driver is not in the loader's cache: ldconfig -p shows no libcuda.so.1")
    targets = {f"{NVIDIA_LIBRARIES}/{name}": path for name, path in libraries.items()}
    if smi := shutil.which("nvidia-smi"):
        targets["/usr/bin/nvidia-smi"] = os.path.realpath(smi)
    mounts = config.setdefault("mounts", [])
    for target, source in targets.items():
        options = ["ro", "nosuid", "nodev", "rbind", "rprivate"]
        mounts.append({"destination": target, "type": "bind", "source": source, "options": options})
    env = config["process"]["env"]
    paths = [variable.partition("=")[2] for variable in env if variable.startswith("LD_LIBRARY_PATH=")]
    env[:] = [variable for variable in env if not variable.startswith("LD_LIBRARY_PATH=")]
    env.append(f"LD_LIBRARY_PATH={':'.join([NVIDIA_LIBRARIES, *filter(None, paths)])}")


def _preload_nothing_in_musl(config: dict[str, Any], bundle: Path) -> None:
    """An image with musl instead of glibc runs no CUDA, and no program at all where the CUDA counter is preloaded."""
    root = bundle / (config.get("root") or {}).get("path", "rootfs")
    if not any(root.glob("lib/ld-musl-*")) or any(root.glob("lib*/ld-linux-*")):
        return
    env = config["process"]["env"]
    env[:] = [variable for variable in env if not variable.startswith("LD_PRELOAD=")]


def _wanted(config: dict[str, Any]) -> Sequence[str]:
    """What was leased. NVIDIA's `all`, which images set of themselves, is no lease."""
    given = _given(config)
    nvidia = [id for id in given.get(NVIDIA_VARIABLE, "").split(",") if _NVIDIA.fullmatch(id)]
    return [*nvidia, *filter(None, given.get(VARIABLE, "").split(","))]


def _say(error: str, arguments: Sequence[str]) -> None:
    """Also where the engine reads what went wrong: in runc's log, as JSON."""
    print(error, file=sys.stderr)
    log = next((after for word, after in itertools.pairwise(arguments) if word == "--log"), "")
    if log:
        with contextlib.suppress(OSError), open(log, "a") as file:
            file.write(json.dumps({"level": "error", "msg": error}) + "\n")


def _replace(path: Path, config: dict[str, Any]) -> None:
    temporary = path.with_suffix(".chronos")
    temporary.write_text(json.dumps(config))
    temporary.rename(path)


def _given(config: Mapping[str, Any]) -> dict[str, str]:
    env = (config.get("process") or {}).get("env") or ()
    return dict(variable.partition("=")[::2] for variable in env)


def _engines_directory(config: Mapping[str, Any], container: str) -> str:
    """Where the engine has the container's files, its log among them: from there it mounts the host's name."""
    for mount in config.get("mounts") or ():
        source = Path(mount.get("source", ""))
        if mount.get("destination") == "/etc/hostname" and source.parent.name == container:
            return str(source.parent)
    return ""


def _file_name(slot: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", slot):
        return slot
    # Loaded here alone: every start of a container waits for this program's imports.
    import hashlib

    return f"sha256-{hashlib.sha256(slot.encode()).hexdigest()}"


def _write_once(path: Path, text: str, *, durably: bool = True) -> None:
    """A whole file where none was. Raises FileExistsError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            if durably:
                os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if not durably:
        return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _entry(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A device and the cgroup's rule that allows it."""
    status = path.stat()
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise ValueError(f"{path} is not a device")
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
    numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    device = {"path": str(path), "type": kind, "fileMode": 0o666, "uid": 0, "gid": 0, **numbers}
    return device, {"allow": True, "type": kind, "access": "rwm", **numbers}


def _bundle(arguments: Sequence[str]) -> Path | None:
    """The bundle of a call that makes a container; None for other calls."""
    if not {"create", "run", "restore"}.intersection(arguments):
        return None
    for index, word in enumerate(arguments):
        if word in ("--bundle", "-b") and index + 1 < len(arguments):
            return Path(arguments[index + 1])
        if word.startswith("--bundle="):
            return Path(word.partition("=")[2])
    return Path.cwd()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
