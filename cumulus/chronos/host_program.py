"""Runs a program of the node's own disk in a container: `chronos-runtime` switches its root to the node's own.

    dockerd -> chronos-runtime create -> (the user is looked up, "/" is bound in a mount namespace of its own) -> runc

The container is a service of the host image, which holds nothing but a mark. Swarm's limits, cgroup, seccomp profile
and log stay as they are. The program runs as its submitter, whom the node must know by the same name and number,
without capabilities, with a /proc, /dev and PID namespace of its own. The submitter's paths are opened as the submitter
alone.

On a worker this file and `unix_user.py` lie beside `chronos_runtime.py`. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

try:
    from cumulus.lib.unix_user import UnixUser, call
except ImportError:
    from unix_user import UnixUser, call  # type: ignore[import-not-found, no-redef]

VARIABLE = "CHRONOS_PROGRAM"
"""JSON: the `directory` to start in ("" for a new one), the `job` and `run` that it belongs to, its `checkpoint`,
`links` [source, target], and the variables that are its `own`."""
FILES = "/var/lib/chronos/programs"
"""FILES/UID/JOB/RUN/work and FILES/UID/JOB/checkpoint, the user's own."""
CHECKPOINT = "checkpoint"
PRIVATE = "/dev/cumulus"
"""What the engine gives a program: secrets, and words of the node. It lies on the container's own /dev, since a mount
point anywhere else would be made on the node's disk."""

_ROOT = "/run/chronos-root"
"""Where "/" is bound, in the mount namespace of one call of runc."""
_KEPT = ("/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup")
_SHM = "/dev/shm"
_MASKED = ("/run/docker.sock", "/run/docker", "/run/containerd", "/run/user", "/run/dbus", "/run/systemd/private")
"""By these a program could have something started outside of its container, and so outside of its lease."""
_USERS = "/run/user"
"""Of them one that is made by the first who logs in. What is not there when the container is made is not masked."""
_ENGINES = ("/run/docker.sock", "/run/containerd/containerd.sock")
_ENGINES_OWN = ("PATH", "HOME", "HOSTNAME")
"""Variables that the engine sets of itself."""
_OF_EACH = ("TERM", "CUMULUS_EXEC")
"""Variables that each process which joins a program has its own of."""
_START = 'cd -- "$1" || exit 126; shift; exec "$@"'
_PATIENCE = 20
"""Seconds for the user's file systems to answer."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,250}")
_WORD = re.compile(r"[.a-z0-9-]{16,64}")

_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_SLAVE = 0x20000, 1 << 12, 1 << 14, 1 << 19


class HostProgram(NamedTuple):
    """Whom it runs as here, and what the daemon says of it."""

    user: UnixUser
    wanted: Mapping[str, Any]


def program_of(config: Mapping[str, Any], submitter: str, given: Mapping[str, str]) -> HostProgram:
    """The program that a container of the host image is to run, as NAME:UID. Raises ValueError where it may not run."""
    name, _, number = submitter.rpartition(":")
    namespaces = {namespace.get("type") for namespace in config["linux"].get("namespaces") or ()}
    if missing := {"pid", "ipc", "mount"} - namespaces:
        raise ValueError(f"the program would share the node's own: {', '.join(sorted(missing))}")
    wanted = json.loads(given.get(VARIABLE) or "{}")
    if not all(_NAME.fullmatch(str(wanted.get(each))) for each in ("job", "run")):
        raise ValueError("the program does not say which job it is of")
    return HostProgram(user_of(name, int(number)), wanted)


def user_of(name: str, uid: int) -> UnixUser:
    """The node's user of that name and number. Raises ValueError where they are not one user here."""
    try:
        found = UnixUser.find(uid)
    except KeyError:
        found = None
    if found is not None and found.name == name:
        without = {status.st_gid for status in map(_status, _ENGINES) if status is not None} - {0}
        return found._replace(groups=tuple(group for group in found.groups if group not in without))
    try:
        number = pwd.getpwnam(name).pw_uid
        raise ValueError(f"the user {name} has the number {number} on this node, and {uid} where the job was submitted")
    except KeyError:
        pass
    if found is not None:
        raise ValueError(f"the number {uid} is {found.name}'s on this node, and not {name}'s, who submitted the job")
    raise ValueError(f"this node has no user {name} with the number {uid}, who submitted the job")


