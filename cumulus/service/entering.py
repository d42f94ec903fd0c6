"""Who may enter a job: start programs beside its own, or read what these could read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cumulus.errors import Forbidden, UsageError
from cumulus.resources.key import Document, Key
from cumulus.resources.registry import BY_NAME
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects


@contextmanager
def entered(
    access: Access, objects: Objects, identity: Identity, resource: str, key: Key, replica: int
) -> Iterator[Document]:
    """The job, for its submitter and admins. What is done within is written to the audit log, and so is who is turned
    away. `resource` as kubectl names it: pods/exec, say. Raises NotFound, Forbidden, UsageError."""
    if not BY_NAME[key.kind].leaves_files:
        raise UsageError(f"only jobs run programs, not a {key.kind}")
    pod = f"{key.name}-{replica}"
    access.check(identity, "create", resource, key.namespace, pod, group="")
    job = objects.get(identity, key)
    if refused := objects.why_not_entered(identity, job):
        access.audit.tell(identity, "create", resource, key.namespace, pod, "Forbidden")
        raise Forbidden(f"you can't enter gpujob/{key.name}", hint=refused)
    with access.audit.doing(identity, [("create", resource, key.namespace, pod)]):
        yield job
