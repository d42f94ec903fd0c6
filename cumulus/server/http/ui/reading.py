"""What several pages read of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cumulus.resources.columns import UNKNOWN, AllOwned
from cumulus.resources.documents import MALFORMED, lookup
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import gpujob
from cumulus.resources.query import Query
from cumulus.resources.registry import BY_NAME
from cumulus.resources.submitter import Submitter
from cumulus.server.http.ui.templating import job_url

if TYPE_CHECKING:
    from cumulus.service.identity import Identity
    from cumulus.service.service import Service


class JobRow(NamedTuple):
    """A job in a table."""

    name: str
    namespace: str
    url: str
    user: str
    mine: bool
    phase: str
    reason: str
    node: str
    gpu: str
    attempts: str
    lease_ends: str
    """RFC 3339, "" without a lease."""
    created: str


def jobs(service: Service, identity: Identity) -> list[Document]:
    """All that who asks may see: their own first, then by what they do and the newest first."""
    found = visible(service, identity, gpujob.KIND.name)
    found.sort(key=lambda job: str(job["metadata"].get("creationTimestamp", "")), reverse=True)
    return sorted(found, key=lambda job: (not is_mine(identity, job), _ORDER.get(phase(job), 2)))


def rows(service: Service, identity: Identity, found: Sequence[Document]) -> list[JobRow]:
    """Those jobs, as a table shows them."""
    if not found:
        return []
    partitions = AllOwned([gpujob.KIND], lambda kind: visible(service, identity, kind))
    return [_row(job, partitions(job), identity) for job in found]


def phase(job: Document) -> str:
    return str(lookup(job, "status.phase") or "Pending")


def waits(job: Document) -> bool:
    """Whether it has not got its share yet."""
    return phase(job) in (JobPhase.PENDING, JobPhase.SCHEDULED)


def words(job: Document) -> str:
    """What a search looks at."""
    metadata = job["metadata"]
    user = Submitter.of(metadata.get("annotations")).name
    told = (
        metadata["name"],
        metadata.get("namespace") or "",
        user,
        phase(job),
        cell(gpujob.job_node, job),
        cell(gpujob.job_reason, job),
    )
    return "\n".join(told).lower()


def cell(of: Callable[[Document], str], job: Document) -> str:
    """A damaged job is shown all the same."""
    try:
        return of(job)
    except MALFORMED:
        return UNKNOWN


def job_key(path: Mapping[str, str]) -> Key:
    """Of the job whose page it is."""
    return Key(gpujob.KIND.name, path["namespace"], path["name"])


def visible(service: Service, identity: Identity, kind: str) -> list[Document]:
    """The objects of a kind in all namespaces that who asks may list."""
    plural = BY_NAME[kind].plural
    if service.may(identity, "list", plural).allowed:
        return service.objects.list(identity, Query(kind)).items
    found: list[Document] = []
    for namespace in service.namespaces.list(identity)[0]:
        if service.may(identity, "list", plural, namespace=namespace).allowed:
            found += service.objects.list(identity, Query(kind, namespace)).items
    return found


def is_mine(identity: Identity, document: Document) -> bool:
    found = Submitter.of(document["metadata"].get("annotations"))
    return (found.name, found.uid) == (identity.name, identity.uid)


_ORDER: Mapping[str, int] = {
    JobPhase.RUNNING: -3, JobPhase.CHECKPOINTING: -3, JobPhase.PARKED: -2, JobPhase.SCHEDULED: -2, JobPhase.PENDING: -1,
    JobPhase.SUSPENDED: -1, JobPhase.FAILED: 1,
}  # fmt: skip
"""What happens now comes first, and what went well last."""
_LEASED = ("Active", "Parked", "Unparking")


def _row(job: Document, partitions: Sequence[Document], identity: Identity) -> JobRow:
    metadata = job["metadata"]
    namespace, name = metadata.get("namespace") or "", metadata["name"]
    return JobRow(
        name, namespace, job_url(namespace, name), Submitter.of(metadata.get("annotations")).name,
        is_mine(identity, job), phase(job), cell(gpujob.job_reason, job), cell(gpujob.job_node, job),
        cell(gpujob.job_gpu, job), cell(gpujob.job_attempts, job), min(_ends(partitions), default=""),
        str(metadata.get("creationTimestamp", "")),
    )  # fmt: skip


def _ends(partitions: Sequence[Document]) -> Iterator[str]:
    for each in partitions:
        if lookup(each, "status.phase") in _LEASED and (end := lookup(each, "status.expiresAt")):
            yield str(end)
