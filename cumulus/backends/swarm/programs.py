"""What a service is whose container gets the node's own root: a program of the node, run as its submitter.

The daemon says who that is by name and number; `chronos-runtime` on the node compares both with the node's own users,
and makes all that depends on the node: login variables, groups, directories (`chronos.host_program`).
"""

from __future__ import annotations

import json
import posixpath
import pwd
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from cumulus.backends.base import Workload
from cumulus.backends.job_environment import job_environment
from cumulus.backends.rundir.layout import run_name
from cumulus.backends.swarm.environment import devices
from cumulus.backends.variables import LEASE_DEADLINE
from cumulus.chronos.contract import variables as lease_variables
from cumulus.chronos.contract.container import (
    FILES,
    HOST_PREFIX,
    PRIVATE,
    PROGRAM_VARIABLE,
    SLOT_VARIABLE,
    SUBMITTER_VARIABLE,
)
from cumulus.errors import BackendRefused
from cumulus.lib import host_image

CALL = f"{PRIVATE}/call"
SECRETS = f"{PRIVATE}/secrets"
HOSTFILE = f"{PRIVATE}/hostfile"
REQUEST = f"{PRIVATE}/checkpoint-request"
DEADLINE = f"{PRIVATE}/lease-deadline"
"""On the container's own /dev, which nobody in it may change."""

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class ProgramUser(NamedTuple):
    """Whom a program runs as, as the daemon's machine knows them."""

    name: str
    uid: int


def is_program(workload: Workload) -> bool:
    """Whether it has no image, and so runs what is on its node's disk."""
    return not workload.image


def user_of(workload: Workload) -> ProgramUser:
    """Raises `BackendRefused` where there is no such user here, or where root is meant and no admin asks."""
    uid = workload.submitter_uid
    if uid is None or not workload.submitter:
        raise BackendRefused("a job without an image runs as the Unix user who submitted it, and there is none")
    if uid == 0 and not workload.submitter_admin:
        raise BackendRefused("a job without an image runs as root for admins alone")
    try:
        return ProgramUser(pwd.getpwuid(uid).pw_name, uid)
    except KeyError:
        raise BackendRefused(
            f"the daemon's machine has no user with the number {uid}, so no node can be told whom to run it as"
        ) from None


def image_id(architecture: str) -> str:
    """The host image for a node's architecture, as the kernel or Docker calls it. Raises `BackendRefused`."""
    try:
        return host_image.image(_MACHINES.get(architecture, architecture)).id
    except ValueError as error:
        raise BackendRefused(str(error)) from None


def as_on_the_node(workload: Workload) -> Workload:
    """A program has its node's own network."""
    return replace(workload, host_network=True) if is_program(workload) else workload


def refuse_impossible(workload: Workload) -> None:
    """Raises `BackendRefused` where a program of a node can never do what the workload asks."""
    if workload.call is not None and workload.call.environment:
        raise BackendRefused(
            "a call with requirements and without an image runs on the daemon's own machine alone",
            hint="give it an image, or a Python that has them and is the same on all nodes",
        )
    if not workload.command and workload.call is None:
        raise BackendRefused("there is no command to run", hint="give spec.command")
    for mount in workload.mounts:
        if mount.read_only or (posixpath.isabs(mount.target) and mount.target != mount.source):
            raise BackendRefused(f"mount {mount.target} is not possible without an image")


def checkpoint_path(workload: Workload, user: ProgramUser) -> str:
    """Where its checkpoints are on the node, "" where nowhere."""
    path = workload.checkpoint_path
    if not path or posixpath.isabs(path):
        return path
    return posixpath.join(FILES, str(user.uid), workload.job_uid, "checkpoint", path)


def environment(
    workload: Workload, user: ProgramUser, prepared: Mapping[str, str], node_env: Mapping[str, str]
) -> dict[str, str]:
    """The container's variables. What the node's Chronos prepared is true in it: it has the node's own paths."""
    own = {**node_env, **{e.name: e.value for e in workload.env if not e.secret}}
    variables = lease_variables.merge(own | devices(workload), prepared)
    variables |= job_environment(workload, checkpoint_path(workload, user), None, REQUEST)
    if workload.checkpointing is not None:
        variables[LEASE_DEADLINE] = DEADLINE
    variables[SLOT_VARIABLE] = workload.name
    variables[SUBMITTER_VARIABLE] = f"{HOST_PREFIX}{user.name}:{user.uid}"
    variables[PROGRAM_VARIABLE] = json.dumps(_wanted(workload, [*own, *(e.name for e in workload.env if e.secret)]))
    return variables


def _wanted(workload: Workload, own: list[str]) -> dict[str, Any]:
    return {
        "directory": workload.working_dir, "umask": workload.umask, "job": workload.job_uid,
        "run": run_name(workload.attempt, workload.replica),
        "checkpoint": workload.checkpoint_path, "own": own,
        "links": [[m.source, m.target] for m in workload.mounts if not posixpath.isabs(m.target)],
    }  # fmt: skip
