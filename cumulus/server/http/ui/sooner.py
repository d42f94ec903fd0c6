"""When a job that waits would start if it asked for less: the answers of dry runs."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.errors import CumulusError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.quantity import format_duration, parse_duration
from cumulus.server.http.ui.pages import page
from cumulus.server.http.ui.reading import job_key

if TYPE_CHECKING:
    from starlette.responses import Response

    from cumulus.server.http.ui.pages import Visit

_NAME = "what-if"
"""Of the job that is never made."""
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(.*)", re.DOTALL)


def show(visit: Visit) -> Response:
    key = job_key(visit.path)
    job = visit.service.objects.get(visit.identity, key)
    memory, duration = str(lookup(job, "spec.gpu.memory") or ""), str(lookup(job, "spec.gpu.duration") or "")
    asked = visit.query.get("memory", "").strip(), visit.query.get("duration", "").strip()
    tried = {(memory, duration): "as it is", (memory, _half_as_long(duration)): "half as long",
             (_half(memory), duration): "half the memory"}  # fmt: skip
    if any(asked):
        tried = {(asked[0] or memory, asked[1] or duration): "as you say"}
    found = [(words, *wanted, _forecast(visit, job, *wanted)) for wanted, words in tried.items()]
    return visit.render(
        "sooner.html", active="jobs", name=key.name, namespace=key.namespace, found=found, memory=asked[0] or memory,
        duration=asked[1] or duration,
    )  # fmt: skip


def _forecast(visit: Visit, job: Document, memory: str, duration: str) -> str:
    spec = copy.deepcopy({name: value for name, value in job["spec"].items() if name != "suspend"})
    spec["gpu"] |= {"memory": memory, "duration": duration}
    spec["gpu"].pop("compute", None)
    metadata = {"name": _NAME, "namespace": job["metadata"].get("namespace")}
    wanted = {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": metadata, "spec": spec}
    try:
        return visit.service.explanations.forecast(visit.identity, wanted) or "nobody can say"
    except CumulusError as error:
        return str(error)


def _half(memory: str) -> str:
    """20Gi: 10Gi."""
    found = _NUMBER.fullmatch(memory)
    return memory if found is None else f"{float(found[1]) / 2:g}{found[2]}"


def _half_as_long(duration: str) -> str:
    try:
        return format_duration(max(60, int(parse_duration(duration) / 2)))
    except ValueError:
        return duration


ROUTES = (Route("/ui/jobs/{namespace}/{name}/sooner", page(show)),)
