"""How the containers of those who are no admins are held to what their submitter may do on the node: they run as the
submitter, without capabilities, and mount from the directories that an administrator lists.

Admission asked the same before the job was stored. Here it is asked of each workload, whoever stored its job;
`chronos-runtime` holds the container to it on the node.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections.abc import Mapping
from typing import Any, NamedTuple

from cumulus.backends.base import Workload
from cumulus.chronos.contract.container import MOUNTS_VARIABLE, SUBMITTER_VARIABLE, UNCONFINED
from cumulus.errors import BackendRefused
from cumulus.lib.unix_user import UnixUser
from cumulus.resources.submitter import DaemonRules

NOBODYS_GROUP = 65534
"""The group of who has no account on the daemon's machine. Without one Docker takes root's."""


WITHOUT_RIGHTS: Mapping[str, Any] = {"CapabilityDrop": ["ALL"], "Privileges": {"NoNewPrivileges": True}}
"""Fields of a service's ContainerSpec. Engines before 27 know nothing of `NoNewPrivileges` there."""


class Confinement(NamedTuple):
    """Whom a container's program runs as, and from where it mounts."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    mounts: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """Those of a service's ContainerSpec."""
        groups = [str(group) for group in self.groups]
        return {"User": f"{self.uid}:{self.gid}", "Groups": groups, **WITHOUT_RIGHTS}


def confinement(workload: Workload, mounts: tuple[str, ...]) -> Confinement | None:
    """None for an admin's container, which has what its job asks for. `mounts`: the directories that an administrator
    lists. Raises `BackendRefused` for a workload that asks for more, or does not say whose it is."""
    if workload.submitter_admin:
        return None
    uid = workload.submitter_uid
    if not workload.submitter:
        raise BackendRefused(
            "the job does not say who submitted it, so that its container could run as nobody",
            hint="delete it and apply it again: it is older than submitters",
        )
    if uid is None or uid == 0:
        raise BackendRefused("a container runs as the Unix user who submitted it, and its submitter has none")
    asked = {
        "another user": workload.user_id not in (None, uid), "the node's network": workload.host_network,
        "ports of the node": bool(workload.ports),
    }  # fmt: skip
    for what, wanted in asked.items():
        if wanted:
            raise BackendRefused(f"the container would have {what}, which is for admins alone")
    for mount in workload.mounts:
        if not DaemonRules(uid, mounts).may_mount(mount.source):
            raise BackendRefused(f"{mount.source} is in no directory that the setting containers.mounts lists")
    try:
        user = UnixUser.find(uid)
        return Confinement(uid, user.gid, tuple(group for group in user.groups if group != user.gid), mounts)
    except KeyError:
        return Confinement(uid, NOBODYS_GROUP, (), mounts)


def user_of(workload: Workload) -> UnixUser | None:
    """Whom the container's files on the node belong to; None for an admin's container that runs as its image says."""
    uid = workload.user_id if workload.submitter_admin else workload.submitter_uid
    if uid is None:
        return None
    if not workload.submitter_admin:
        with contextlib.suppress(KeyError):
            return UnixUser.find(uid)
    # Of an image, or nobody here: with no group of an account that has the same number by accident.
    gid = 0 if workload.submitter_admin else NOBODYS_GROUP
    return UnixUser(uid, gid, (), str(uid), "/", "/bin/sh")


def variables(workload: Workload, confined: Confinement | None) -> dict[str, str]:
    """What tells `chronos-runtime` how to hold the container."""
    if confined is None:
        return {SUBMITTER_VARIABLE: UNCONFINED}
    groups = ",".join(map(str, confined.groups))
    base = workload.working_dir or "/"
    targets = [posixpath.normpath(posixpath.join(base, mount.target)) for mount in workload.mounts]
    return {
        SUBMITTER_VARIABLE: f"{confined.uid}:{confined.gid}:{groups}",
        MOUNTS_VARIABLE: json.dumps({"targets": targets, "under": confined.mounts}),
    }