def enter(config: dict[str, Any], program: HostProgram, home: Path, files: str = FILES) -> str:
    """Make the node's root that of the container, and its submitter its user. The directory that the program starts
    in. Raises ValueError, OSError."""
    user, process, linux = program.user, config["process"], config["linux"]
    made = _prepared(program, files)
    given = [variable.partition("=")[::2] for variable in process.get("env") or ()]
    process["env"] = [f"{name}={value}" for name, value in _environment(dict(given), program, made, home).items()]
    process["user"] = {
        "uid": user.uid, "gid": user.gid, "umask": _umask(program),
        "additionalGids": [group for group in user.groups if group != user.gid],
    }  # fmt: skip
    process["capabilities"] = {}
    process["noNewPrivileges"] = True
    # runc makes a directory that is not there, as root, wherever the user's links lead: the program's shell goes there.
    process["cwd"] = "/"
    mounts = {os.path.normpath(mount["destination"]): mount for mount in config.get("mounts") or ()}
    process["args"] = _command(process["args"], mounts, made["directory"])
    shared = any(name == "CUDA_MPS_PIPE_DIRECTORY" for name, _ in given)
    config["mounts"] = [*_mounts(mounts, shared=shared)]
    config["root"] = {"path": _ROOT, "readonly": False}
    linux["rootfsPropagation"] = "rslave"
    os.makedirs(_USERS, mode=0o755, exist_ok=True)
    linux["maskedPaths"] = [*(linux.get("maskedPaths") or ()), *_MASKED]
    return made["directory"]


def _umask(program: HostProgram) -> int:
    """As the job says, else the user's own. Raises ValueError."""
    asked = program.wanted.get("umask")
    if asked is None:
        return program.user.umask
    if not isinstance(asked, int) or not 0 <= asked <= 0o777:
        raise ValueError("the program's umask is none")
    return asked


def shared(config: Mapping[str, Any], directory: str) -> dict[str, Any]:
    """What processes that join the container later have of its program."""
    process = config["process"]
    return {"user": process["user"], "env": process["env"], "directory": directory}


def join(process: dict[str, Any], note: Mapping[str, Any]) -> None:
    """Give a process that joins the program's environment and its directory."""
    given = [entry for entry in process.get("env") or () if _name(entry) != VARIABLE]
    others = [_name(entry) for entry in given if _name(entry) in _OF_EACH]
    env = [entry for entry in note["env"] if _name(entry) not in others]
    own = {_name(entry) for entry in env}
    process["env"] = [*env, *(entry for entry in given if _name(entry) not in own)]
    if note.get("directory"):
        # As with the program itself: runc would make the directory, as root.
        process["cwd"] = "/"
        process["args"] = ["/bin/sh", "-c", _START, "sh", note["directory"], *process["args"]]


def _name(entry: str) -> str:
    return entry.partition("=")[0]


