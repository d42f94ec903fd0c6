"""The calls, as data: the method of the service that answers, and the types of its arguments.

Arguments are passed by name, as the method has them; what the client leaves out has the method's default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cumulus.answers.nodes import HostKey, WorkerAddress
from cumulus.answers.swarm import SwarmMark
from cumulus.resources.key import Document, Key

if TYPE_CHECKING:
    from cumulus.service.service import Service


@dataclass(frozen=True, slots=True)
class NativeCall:
    """`of(service)` is called in a thread, with the identity of who asks before the arguments. `steps`: it gives an
    iterator, and the answer is a stream."""

    of: Callable[[Service], Callable[..., Any]]
    arguments: Mapping[str, Any]
    steps: bool = False
    reads: bool = False
    """It changes nothing."""


def _call(of: Callable[[Service], Callable[..., Any]], **arguments: Any) -> NativeCall:
    return NativeCall(of, arguments)


def _read(of: Callable[[Service], Callable[..., Any]], **arguments: Any) -> NativeCall:
    return NativeCall(of, arguments, reads=True)


def _steps(of: Callable[[Service], Callable[..., Any]], **arguments: Any) -> NativeCall:
    return NativeCall(of, arguments, steps=True)


_CHANGES = Mapping[str, str | None]
"""Labels or annotations by key; null removes one."""

CALLS: Mapping[str, NativeCall] = {
    "revision": _read(lambda s: s.objects.revision),
    "set_labels": _call(lambda s: s.objects.set_labels, key=Key, changes=_CHANGES, overwrite=bool),
    "set_annotations": _call(lambda s: s.objects.set_annotations, key=Key, changes=_CHANGES, overwrite=bool),
    "delete_losses": _read(lambda s: s.descriptions.losses, key=Key),
    "describe": _read(lambda s: s.descriptions.describe, key=Key),
    "extend": _call(lambda s: s.extensions.extend, key=Key, seconds=float, dry_run=bool),
    "rerun": _call(
        lambda s: s.reruns.rerun, key=Key, changes=Document | None, from_checkpoint=bool, uid=str
    ),
    "suspend": _call(lambda s: s.jobs.suspend, key=Key, suspended=bool, park=bool),
    "park": _call(lambda s: s.jobs.park, key=Key, parked=bool, park_for=str),
    "usage": _read(lambda s: s.usage.now),
    "timeline": _read(lambda s: s.history.timeline, start=int, end=int, pixels=int),
    "job_use": _read(lambda s: s.history.job_use, key=Key),
    "report": _read(lambda s: s.history.report, since=int, until=int, by=str),
    "lease_rows": _read(lambda s: s.history.lease_rows, since=int, until=int, after=int),
    "held_over_time": _read(lambda s: s.history.held_over_time, start=int, end=int, points=int, by=str),
    "why": _read(lambda s: s.explanations.why, key=Key),
    "line": _read(lambda s: s.explanations.line, queue=str),
    "forecast": _read(lambda s: s.explanations.forecast, document=Document),
    "job_files": _read(lambda s: s.jobs.files, uids=Sequence[str]),
    "same_directory": _read(lambda s: s.directories.same_on, directory=str, word=str, namespace=str),
    "logs": NativeCall(
        lambda s: s.logs.read,
        {
            "key": Key, "attempt": int, "replica": int | None, "follow": bool, "tail": int | None,
            "since": float | None, "timestamps": bool, "skip": int, "onwards": bool, "run": int,
        },
        steps=True, reads=True,
    ),
    "checkpoints": _read(lambda s: s.checkpoints.list, key=Key, beyond=bool),
    "verify_checkpoints": NativeCall(
        lambda s: s.checkpoints.verify, {"key": Key, "step": int | None, "beyond": bool}, steps=True, reads=True
    ),
    "fetch_checkpoint": NativeCall(
        lambda s: s.checkpoints.fetch, {"key": Key, "step": int | None, "beyond": bool}, steps=True, reads=True
    ),
    "changes": NativeCall(lambda s: s.carried.changes, {"key": Key, "most": int}, steps=True, reads=True),
    "prune_checkpoints": _call(lambda s: s.checkpoints.prune, key=Key, keep=int, beyond=bool),
    "cordon": _call(lambda s: s.nodes.cordon, name=str, unschedulable=bool),
    "find_worker": _read(lambda s: s.workers.find, name=str, address=WorkerAddress, fingerprint=str),
    "add_worker": _call(lambda s: s.workers.add, name=str, address=WorkerAddress, key=HostKey),
    "ask_worker": _read(lambda s: s.workers.ask, name=str),
    "setup_worker": _steps(lambda s: s.workers.setup, name=str, prefix=str, python=str, dry_run=bool),
    "drain_node": _steps(lambda s: s.nodes.drain, name=str, now=bool, seconds=float | None),
    "plan_drain": _call(lambda s: s.planned_drains.plan, name=str, at=str, duration=str),
    "cancel_drain": _call(lambda s: s.planned_drains.cancel, name=str),
    "end_drain": _call(lambda s: s.planned_drains.end, name=str),
    "remove_node": _steps(lambda s: s.nodes.remove, name=str, force=bool),
    "init_swarm": _call(lambda s: s.swarm.initialise, advertise=str, listen=str),
    "swarm_invitation": _read(lambda s: s.swarm.invitation),
    "swarm_status": _read(lambda s: s.swarm.status),
    "swarm_ownership": _read(lambda s: s.swarm.ownership),
    "adopt_swarm": _call(lambda s: s.swarm.adopt, mark=SwarmMark | None),
    "push_image": _steps(lambda s: s.swarm.push_image, name=str, nodes=Sequence[str], every=float),
    "server_state": _read(lambda s: s.server_state),
    "find_damaged": _read(lambda s: s.find_damaged, document=Document | None),
    "create_secret": _call(
        lambda s: s.secrets.create, namespace=str, name=str, values=Mapping[str, str], overwrite=bool
    ),
    "secrets": _read(lambda s: s.secrets.list, namespace=str | None),
    "delete_secret": _call(lambda s: s.secrets.delete, namespace=str, name=str, key=str),
    "create_token": _call(
        lambda s: s.tokens.create, name=str, user=str, groups=Sequence[str], seconds=float | None
    ),
    "tokens": _read(lambda s: s.tokens.list, everybody=bool),
    "revoke_token": _call(lambda s: s.tokens.revoke, name=str, user=str),
    "revoke_certificate": _call(lambda s: s.certificates.revoke, serial=str),
    "revoked_certificates": _read(lambda s: s.certificates.revoked),
    "ticket": _read(lambda s: s.tickets.issue),
    "page_link": _call(lambda s: s.sessions.link),
    "api_address": _read(lambda s: s.api_address),
    "who_am_i": _read(lambda s: s.who_am_i),
    "may": _read(lambda s: s.may, verb=str, resource=str, namespace=str, name=str),
}  # fmt: skip
