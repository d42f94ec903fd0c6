"""Turns a workload into the specification its supervisor reads, or says why the process runtime cannot run it."""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any

from cumulus.backends import gang as gangs
from cumulus.backends.base import Workload, WorkloadMount
from cumulus.backends.job_environment import job_environment
from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.backends.process import layout
from cumulus.backends.process.environment import own_environment
from cumulus.backends.rundir.layout import JOBS, run_directory
from cumulus.errors import BackendRefused
from cumulus.lib.unix_user import UnixUser


def refuse_impossible(workload: Workload, node: str) -> None:
    """Raises `BackendRefused` where a local process can never do what the workload asks."""
    if workload.node != node:
        raise BackendRefused(f"workload {workload.name} is for node {workload.node}; this is {node}")
    if workload.image:
        raise BackendRefused(
            f"image {workload.image} cannot be run: the process runtime has no containers",
            hint="leave spec.image out, or use a node with runtime container",
        )
    if workload.call is None and (not workload.command or not workload.command[0]):
        raise BackendRefused("there is no command to run", hint="give spec.command")
    if any("\0" in text for text in (*workload.command, *(e.value for e in workload.env))):
        raise BackendRefused("the command or environment holds a NUL character, which no program can be given")
    for what, text in (("name", workload.name), ("job uid", workload.job_uid)):
        if not is_name(text):
            raise BackendRefused(f"{text!r} cannot be the {what} of a workload: it names a file here")
    if workload.working_dir and not os.path.isabs(workload.working_dir):
        raise BackendRefused(
            f"working directory {workload.working_dir!r} is relative to nothing",
            hint="give an absolute path, or leave spec.workingDir out for a fresh directory",
        )
    if any("\0" in text for text in (workload.working_dir, workload.checkpoint_path)):
        raise BackendRefused("a path holds a NUL character, which names nothing on any node")
    for mount in workload.mounts:
        _refuse_mount(mount)
    linked = [os.path.normpath(mount.target) + os.sep for mount in workload.mounts if not os.path.isabs(mount.target)]
    for index, target in enumerate(linked):
        if any(target.startswith(other) for other in (*linked[:index], *linked[index + 1 :])):
            raise BackendRefused(f"mount target {target} lies within another: it would be a link in that one's source")


def specification(
    workload: Workload,
    *,
    root: str,
    secrets_root: str,
    chronos_home: str | None,
    daemon: Mapping[str, str],
    node_env: Mapping[str, str] | None = None,
    retention: LogRetention = DEFAULT_RETENTION,
    user: UnixUser | None = None,
    runner: str = "",
    port: int = 0,
) -> dict[str, Any]:
    """What spec.json holds. Secrets are in it by name only. `daemon` is its own environment, `node_env` what every
    job of this node gets, `user` whom the program runs as, where that is not the daemon's own user, `runner` the path
    of what runs calls, `port` where its gang meets."""
    run = run_directory(workload.job_uid, workload.attempt, workload.replica)
    files = _files(root, user)
    work = os.path.join(files, os.path.relpath(run, JOBS), layout.WORK)
    checkpoint, made = _checkpoint(workload, os.path.join(files, workload.job_uid))
    request = ""
    if workload.checkpointing is not None:
        request = os.path.join(os.path.dirname(work), layout.REQUEST)
        made = [*made, os.path.dirname(request)]
    gang, hostfile = _gang(workload, port, os.path.join(os.path.dirname(work), layout.HOSTFILE))
    return {
        "format": _format(workload, user),
        "user": user,
        "name": workload.name,
        "job_uid": workload.job_uid,
        "namespace": workload.namespace,
        "job": workload.job,
        "attempt": workload.attempt,
        "replica": workload.replica,
        "node": workload.node,
        "command": list(workload.command),
        "terminal": workload.terminal,
        "terminal_size": workload.terminal_size,
        "stdin": workload.stdin,
        "call": _call(workload, root, os.path.join(os.path.dirname(work), layout.CALL), runner),
        "cwd": workload.working_dir or work,
        "umask": workload.umask,
        "fresh": not workload.working_dir,
        "make": made,
        "links": [[m.source, m.target] for m in workload.mounts if not os.path.isabs(m.target)],
        "env": own_environment(workload, daemon, node_env, user, gang),
        "hostfile": hostfile,
        "fixed_env": job_environment(workload, checkpoint, chronos_home, request),
        "checkpoint": {
            "path": checkpoint,
            "request": request,
            "after": _after(workload, files),
            **_beyond(workload, checkpoint),
        },
        "secrets": [[e.name, e.secret, e.key] for e in workload.env if e.secret],
        "secrets_root": secrets_root,
        "chronos_home": chronos_home,
        "leases": [{"id": x.id, "token": x.token, "seconds": x.seconds} for x in workload.leases],
        "memory_bytes": workload.memory_bytes,
        "cpus": _cpus(workload),
        "grace": workload.grace,
        "kept": list(retention),
        "events": os.path.join(root, layout.EVENTS, workload.name),
    }


def checkpoint_place(workload: Workload, root: str, user: UnixUser | None) -> str:
    """Where the workload finds its checkpoints. Raises `BackendRefused`."""
    return _checkpoint(workload, os.path.join(_files(root, user), workload.job_uid))[0]


def _files(root: str, user: UnixUser | None) -> str:
    return os.path.join(root, JOBS) if user is None else layout.files_of(root, user.uid)