def bind_root() -> None:
    """Bind the node's root in a mount namespace that this process has for itself: it goes with runc, and a container
    has a copy. Raises OSError."""
    os.makedirs(_ROOT, mode=0o700, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    recursive = ctypes.c_ulong(_MS_REC | _MS_SLAVE), ctypes.c_ulong(_MS_REC | _MS_BIND)
    if (
        libc.unshare(_CLONE_NEWNS) != 0
        or libc.mount(None, b"/", None, recursive[0], None) != 0
        or libc.mount(b"/", _ROOT.encode(), None, recursive[1], None) != 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, f"the node's root cannot be bound: {os.strerror(number)}")


def answer(asked: str) -> str:
    """What the node says of users [name, uid] and of words [name, uid, directory, word], as JSON: for each why not, ""
    where a program of that user runs here, or where the directory is, for them, the one in which the word was left: in
    a file that is called like it."""
    wanted = json.loads(asked)
    users = [_why_no_user(str(name), int(uid)) for name, uid in wanted.get("users", ())]
    words = [_why_other(str(n), int(u), str(d), str(word)) for n, u, d, word in wanted.get("words", ())]
    return json.dumps({"users": users, "words": words})


def _why_no_user(name: str, uid: int) -> str:
    try:
        user_of(name, uid)
    except ValueError as error:
        return str(error)
    return ""


def _why_other(name: str, uid: int, directory: str, word: str) -> str:
    def look() -> str:
        try:
            os.chdir(directory)
        except OSError as error:
            return f"{directory}: {error.strerror}"
        try:
            number = os.open(word, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(number, "rb") as file:
                same = file.read(len(word) + 1) == word.encode()
        except OSError:
            same = False
        return "" if same else f"{directory} is another directory there"

    try:
        if not _WORD.fullmatch(word) or not os.path.isabs(directory):
            return "no such question"
        return call(user_of(name, uid), look, _PATIENCE)
    except ValueError as error:
        return str(error)
    except OSError:
        return f"{directory} does not answer"


def _prepared(program: HostProgram, files: str) -> dict[str, str]:
    """The program's directories, made where they are the job's own: as the user, whose links lead nowhere else."""
    user = program.user
    own = os.path.join(files, str(user.uid))
    os.makedirs(files, mode=0o711, exist_ok=True)
    for passed in (os.path.dirname(files), files):
        os.chmod(passed, 0o711)
    with contextlib.suppress(FileExistsError):
        os.mkdir(own, 0o700)
    status = os.lstat(own)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, user.uid):
        raise ValueError(f"{own} is not {user.name}'s: it belongs to the number {status.st_uid}")
    if status.st_uid == 0:
        # Just made, or by a call that ended before this.
        os.chown(own, user.uid, user.gid)

    def prepare() -> str:
        try:
            return json.dumps(_made(program.wanted, own))
        except (OSError, ValueError) as error:
            text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            return json.dumps({"problem": text})

    try:
        made: dict[str, str] = json.loads(call(user, prepare, _PATIENCE))
    except OSError:
        raise ValueError(f"the program's directory does not answer on this node within {_PATIENCE} s") from None
    if "problem" in made:
        raise ValueError(f"the program's directory cannot be used on this node: {made['problem']}")
    return made


def _made(wanted: Mapping[str, Any], own: str) -> dict[str, str]:
    """In a process of the user's."""
    os.umask(0o022)
    job = os.path.join(own, str(wanted["job"]))
    directory = str(wanted.get("directory") or "")
    if not directory:
        directory = os.path.join(job, str(wanted["run"]), "work")
        os.makedirs(directory, mode=0o755, exist_ok=True)
    os.chdir(directory)
    for source, target in wanted.get("links") or ():
        _link(str(source), os.path.join(directory, str(target)), directory)
    checkpoint = str(wanted.get("checkpoint") or "")
    if checkpoint and not os.path.isabs(checkpoint):
        kept = os.path.join(job, CHECKPOINT)
        checkpoint = os.path.normpath(os.path.join(kept, checkpoint))
        if not checkpoint.startswith(kept + os.sep):
            raise ValueError("the checkpoint's path leaves the job's directory of checkpoints")
        os.makedirs(os.path.dirname(checkpoint), mode=0o755, exist_ok=True)
    return {"directory": directory, "checkpoint": checkpoint}


def _link(source: str, target: str, directory: str) -> None:
    if not f"{os.path.realpath(os.path.dirname(target))}/".startswith(f"{os.path.realpath(directory)}/"):
        raise ValueError(f"mount target {target} lies behind a symbolic link, outside {directory}")
    if not os.path.exists(source):
        raise ValueError(f"mount source {source} is not on this node")
    if os.path.islink(target) and os.readlink(target) == source:
        return
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    os.symlink(source, target)


def _environment(given: dict[str, str], program: HostProgram, made: Mapping[str, str], home: Path) -> dict[str, str]:
    """What a login gives the user here, over it what the daemon gave, but for what the engine adds of itself."""
    own = set(program.wanted.get("own") or ())
    kept = {name: value for name, value in given.items() if name in own or name not in (*_ENGINES_OWN, VARIABLE)}
    fixed = {"CHRONOS_HOME": str(home)} | (
        {"CUMULUS_CHECKPOINT_PATH": made["checkpoint"]} if made["checkpoint"] else {}
    )
    return {**program.user.variables, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **kept, **fixed}


def _command(arguments: Sequence[str], mounts: Mapping[str, Any], directory: str) -> list[str]:
    """The engine's own first process, by its path on the node, then a shell that goes to the directory."""
    before: list[str] = []
    words = list(arguments)
    if (init := mounts.get(words[0])) is not None and words[1:2] == ["--"]:
        before, words = [str(init["source"]), "--"], words[2:]
    return [*before, "/bin/sh", "-c", _START, "sh", directory, *words]


def _mounts(mounts: Mapping[str, Any], *, shared: bool) -> Sequence[Any]:
    kept = [mounts[target] for target in _KEPT if target in mounts]
    own = [mounts[target] for target in sorted(mounts) if target.startswith(f"{PRIVATE}/")]
    # MPS speaks through the node's own shared memory.
    shm = (
        {"destination": _SHM, "type": "bind", "source": _SHM, "options": ["rw", "nosuid", "nodev", "bind", "rprivate"]}
        if shared
        else {"destination": _SHM, "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]}
    )
    return [*kept, shm, *own]


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
