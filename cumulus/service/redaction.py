"""What people see of what is not theirs to read. Everybody may know who has a share or waits for one, for which job and
until when: no queue could keep its word without that. The rest needs a role in the object's namespace, and so does all
of what is over.

Every answer of the service that may hold others' objects goes through here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from cumulus.answers.history import Span
from cumulus.errors import InvalidObject
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.registry import BY_NAME
from cumulus.resources.roles import Role
from cumulus.resources.submitter import SUBMITTER
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity

if TYPE_CHECKING:
    from cumulus.history.timeline import Tell

Redact = Callable[[Document], Document]
"""The object as its reader may see it."""

_OF_A_SHARE = ("node", "device", "memoryBytes", "compute", "expiresAt", "phase")
_OF_A_LEASE = ("memoryBytes", "compute", "expiresAt", "user")
_NOT_OF_A_SPAN: Span = {"used": None, "busy": None, "enforcement": ""}  # type: ignore[typeddict-item]
_NOT_OF_A_PAST_SPAN: Span = {"job": None, "user": None, "phase": "", "latestStart": None}  # type: ignore[typeddict-item]


class Redaction:
    def __init__(self, access: Access) -> None:
        self._access = access

    def sees(self, identity: Identity, namespace: str) -> bool:
        """Whether the identity may read what is in the namespace; "" for all of them and what is in none."""
        role = self._access.role(identity, namespace)
        return role is not None and role.covers(Role.VIEWER)

    def of_nodes(self, identity: Identity) -> Redact | None:
        """For nodes, which everybody may read; None where the identity may see all of them."""
        return None if self.sees(identity, "") else node

    def share(self, identity: Identity, partition: Document) -> Document:
        """A partition that anybody is told of."""
        return partition if self.sees(identity, partition["metadata"].get("namespace") or "") else share(partition)

    def spans(self, identity: Identity) -> Tell:
        """For what is, was or will be on devices."""
        sees = cache(partial(self.sees, identity))
        return lambda found, namespace, over: found if sees(namespace) else span(found, over=over)

    def problem(self, identity: Identity, document: Document, error: InvalidObject) -> InvalidObject:
        """What is wrong with an object that anybody is told of: the error quotes it."""
        if self.sees(identity, str((document.get("metadata") or {}).get("namespace") or "")):
            return error
        kind = BY_NAME[document["kind"]].one
        return InvalidObject(f"a {kind} that you may not see is damaged", hint="`cumulus doctor` tells an admin which")


def node(document: Document) -> Document:
    """A node without how it is reached, and of leases made on it no more than of any share. Status of other kinds than
    nodes' is not looked at."""
    metadata = document["metadata"]
    kept = {name: value for name, value in metadata.items() if name not in ("annotations", "managedFields")}
    spec = {name: value for name, value in (document.get("spec") or {}).items() if name == "unschedulable"}
    status = dict(document.get("status") or {})
    if "devices" in status:
        status["devices"] = [_device(device) for device in status["devices"]]
    return {**document, "metadata": kept, "spec": spec, "status": status}


def share(partition: Document) -> Document:
    """Whose a partition is, its job's name, its share and its end."""
    metadata = partition["metadata"]
    job = next((o["name"] for o in metadata.get("ownerReferences") or () if o.get("controller")), None)
    submitter = (metadata.get("annotations") or {}).get(SUBMITTER)
    spec = {name: lookup(partition, f"spec.{name}") for name in ("memory", "compute")}
    if submitter:
        spec["user"] = submitter
    status = {name: value for name, value in (partition.get("status") or {}).items() if name in _OF_A_SHARE}
    return {
        "apiVersion": partition["apiVersion"], "kind": partition["kind"],
        "metadata": {"name": job or metadata["name"], "namespace": metadata.get("namespace")},
        "spec": {name: value for name, value in spec.items() if value is not None}, "status": status,
    }  # fmt: skip


def span(found: Span, *, over: bool) -> Span:
    """What lies on a device: whose, for which job and until when, while it is there or to come. Once it is over, that
    there was something."""
    told: Span = {**found, **_NOT_OF_A_SPAN}
    return {**told, **_NOT_OF_A_PAST_SPAN} if over else told


def _device(device: Any) -> Any:
    """A damaged one as it is: nobody wrote it but a node."""
    if not isinstance(device, dict) or not isinstance(device.get("foreignLeases"), list):
        return device
    leases = [
        {name: lease[name] for name in _OF_A_LEASE if name in lease} | {"partitionId": ""}
        for lease in device["foreignLeases"]
        if isinstance(lease, dict)
    ]
    return {**device, "foreignLeases": leases}