def _gang(workload: Workload, port: int, path: str) -> tuple[dict[str, str], list[str] | None]:
    """The variables of its gang, and the file of its hosts: path and content."""
    if not workload.gang:
        return {}, None
    hosts = gangs.addresses(workload)
    return gangs.gang_environment(workload, hosts, port, path), [path, gangs.hostfile(workload, hosts)]


def _format(workload: Workload, user: UnixUser | None) -> int:
    """The oldest that says it all: a supervisor that knows of no call would have no command, and one that knows of no
    user would run the program as its own."""
    if workload.call is not None:
        return layout.FORMAT
    return layout.FORMAT_BEFORE_USERS if user is None else layout.FORMAT_BEFORE_CALLS


def _call(workload: Workload, root: str, directory: str, runner: str) -> dict[str, Any] | None:
    call = workload.call
    if call is None:
        return None
    return {
        "directory": directory,
        "python": call.python,
        "interpreter": call.interpreter,
        "environment": bool(call.environment),
        "environments": os.path.join(root, layout.ENVIRONMENTS),
        "runner": runner,
    }


def user_of(workload: Workload) -> UnixUser | None:
    """Whom its program runs as: its submitter, where the daemon is root; None for the daemon's own user.

    Raises `BackendRefused` where nobody on this node is the submitter."""
    if not workload.submitter or workload.submitter_uid == 0:
        return None
    if os.geteuid() != 0:
        if workload.submitter_uid != os.geteuid():
            raise BackendRefused(
                f"{workload.submitter!r} submitted the job, and this daemon runs programs as its own user alone",
                hint="give it an image, or ask a daemon that runs as root",
            )
        return None
    if workload.submitter_uid is None:
        raise BackendRefused(
            f"{workload.submitter!r} is no Unix user, and a job without an image runs as one",
            hint="submit it as a user of this machine, or give it an image",
        )
    try:
        return UnixUser.find(workload.submitter_uid)
    except KeyError:
        raise BackendRefused(
            f"this node has no user with the number {workload.submitter_uid}, who submitted the job",
            hint="submit it again as a user of this machine",
        ) from None


def is_name(text: str) -> bool:
    """Whether it can name a workload or a job here: it names a file."""
    return _NAME.fullmatch(text) is not None


def _refuse_mount(mount: WorkloadMount) -> None:
    if "\0" in mount.source or "\0" in mount.target:
        raise BackendRefused("a mount's path holds a NUL character, which names nothing on any node")
    if mount.read_only:
        raise BackendRefused(
            f"mount {mount.target} cannot be read-only: a local process writes wherever its user may",
            hint="leave readOnly out and use the file permissions of the source, or run an image",
        )
    if os.path.isabs(mount.target):
        if os.path.normpath(mount.target) != os.path.normpath(mount.source):
            raise BackendRefused(
                f"mount {mount.source} cannot appear at {mount.target}: a local process sees the node's own paths",
                hint=f"use {mount.source} as the target too, or a path relative to the working directory",
            )
    elif os.path.normpath(mount.target).split(os.sep)[0] in ("..", "."):
        raise BackendRefused(f"mount target {mount.target} is outside the working directory")


def _checkpoint(workload: Workload, job_directory: str) -> tuple[str, list[str]]:
    """The checkpoint's path and the directories to make. A relative one lives with the job, for all its attempts."""
    path = workload.checkpoint_path
    if not path or os.path.isabs(path):
        return path, []
    # Beside it are the records of the supervisors.
    kept = os.path.join(job_directory, layout.CHECKPOINT)
    path = os.path.normpath(os.path.join(kept, path))
    if not path.startswith(kept + os.sep):
        raise BackendRefused(f"checkpoint path {workload.checkpoint_path} leaves the job's directory of checkpoints")
    return path, [os.path.dirname(path)]


def _beyond(workload: Workload, path: str) -> dict[str, Any]:
    """Where checkpoints are kept beyond this node."""
    asked = workload.checkpointing
    if asked is None or not asked.uri or not path:
        return {}
    return {
        "uri": asked.uri, "credentials": asked.credentials, "keep": asked.keep, "after_uri": asked.after_uri,
        "after_uid": asked.after,
    }  # fmt: skip


def _after(workload: Workload, files: str) -> str:
    """Where the checkpoints are that a first attempt goes on from, "" for nowhere."""
    asked = workload.checkpointing
    if asked is None or not asked.after:
        return ""
    if os.path.isabs(asked.after_path):
        return asked.after_path
    if not is_name(asked.after):
        raise BackendRefused(f"{asked.after!r} is no uid of a job")
    kept = os.path.join(files, asked.after, layout.CHECKPOINT)
    path = os.path.normpath(os.path.join(kept, asked.after_path))
    return path if path.startswith(kept + os.sep) else ""


def _cpus(workload: Workload) -> list[int]:
    """The CPUs to pin to: the limit in whole CPUs, rounded up; empty for no limit.

    Different replicas begin at different CPUs, so that limited jobs do not all share the first."""
    if not workload.cpu_millis:
        return []
    present = sorted(os.sched_getaffinity(0))
    wanted = min(len(present), math.ceil(workload.cpu_millis / 1000))
    first = zlib.crc32(workload.name.encode()) % len(present)
    return sorted(present[(first + i) % len(present)] for i in range(wanted))


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,250}")
