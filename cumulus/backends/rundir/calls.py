"""The directory of a call's run: made from the blobs of its submitter before the start, and read after the end.

See `cumulus.calls.envelope` for its files. Nobody but the run's user may look into it: the payload holds a key.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial

from cumulus.backends.base import BlobReader, CallResult, CallToRun, Workload
from cumulus.calls import documents, session
from cumulus.calls.envelope import ARCHIVE, CALL, ENVIRONMENT, OUTCOME, PAYLOAD, RESULT, Envelope, argument_file
from cumulus.calls.outcome import OF_RUNNER, Outcome
from cumulus.errors import BackendError, BackendRefused, BlobDamaged, NoSuchBlob

_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC


def make(directory: str, workload: Workload, call: CallToRun, blobs: BlobReader | None) -> None:
    """Make the directory, whole before it has its name elsewhere. Raises `BackendRefused` where a blob is gone,
    OSError, and what the store of blobs raises where it can't be used."""
    if blobs is None:
        raise BackendError("this daemon keeps no blobs, and a call is made of them")
    os.mkdir(directory, 0o700)
    envelope = Envelope(call.python, call.payload, call.session, workload.namespace, workload.job, workload.attempt)
    _write(os.path.join(directory, CALL), iter([envelope.to_json()]))
    parts = {PAYLOAD: call.payload, ARCHIVE: call.archive, ENVIRONMENT: call.environment}
    parts |= {argument_file(sha256): sha256 for sha256 in call.arguments}
    for name, sha256 in parts.items():
        if not sha256:
            continue
        try:
            _write(os.path.join(directory, name), blobs.open(call.owner, sha256))
        except (NoSuchBlob, BlobDamaged) as error:
            part = name.partition(".")[0].partition("-")[0]
            raise BackendRefused(f"the call's {part} is not there any more: {error}") from None


def read(directory: str) -> CallResult | None:
    """What the run left in its directory; see `left`. Raises OSError too."""
    return left(partial(_file, directory))


def left(file: Callable[[str], tuple[int, Iterator[bytes]] | None]) -> CallResult | None:
    """What a call's run left, None where there is no outcome. `file` gives the size and the content of a file by its
    name; None where there is none, or something else in its place. Raises ValueError where what the call wrote is
    none."""
    told = file(OUTCOME)
    if told is None:
        return None
    if told[0] > documents.LARGEST:
        raise ValueError(f"outcome is larger than {documents.LARGEST} bytes")
    outcome = Outcome.read(b"".join(told[1]), OF_RUNNER)
    if not outcome.result:
        return CallResult(outcome, iter(()))
    if outcome.result_size > session.LARGEST:
        raise ValueError(f"the result has more than {session.LARGEST} bytes")
    found = file(RESULT)
    if found is None:
        raise ValueError("its result is not there")
    if found[0] != outcome.result_size:
        raise ValueError("its result is not as large as it says")
    return CallResult(outcome, found[1])


def _file(directory: str, name: str) -> tuple[int, Iterator[bytes]] | None:
    path = os.path.join(directory, name)
    try:
        with _open_regular(path) as file:
            size = os.fstat(file).st_size
    except FileNotFoundError:
        return None
    return size, _chunks(path, size)


@contextlib.contextmanager
def _open_regular(path: str) -> Iterator[int]:
    """A descriptor of what is a file, and no link, pipe or device. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _NO_LINK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(errno.ENOENT, "a link is in its place", path) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(errno.ENOENT, "something else is in its place", path)
        yield descriptor
    finally:
        os.close(descriptor)


def _chunks(path: str, size: int) -> Iterator[bytes]:
    """Raises BackendError."""
    try:
        with _open_regular(path) as file:
            while size and (data := os.read(file, min(size, session.CHUNK))):
                size -= len(data)
                yield data
    except OSError as error:
        raise BackendError(f"the result of a call cannot be read: {error.strerror}") from error


def _write(path: str, content: Iterator[bytes]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600), "wb") as file:
        for chunk in content:
            file.write(chunk)
