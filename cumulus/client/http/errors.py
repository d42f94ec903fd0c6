"""A server's errors, as the exceptions that the service raised there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cumulus import errors
from cumulus.answers.codec import decode, decode_error
from cumulus.errors import CumulusError
from cumulus.lib.printable import one_line


class ServerUnavailable(CumulusError):
    """The server can't be reached, or went away before it answered."""


_BY_CODE = {
    401: errors.Unauthenticated, 403: errors.Forbidden, 404: errors.NotFound, 409: errors.Conflict,
    410: errors.Expired, 413: errors.TooLarge, 422: errors.InvalidObject, 429: errors.TooManyRequests,
    503: ServerUnavailable, 504: errors.WaitTimedOut,
}  # fmt: skip
"""For a Status that is not of our making."""


def error_of(code: int, body: bytes) -> CumulusError:
    """Of an answer that is no success."""
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict) or not isinstance(status.get("message"), str):
        return CumulusError(f"the server answered {code}: {one_line(body[:200].decode(errors='replace')) or 'nothing'}")
    return error_in({"code": code, **status})


def error_in(status: Mapping[str, Any]) -> CumulusError:
    """Of a Status."""
    details = status.get("details")
    said = details.get("error") if isinstance(details, dict) else None
    if not isinstance(said, dict):
        return _BY_CODE.get(status.get("code") or 0, CumulusError)(str(status.get("message")))
    made = decode_error(said, _elsewhere(str(said.get("@type"))))
    if (problems := said.get("problems")) is not None:
        made.problems = _problems(made, problems)  # type: ignore[attr-defined]
    return made


def _elsewhere(name: str) -> Mapping[str, type[CumulusError]]:
    """The classes that are not in `cumulus.errors`, each loaded where it is needed."""
    match name:
        case "SecretUnavailable":
            from cumulus.secrets import SecretUnavailable

            return {name: SecretUnavailable}
        case "PruneRefused":
            from cumulus.apply.apply import PruneRefused

            return {name: PruneRefused}
        case "InvalidManifest":
            from cumulus.manifest import InvalidManifest

            return {name: InvalidManifest}
        case "Rejected":
            from cumulus.admission.problems import Rejected

            return {name: Rejected}
        case "SetupFailed":
            from cumulus.nodes.install import SetupFailed

            return {name: SetupFailed}
    return {}


def _problems(error: CumulusError, problems: Any) -> tuple[object, ...]:
    if type(error).__name__ == "InvalidManifest":
        from cumulus.manifest import Problem

        return decode(tuple[Problem, ...], problems)  # type: ignore[no-any-return]
    from cumulus.admission.problems import FieldProblem

    return decode(tuple[FieldProblem, ...], problems)  # type: ignore[no-any-return]
