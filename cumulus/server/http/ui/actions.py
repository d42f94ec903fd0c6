"""What may be done to a job from its page. Each is asked first, with what is lost; whether it is allowed, the service
says, when it shows the button and again when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.errors import CumulusError, Forbidden, NotFound, UsageError
from cumulus.resources.columns import age
from cumulus.resources.documents import MALFORMED, lookup
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.kinds import gpujob
from cumulus.resources.quantity import parse_duration
from cumulus.server.http.ui.pages import action, page, see_other
from cumulus.server.http.ui.reading import job_key
from cumulus.server.http.ui.templating import job_url

if TYPE_CHECKING:
    from starlette.responses import Response

    from cumulus.server.http.ui.pages import Visit


@dataclass(frozen=True)
class Action:
    """`verb`, `resource`: what the service asks. `offered`: for a job in what state. `says`: what it does; `done`: that
    it was done. `loses`: whether what runs is ended by it."""

    label: str
    verb: str
    resource: str
    offered: Callable[[Document], bool]
    says: str
    done: str
    do: Callable[[Visit, Key], object]
    loses: bool = False
    deletes: bool = False
    danger: bool = False
    asks: str = ""
    """The name of the field that its form asks for."""


@dataclass(frozen=True)
class Button:
    label: str
    url: str
    danger: bool


def buttons(visit: Visit, job: Document) -> list[Button]:
    """Those that who looks may press."""
    key = key_of(job)
    if visit.service.objects.why_not_changed(visit.identity, key):
        return []
    return [
        Button(each.label, job_url(key.namespace, key.name, name), each.danger)
        for name, each in ACTIONS.items()
        if each.offered(job) and visit.may(each.verb, each.resource, key.namespace, key.name)
    ]


def ask(visit: Visit) -> Response:
    """The page that asks, before anything is done."""
    return _asked(visit)


def do(visit: Visit) -> Response:
    key, found = job_key(visit.path), _action(visit)
    try:
        uid = visit.service.objects.get(visit.identity, key)["metadata"]["uid"]
        if visit.form.get("uid", uid) != uid:
            raise NotFound(f"{key} is another job by now", hint="look at it, and try again")
        found.do(visit, key)
    except Forbidden:
        raise
    except CumulusError as error:
        return _asked(visit, f"{error}{f' ({error.hint})' if error.hint else ''}")
    onwards = "/ui/jobs" if found.deletes else job_url(key.namespace, key.name)
    return see_other(f"{onwards}?done={visit.path['action']}")


def _asked(visit: Visit, problem: str = "") -> Response:
    key, found = job_key(visit.path), _action(visit)
    job = visit.service.objects.get(visit.identity, key)
    decision = visit.service.may(visit.identity, found.verb, found.resource, namespace=key.namespace, name=key.name)
    refused = "" if decision.allowed else decision.reason
    refused = refused or visit.service.objects.why_not_changed(visit.identity, key)
    if refused:
        raise Forbidden(f"{found.label} is not for you here: {refused}")
    return visit.render(
        "confirm.html", active="jobs", action=visit.path["action"], found=found, job=job, name=key.name,
        namespace=key.namespace, losses=list(_losses(visit, job, found)), problem=problem, code=409 if problem else 200,
        value=visit.form.get(found.asks, "1h"), ends=_ends(visit, key) if found.asks else "",
        keeps_checkpoints=lookup(job, "spec.checkpoint") is not None,
    )  # fmt: skip


def _losses(visit: Visit, job: Document, found: Action) -> Iterator[str]:
    """In sentences."""
    if not found.loses:
        return
    with suppress(*MALFORMED):
        if unsaved := gpujob.unsaved(job, visit.now):
            yield f"It loses {unsaved}."
        elif attempt := gpujob.running_attempt(job):
            hours = gpujob.lost_gpu_hours(job, visit.now)
            worth = f" ({hours:.1f} GPU-hours)" if hours >= _WORTH_TELLING else ""
            yield f"It keeps no checkpoints: {age(attempt['startTime'], visit.now)} of work are lost{worth}."
    if found.deletes:
        files = visit.service.jobs.files(visit.identity, [job["metadata"]["uid"]])[0]
        if files.filled:
            yield f"Its files in {files.directory} are deleted."
        yield "Its log is deleted."
        if lookup(job, "status.checkpoint") and lookup(job, "spec.checkpoint.whenDeleted") != "Retain":
            yield "Its checkpoints in the daemon's care are deleted."


def _action(visit: Visit) -> Action:
    found = ACTIONS.get(visit.path["action"])
    if found is None:
        raise NotFound("there is no such page")
    return found


def said(visit: Visit) -> str:
    """What was just done, for the page that is shown then."""
    found = ACTIONS.get(visit.query.get("done", ""))
    return "" if found is None else found.done


def _rerun(visit: Visit, key: Key) -> None:
    kept = bool(visit.form.get("checkpoint"))
    visit.service.reruns.rerun(visit.identity, key, from_checkpoint=kept, uid=visit.form.get("uid", ""))


def _extend(visit: Visit, key: Key) -> None:
    given = visit.form.get("by", "").strip().removeprefix("+")
    try:
        seconds = parse_duration(given)
    except ValueError as error:
        raise UsageError(f"that is no duration: {error}") from None
    # The same button in two tabs, or pressed twice, lengthens it once.
    if visit.form.get("ends", now := _ends(visit, key)) != now:
        raise UsageError(
            "its lease ends at another time by now", hint="see below, and press again if it is to be longer still"
        )
    visit.service.extensions.extend(visit.identity, key, float(seconds))


def _ends(visit: Visit, key: Key) -> str:
    """When the job's lease ends, as was last asked for; "" where it has none."""
    held = visit.service.descriptions.describe(visit.identity, key).related
    active = [each for each in held if lookup(each, "status.phase") == "Active"]
    return min((str(lookup(each, "spec.until") or lookup(each, "status.expiresAt")) for each in active), default="")


