"""Turns a workload into the Swarm service that runs it. Pure. Names are deterministic: look before you create.

one service a replica of an attempt: one task, pinned to one node, never restarted
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cumulus.backends import gang
from cumulus.backends.base import Workload
from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.backends.swarm import confinement, programs
from cumulus.backends.swarm.confinement import Confinement
from cumulus.backends.swarm.environment import engine_environment
from cumulus.backends.swarm.programs import ProgramUser
from cumulus.chronos.contract.container import INPUT_VARIABLE, TERMINAL_VARIABLE
from cumulus.errors import BackendRefused
from cumulus.lib import terminals

PREFIX = "cumulus.dev/"
INSTANCE, WORKLOAD, OWNER = f"{PREFIX}instance", f"{PREFIX}workload", f"{PREFIX}owner-uid"
NAMESPACE, JOB, ATTEMPT, REPLICA = f"{PREFIX}namespace", f"{PREFIX}job", f"{PREFIX}attempt", f"{PREFIX}replica"
NODE, LEASES = f"{PREFIX}node", f"{PREFIX}leases"

NOWHERE = "node.id==cumulus-stopped"
"""The placement of a service that is to end: no node has it, so Swarm ends the task and keeps how it ended. Scaling
to zero would forget the task with its exit code."""

SHM = "/dev/shm"

SECRETS = "/run/secrets/cumulus"
"""Where a job finds the values of its secret variables: one file a variable."""

HOSTFILE = "/run/cumulus/hostfile"
"""Where a replica of a gang finds the file of its hosts."""

_WITH_INPUT = (
    '[ -p /dev/stdin ] && exec "$@"; echo "this node\'s chronos-runtime is too old to give it its input" >&2; exit 126'
)
"""With an older runtime the program would take its empty input for all that there is."""

_NANO = 10**9
_NAME_LENGTH = 63


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A Swarm secret that becomes the variable `name` in the job."""

    name: str
    id: str
    secret_name: str


@dataclass(frozen=True, slots=True)
class GangParts:
    """What joins a replica's service to its gang: ids of the network ("" for the node's own) and of the file."""

    network: str
    hostfile: str
    hostfile_name: str


