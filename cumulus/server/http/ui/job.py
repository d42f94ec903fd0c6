"""One job: why it is as it is, its attempts, conditions and events, its log, its manifest, and what may be done."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.errors import CumulusError
from cumulus.manifest import dump
from cumulus.resources.columns import age
from cumulus.resources.documents import MALFORMED, lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import gpujob
from cumulus.resources.submitter import Submitter
from cumulus.server.http.ui import actions, described, job_log, reading, sparklines
from cumulus.server.http.ui.pages import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response

    from cumulus.server.http.ui.pages import Visit


def show(visit: Visit) -> Response:
    key = reading.job_key(visit.path)
    found = visit.service.descriptions.describe(visit.identity, key)
    job, now = found.document, visit.now
    waits = reading.waits(job)
    return visit.render(
        "job.html", active="jobs", keys=str(key),
        # When others end is when it starts.
        kinds="GPUJob GPUPartition" if waits else "", waits=waits, job=job, name=key.name, namespace=key.namespace,
        said=actions.said(visit),
        phase=reading.phase(job), gpu=reading.cell(gpujob.job_gpu, job), node=reading.cell(gpujob.job_node, job),
        submitter=Submitter.of(job["metadata"].get("annotations")).name,
        ends=[lookup(each, "status.expiresAt") for each in found.related if lookup(each, "status.phase") == "Active"],
        why=_why(visit, key), unsaved=reading.cell(lambda each: gpujob.unsaved(each, now), job),
        saved=_saved(job, visit),
        sections=list(described.sections(found, now)), related=described.related(found, now),
        conditions=described.conditions(job), events=list(reversed(found.events)), buttons=actions.buttons(visit, job),
        sparks=sparklines.of(visit, key),
        manifest=dump(_manifest(job)), log=job_log.panel(visit, job),
    )  # fmt: skip


def _why(visit: Visit, key: Key) -> Sequence[str]:
    with suppress(CumulusError, *MALFORMED):
        return visit.service.explanations.why(visit.identity, key).lines
    return ()


def _saved(job: Document, visit: Visit) -> str:
    with suppress(*MALFORMED):
        if saved := lookup(job, "status.checkpoint"):
            return f"step {saved['step']}, {age(saved['time'], visit.now)} ago"
    return ""


def _manifest(job: Document) -> Document:
    """What `apply` would take."""
    metadata = {name: job["metadata"][name] for name in ("name", "namespace", "labels") if job["metadata"].get(name)}
    return {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": metadata, "spec": job.get("spec") or {}}


ROUTES = (Route("/ui/jobs/{namespace}/{name}", page(show)),)