def _over(job: Document) -> bool:
    return gpujob.KIND.over(job)


ACTIONS: Mapping[str, Action] = {
    "suspend": Action(
        "Suspend", "patch", "gpujobs", lambda job: not _over(job) and not lookup(job, "spec.suspend"),
        "What runs of it is ended, and its share is given back. After a resume it waits anew.",
        "The job is being suspended.",
        lambda visit, key: visit.service.jobs.suspend(visit.identity, key, suspended=True), loses=True,
    ),
    "resume": Action(
        "Resume", "patch", "gpujobs", lambda job: not _over(job) and bool(lookup(job, "spec.suspend")),
        "It waits for a share, and runs again.", "The job may run again.",
        lambda visit, key: visit.service.jobs.suspend(visit.identity, key, suspended=False),
    ),
    "extend": Action(
        "Extend", "update", "gpujobs/lease", lambda job: gpujob.running_attempt(job) is not None,
        "Its lease ends later, if that moves nobody who waits.", "The lease ends later now.", _extend, asks="by",
    ),
    "rerun": Action(
        "Run again", "create", "gpujobs/rerun", lambda job: True,
        "It is made anew under its name. What runs of it is ended first; the logs of earlier runs stay.",
        "The job is made anew.", _rerun, loses=True,
    ),
    "delete": Action(
        "Delete", "delete", "gpujobs", lambda job: not job["metadata"].get("deletionTimestamp"),
        "What runs of it is ended, and its share is given back.", "The job is being deleted.",
        lambda visit, key: visit.service.objects.delete(visit.identity, key, uid=visit.form.get("uid") or None),
        loses=True, deletes=True, danger=True,
    ),
}  # fmt: skip
_WORTH_TELLING = 0.1
"""GPU-hours."""
_PATH = "/ui/jobs/{namespace}/{name}/{action}"
ROUTES: Sequence[Route] = (Route(_PATH, page(ask), methods=["GET"]), Route(_PATH, action(do), methods=["POST"]))
