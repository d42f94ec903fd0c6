"""Kubernetes' DeleteOptions, from the body of a delete or from its query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cumulus.answers.objects import Propagation
from cumulus.errors import InvalidObject, UsageError
from cumulus.server.http.kubernetes.bodies import WRITTEN
from cumulus.server.http.kubernetes.requests import body_of, dry_run, flag, number

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_GRACE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """`uid`, `resource_version`: preconditions, None for any. `grace_seconds`: 0 for the object's own."""

    uid: str | None
    resource_version: str | None
    propagation: Propagation
    grace_seconds: int
    dry_run: bool


async def delete_options_of(request: Request) -> DeleteOptions:
    """What the body says wins. Raises UsageError, InvalidObject."""
    body = await body_of(request, WRITTEN)
    given: dict[str, Any] = {} if body is None else body
    if not isinstance(given, dict) or given.get("kind", "DeleteOptions") != "DeleteOptions":
        raise UsageError("the body of a delete is an object of kind DeleteOptions")
    preconditions = given.get("preconditions") or {}
    if not isinstance(preconditions, dict):
        raise UsageError("preconditions must be an object")
    return DeleteOptions(
        _text(preconditions, "uid"),
        _text(preconditions, "resourceVersion"),
        _propagation(request, given),
        _grace(request, given),
        dry_run(request, given.get("dryRun")),
    )


def _grace(request: Request, given: dict[str, Any]) -> int:
    seconds = given.get("gracePeriodSeconds")
    if seconds is None:
        seconds = number(request, "gracePeriodSeconds")
    if seconds is None:
        return 0
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 <= seconds <= MAX_GRACE:
        raise InvalidObject(
            f"gracePeriodSeconds must be a whole number from 0 to {MAX_GRACE}", field="gracePeriodSeconds"
        )
    # A node signals a program before it kills it, so that at once is one second.
    return max(1, seconds)


def _propagation(request: Request, given: dict[str, Any]) -> Propagation:
    asked = given.get("propagationPolicy") or request.query_params.get("propagationPolicy")
    orphan = given.get("orphanDependents")
    if orphan is None and "orphanDependents" in request.query_params:
        orphan = flag(request, "orphanDependents")
    if orphan is not None and asked:
        raise InvalidObject("propagationPolicy cannot be given with orphanDependents", field="propagationPolicy")
    if not (orphan is None or isinstance(orphan, bool)):
        raise InvalidObject("orphanDependents must be true or false", field="orphanDependents")
    if asked not in (None, "", "Background", "Foreground", "Orphan"):
        raise InvalidObject("propagationPolicy must be Background, Foreground or Orphan", field="propagationPolicy")
    # Foreground is no different: whatever holds a lease or a process has a finalizer, so that its owner goes last.
    return "orphan" if asked == "Orphan" or orphan else "background"


def _text(options: dict[str, Any], name: str) -> str | None:
    value = options.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"preconditions.{name} must be text")
    return value or None