def service_name(workload_name: str) -> str:
    """Swarm takes 63 letters, digits, '-' and '_': the workload's name as far as it goes, and a digest of all of it."""
    digest = hashlib.sha256(workload_name.encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", workload_name).strip("-")
    return f"{readable[: _NAME_LENGTH - 13].rstrip('-')}-{digest}"


def secret_name(workload_name: str, variable: str) -> str:
    return f"cumulus-{hashlib.sha256(f'{workload_name}/{variable}'.encode()).hexdigest()[:40]}"


def refuse_impossible(workload: Workload) -> None:
    """Raises `BackendRefused` where a container can never do what the workload asks."""
    if programs.is_program(workload):
        programs.refuse_impossible(workload)
    if workload.working_dir and not posixpath.isabs(workload.working_dir):
        raise BackendRefused(f"working directory {workload.working_dir!r} must be absolute in a container")
    for text in (*workload.command, *workload.args, *(e.value for e in workload.env)):
        if "\0" in text:
            raise BackendRefused("the command or environment holds a NUL character, which no program can be given")


def labels(workload: Workload, instance: str) -> dict[str, str]:
    """The labels of a service or secret, which say whose it is."""
    return {
        INSTANCE: instance, WORKLOAD: workload.name, OWNER: workload.job_uid, NAMESPACE: workload.namespace,
        JOB: workload.job, ATTEMPT: str(workload.attempt), REPLICA: str(workload.replica), NODE: workload.node,
        LEASES: ",".join(lease.id for lease in workload.leases),
    }  # fmt: skip


def service(
    workload: Workload,
    *,
    instance: str,
    node_id: str,
    image: str,
    confined: Confinement | None = None,
    secrets: Sequence[SecretFile] = (),
    prepared: Mapping[str, str] | None = None,
    retention: LogRetention = DEFAULT_RETENTION,
    binds: Mapping[str, str] | None = None,
    parts: GangParts | None = None,
    program: ProgramUser | None = None,
    node_env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The body of `POST /services/create`. `prepared` are the variables by which the node's Chronos holds the job,
    `confined` what an admin's container is not held to, `binds` where it sees what Cumulus put on its node: target ->
    source; `parts` what joins it to its gang. `program`: whom it runs as, where it has the node's own root; `node_env`
    what it has then by default."""
    own = labels(workload, instance)
    at = SECRETS
    mounts: Sequence[Mapping[str, Any]] = _binds(binds or {})
    if program is not None:
        at = programs.SECRETS
        environment = programs.environment(
            workload, program, prepared or {}, {**(node_env or {}), **gang_variables(workload)}
        )
    else:
        environment, shown = engine_environment(workload, prepared or {}, gang_variables(workload))
        environment |= confinement.variables(workload, confined)
        mounts = [*_mounts(workload), *_shared_memory(workload, shown), *shown, *mounts]
    environment |= {f"{secret.name}_FILE": f"{at}/{secret.name}" for secret in secrets}
    container: dict[str, Any] = {
        "Image": image,
        "Labels": own,
        "Env": [f"{name}={value}" for name, value in sorted(environment.items())],
        "Init": True,
        "StopGracePeriod": max(1, round(workload.grace * _NANO)),
        "Mounts": mounts,
    }
    command, arguments = list(workload.command), list(workload.args)
    if workload.stdin:
        command = ["/bin/sh", "-c", _WITH_INPUT, "sh", *command]
        container["Env"] = sorted([*container["Env"], f"{INPUT_VARIABLE}=1"])
    if secrets and command:
        command, arguments = [*exporting([secret.name for secret in secrets], at), *command], []
    if workload.terminal:
        container |= {"TTY": True, "OpenStdin": True}
        columns, rows = workload.terminal_size or terminals.USUAL_SIZE
        container["Env"] = sorted([*container["Env"], f"{TERMINAL_VARIABLE}={columns}x{rows}"])
    if command:
        container["Command"] = command
    if arguments:
        container["Args"] = arguments
    if program is not None:
        container |= {"User": str(program.uid), **confinement.WITHOUT_RIGHTS}
    else:
        container |= {"Hostname": _hostname(workload)} | ({"Dir": workload.working_dir} if workload.working_dir else {})
    if confined is not None:
        container |= confined.fields()
    elif workload.user_id is not None:
        container["User"] = str(workload.user_id)
    if secrets:
        container["Secrets"] = [_secret_reference(secret, at) for secret in secrets]
    if parts is not None:
        file = {"Name": _hostfile(workload), "UID": "0", "GID": "0", "Mode": 0o444}
        container["Configs"] = [{"ConfigID": parts.hostfile, "ConfigName": parts.hostfile_name, "File": file}]
    body: dict[str, Any] = {
        "Name": service_name(workload.name),
        "Labels": own,
        "TaskTemplate": {
            "ContainerSpec": container,
            "Resources": _resources(workload),
            "RestartPolicy": {"Condition": "none", "MaxAttempts": 0},
            # On its one node there is never a second task beside the first, whatever people scale it to.
            "Placement": {"Constraints": [f"node.id=={node_id}"], "MaxReplicas": 1},
            "LogDriver": _log_driver(retention),
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": {"Parallelism": 1, "FailureAction": "continue", "Order": "stop-first"},
    }
    if workload.host_network:
        # Every port is the node's already: there is nothing to publish.
        body["TaskTemplate"]["Networks"] = [{"Target": "host"}]
        return body
    endpoint: dict[str, Any] = {}
    if workload.ports:
        endpoint["Ports"] = [_published(*ports) for ports in workload.ports]
    if parts is not None:
        body["TaskTemplate"]["Networks"] = [{"Target": parts.network, "Aliases": [gang.name_of(workload.replica)]}]
        # A name is its container's own address: there is one, and what it listens on need not pass through IPVS.
        endpoint["Mode"] = "dnsrr"
    if endpoint:
        body["EndpointSpec"] = endpoint
    return body


def hosts(workload: Workload) -> Sequence[str]:
    """Where the replicas of its gang are, by number."""
    if workload.host_network:
        return gang.addresses(workload)
    return [gang.name_of(replica) for replica in range(len(workload.gang))]


def gang_variables(workload: Workload) -> dict[str, str]:
    if not workload.gang:
        return {}
    port = gang.port(workload) if workload.host_network else gang.PORT
    return gang.gang_environment(workload, hosts(workload), port, _hostfile(workload))


def _hostfile(workload: Workload) -> str:
    return programs.HOSTFILE if programs.is_program(workload) else HOSTFILE


def stopped(spec: dict[str, Any]) -> dict[str, Any] | None:
    """The spec by which Swarm ends the task; None where it is that already."""
    placement = spec["TaskTemplate"].setdefault("Placement", {})
    if placement.get("Constraints") == [NOWHERE] and _replicas(spec) == 1:
        return None
    placement["Constraints"] = [NOWHERE]
    spec["Mode"] = {"Replicated": {"Replicas": 1}}
    return spec


def unscaled(spec: dict[str, Any]) -> dict[str, Any] | None:
    """The spec with its one task; None where it has that."""
    if _replicas(spec) == 1:
        return None
    spec["Mode"] = {"Replicated": {"Replicas": 1}}
    return spec


def _replicas(spec: Mapping[str, Any]) -> int:
    return int((spec.get("Mode", {}).get("Replicated") or {}).get("Replicas", 0))


def _resources(workload: Workload) -> dict[str, Any]:
    """What is limited is reserved too, so that Swarm's own accounts stay true for services that are not ours."""
    limits: dict[str, int] = {}
    if workload.cpu_millis:
        limits["NanoCPUs"] = workload.cpu_millis * 10**6
    if workload.memory_bytes:
        limits["MemoryBytes"] = workload.memory_bytes
    return {"Limits": limits, "Reservations": dict(limits)} if limits else {}


def _log_driver(retention: LogRetention) -> dict[str, Any]:
    """The engine keeps as much until the log is saved. It deletes the older of its files whole, hence one more."""
    size = -(-(retention.first + retention.last) // (2 * 2**20))
    return {"Name": "json-file", "Options": {"max-size": f"{size}m", "max-file": "3"}}


def _mounts(workload: Workload) -> list[dict[str, Any]]:
    base = workload.working_dir or "/"
    return [
        {"Type": "bind", "Source": m.source, "Target": posixpath.join(base, m.target), "ReadOnly": m.read_only}
        for m in workload.mounts
    ]


def _binds(binds: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"Type": "bind", "Source": source, "Target": target} for target, source in binds.items()]


def _shared_memory(workload: Workload, prepared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the node prepared goes first: MPS speaks through the node's /dev/shm, which has half of its memory."""
    if not workload.shm_bytes or any(mount["Target"] == SHM for mount in prepared):
        return []
    return [
        {"Type": "tmpfs", "Target": SHM, "TmpfsOptions": {"SizeBytes": workload.shm_bytes, "Mode": 0o1777}},
    ]


def _published(port: int, host_port: int) -> dict[str, Any]:
    """At the node itself, not through Swarm's mesh, where one service would have the port on all nodes."""
    return {"Protocol": "tcp", "PublishMode": "host", "TargetPort": port, "PublishedPort": host_port}


def exporting(names: Sequence[str], at: str) -> list[str]:
    """A shell that gives the command its secret variables: they are in no specification, and nothing that inspects
    the container shows them."""
    # All are read before any is set: PATH may be among them, by which cat is found.
    read = "".join(f'_cumulus_{i}="$(cat {at}/{name})"; ' for i, name in enumerate(names))
    exports = "".join(f'{name}="$_cumulus_{i}"; export {name}; ' for i, name in enumerate(names))
    return ["/bin/sh", "-c", f'{read}{exports}exec "$@"', "sh"]


def _secret_reference(secret: SecretFile, at: str) -> dict[str, Any]:
    file = {"Name": f"{at}/{secret.name}", "UID": "0", "GID": "0", "Mode": 0o444}
    return {"SecretID": secret.id, "SecretName": secret.secret_name, "File": file}


def _hostname(workload: Workload) -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", workload.job.lower()).strip("-")[:50] or "job"
    return f"{name}-r{workload.replica}"


def is_file_name(text: str) -> bool:
    """Whether it can name a directory of records."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}", text) is not None and os.sep not in text
