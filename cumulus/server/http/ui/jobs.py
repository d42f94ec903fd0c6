"""The jobs that who looks may see, their own first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.resources.job_phase import JobPhase
from cumulus.server.http.ui import reading
from cumulus.server.http.ui.actions import said
from cumulus.server.http.ui.pages import page

if TYPE_CHECKING:
    from starlette.responses import Response

    from cumulus.resources.key import Document
    from cumulus.server.http.ui.pages import Visit

MOST = 200
"""Jobs on one page."""


def show(visit: Visit) -> Response:
    wanted, phase = visit.query.get("q", "").strip(), visit.query.get("phase", "")
    found, words = reading.jobs(visit.service, visit.identity), wanted.lower().split()
    fitting = [job for job in found if phase in ("", reading.phase(job)) and _fits(job, words)]
    first = _number(visit.query.get("from", ""))
    shown = reading.rows(visit.service, visit.identity, fitting[first : first + MOST])
    return visit.render(
        "jobs.html", kinds="GPUJob GPUPartition", active="jobs", said=said(visit), q=wanted, phase=phase,
        phases=list(JobPhase),
        mine=[row for row in shown if row.mine], others=[row for row in shown if not row.mine], all=len(found),
        fitting=len(fitting), first=first, last=first + len(shown),
        more=first + MOST if len(fitting) > first + MOST else 0,
    )  # fmt: skip


def _fits(job: Document, wanted: Sequence[str]) -> bool:
    if not wanted:
        return True
    told = reading.words(job)
    return all(word in told for word in wanted)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


ROUTES = (Route("/ui/jobs", page(show)),)
