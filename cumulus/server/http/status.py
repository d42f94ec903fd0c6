"""Errors as Kubernetes' `Status` objects, each with its code and reason, and causes by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from starlette.responses import Response

from cumulus import errors
from cumulus.admission.problems import Rejected, path_text
from cumulus.admission.unknown_fields import StrictDecodingError
from cumulus.answers.codec import encode_error
from cumulus.errors import CumulusError

CODES: tuple[tuple[type[CumulusError], int, str], ...] = (
    (errors.Unauthenticated, 401, "Unauthorized"),
    (errors.Forbidden, 403, "Forbidden"),
    (errors.TooManyRequests, 429, "TooManyRequests"),
    (errors.TooLarge, 413, "RequestEntityTooLarge"),
    (errors.NotSupported, 415, "UnsupportedMediaType"),
    (errors.Replaced, 409, "Conflict"),
    (errors.NotFound, 404, "NotFound"),
    (errors.NoLog, 404, "NotFound"),
    (errors.AlreadyExists, 409, "AlreadyExists"),
    (errors.AlreadySet, 409, "Conflict"),
    (errors.Conflict, 409, "Conflict"),
    (errors.JobFinished, 409, "Conflict"),
    (errors.NotExtended, 409, "Conflict"),
    (errors.NotRunning, 409, "Conflict"),
    (errors.NodeRefused, 409, "Conflict"),
    (errors.Expired, 410, "Expired"),
    (errors.InvalidObject, 422, "Invalid"),
    (errors.StoreUnavailable, 503, "ServiceUnavailable"),
    (errors.StoreError, 503, "ServiceUnavailable"),
    (errors.ChronosError, 503, "ServiceUnavailable"),
    (errors.BackendError, 503, "ServiceUnavailable"),
    (errors.BlobStoreUnavailable, 503, "ServiceUnavailable"),
    (errors.WaitTimedOut, 504, "Timeout"),
    (CumulusError, 400, "BadRequest"),
)
"""The first that an error is an instance of says how it is told."""


def status_of(error: CumulusError, *, details: Mapping[str, str] = {}) -> dict[str, Any]:
    """The Status object. `details`: name, kind, uid of what was asked for.

    `details.error` is ours: our client makes the same error of it again.
    """
    code, reason = next((code, reason) for type, code, reason in CODES if isinstance(error, type))
    found: dict[str, Any] = {**details, "error": encode_error(error)}
    if causes := list(_causes(error)):
        found["causes"] = causes
    if isinstance(error, errors.TooManyRequests):
        found["retryAfterSeconds"] = max(1, round(error.seconds))
    hint = f" ({error.hint})" if error.hint else ""
    return failure(code, reason, f"{error}{hint}", found)


def failure(code: int, reason: str, message: str, details: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The Status object of what did not work out."""
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "details": details, "code": code,
    }  # fmt: skip


def success(details: Mapping[str, Any]) -> dict[str, Any]:
    """The Status object of what worked out and leaves no object."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def status_response(status: Mapping[str, Any]) -> Response:
    headers = {}
    if seconds := status.get("details", {}).get("retryAfterSeconds"):
        headers["retry-after"] = str(seconds)
    if status["code"] == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(orjson.dumps(status), status["code"], headers, "application/json")


def error_response(error: CumulusError, *, details: Mapping[str, str] = {}) -> Response:
    return status_response(status_of(error, details=details))


def _causes(error: CumulusError) -> Iterator[dict[str, str]]:
    if isinstance(error, errors.ApplyConflict):
        for conflict in error.conflicts:
            message = f"conflict with {conflict.owner}"
            yield {"reason": "FieldManagerConflict", "message": message, "field": conflict.field}
    if isinstance(error, Rejected | StrictDecodingError):
        for problem in error.problems:
            yield {"reason": "FieldValueInvalid", "message": problem.message, "field": path_text(problem.path)}
    elif isinstance(error, errors.InvalidObject):
        # kubectl shows of an invalid object nothing but causes, each with its field.
        yield {"reason": "FieldValueInvalid", "message": str(error), "field": error.field or "object"}
