"""Errors as gRPC tells them: a status code, one line, and the whole error in `cumulus-error-bin`."""

from __future__ import annotations

from collections.abc import Iterator

from grpc import StatusCode

from cumulus import errors
from cumulus.admission.problems import Rejected, path_text
from cumulus.errors import CumulusError
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import truncate
from cumulus.rpc import orchestrator_pb2 as pb

TRAILER = "cumulus-error-bin"
CODES: tuple[tuple[type[CumulusError], StatusCode], ...] = (
    (errors.Unauthenticated, StatusCode.UNAUTHENTICATED),
    (errors.Forbidden, StatusCode.PERMISSION_DENIED),
    (errors.TooManyRequests, StatusCode.RESOURCE_EXHAUSTED),
    (errors.NotFound, StatusCode.NOT_FOUND),
    (errors.NoLog, StatusCode.NOT_FOUND),
    (errors.AlreadyExists, StatusCode.ALREADY_EXISTS),
    (errors.Conflict, StatusCode.ABORTED),
    (errors.Expired, StatusCode.OUT_OF_RANGE),
    (errors.WaitTimedOut, StatusCode.DEADLINE_EXCEEDED),
    (errors.NotSupported, StatusCode.UNIMPLEMENTED),
    (errors.StoreError, StatusCode.UNAVAILABLE),
    (errors.ChronosError, StatusCode.UNAVAILABLE),
    (errors.NoSuchBlob, StatusCode.NOT_FOUND),
    (errors.BlobOffset, StatusCode.OUT_OF_RANGE),
    (errors.BlobBusy, StatusCode.ABORTED),
    (errors.BlobMismatch, StatusCode.INVALID_ARGUMENT),
    (errors.BlobDamaged, StatusCode.DATA_LOSS),
    (errors.BlobTooLarge, StatusCode.FAILED_PRECONDITION),
    (errors.BlobStoreFull, StatusCode.FAILED_PRECONDITION),
    (errors.BlobError, StatusCode.UNAVAILABLE),
    (errors.BackendRefused, StatusCode.FAILED_PRECONDITION),
    (errors.BackendError, StatusCode.UNAVAILABLE),
    (errors.JobFinished, StatusCode.FAILED_PRECONDITION),
    (errors.UsageError, StatusCode.INVALID_ARGUMENT),
    (errors.InvalidObject, StatusCode.INVALID_ARGUMENT),
    (errors.TooLarge, StatusCode.INVALID_ARGUMENT),
    (CumulusError, StatusCode.FAILED_PRECONDITION),
)
"""The first that an error is an instance of says how it is told."""
_MOST_PROBLEMS = 20
_LONGEST = 1000
"""Clients take 8 KiB of metadata."""
_LONGEST_PROBLEM = 200


def code_of(error: CumulusError) -> StatusCode:
    return next(code for type, code in CODES if isinstance(error, type))


def details_of(error: CumulusError) -> str:
    """One line for people."""
    hint = f" ({error.hint})" if error.hint else ""
    return truncate(one_line(f"{error}{hint}"), _LONGEST)


def message_of(error: CumulusError) -> pb.Error:
    problems = [
        pb.Problem(field=truncate(field, _LONGEST_PROBLEM), message=truncate(message, _LONGEST_PROBLEM))
        for field, message in list(_problems(error))[:_MOST_PROBLEMS]
    ]
    seconds = error.seconds if isinstance(error, errors.TooManyRequests) else 0.0
    return pb.Error(
        reason=type(error).__name__, message=truncate(str(error), _LONGEST), hint=truncate(error.hint or "", _LONGEST),
        problems=problems, retry_after=seconds,
    )  # fmt: skip


def _problems(error: CumulusError) -> Iterator[tuple[str, str]]:
    if isinstance(error, Rejected):
        for problem in error.problems:
            yield path_text(problem.path), problem.message
    elif isinstance(error, errors.InvalidObject) and error.field:
        yield error.field, str(error)
