"""A GPUJob's call: the function that it runs instead of a command, and what came of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cumulus.calls import documents, envelope
from cumulus.resources.fields import AbsolutePath, Duration, Model, on_write


def _check_digest(value: str) -> str:
    if not documents.is_digest(value):
        raise ValueError(f"{value[:80]!r} is no sha256; give 64 hexadecimal digits in lower case")
    return value


def _check_python(value: str) -> str:
    if not envelope.is_python(value):
        oldest = ".".join(str(part) for part in envelope.OLDEST_PYTHON)
        raise ValueError(
            f"{value[:80]!r} is no version of Python that can run a call; write {oldest} or later, as in '3.11'"
        )
    return value


_Digest = Annotated[str, on_write(_check_digest)]
"""The sha256 of a blob, in hex."""


class Call(Model):
    """A call of a Python function, as `cumulus.sdk` makes it. Its parts are blobs of the user who submits the job."""

    payload: _Digest = Field(description="sha256 of the blob with the function and its arguments, pickled.")
    arguments: list[_Digest] = Field(
        default_factory=list,
        max_length=envelope.MOST_ARGUMENTS,
        description="sha256 of the blobs with the arguments that are too large for the payload, each pickled.",
    )
    python: Annotated[str, on_write(_check_python)] = Field(
        description="The version of Python, major.minor, that pickled it and that must run it: 3.11."
    )
    archive: _Digest | None = Field(None, description="sha256 of the blob with the local source, a zip for sys.path.")
    environment: _Digest | None = Field(
        None, description="sha256 of the blob that says which packages the function needs; only without an image."
    )
    interpreter: AbsolutePath | None = Field(
        None,
        description="The Python to use on a node where this file exists and has that version. Else the node looks for "
        "pythonX.Y in the PATH of the job.",
    )
    session: bool = Field(
        False,
        description="Stay up after the call, and answer more of them until the lease is over; what they keep in "
        "memory lives on between them.",
    )
    attended: Duration | None = Field(
        None,
        description="Cancel the call when its client is silent for this long. If left out, it outlives its client.",
    )


class CallStatus(Model):
    """What came of the call. Set once the job is final."""

    outcome: str = Field(
        "",
        description="Returned, Raised, OutOfMemory, NotPicklable or NotLoaded, as the call itself tells; else why it "
        "did not come to that: LeaseExpired, NodeLost, Deadline, NotStarted, NotKept, Crashed.",
    )
    attempt: int = Field(0, description="The attempt that told it.")
    result: str = Field(
        "", description="sha256 of the result, a blob of the submitter: the value or the exception, pickled."
    )
    result_size: int = Field(0, description="Size of the result in bytes.")
    signature: str = Field("", description="Binds the result to the call, by a key that its client has.")
    type: str = Field("", description="The class of the exception.")
    text: str = Field("", description="What the exception says, or what happened, for people.")
    traceback: str = Field("", description="The traceback of the exception, with its source lines.")
    used: int = Field(0, description="With OutOfMemory: bytes that were in use; 0 if not known.")
    leased: int = Field(0, description="With OutOfMemory: bytes that the lease or the limit allows; 0 if not known.")
