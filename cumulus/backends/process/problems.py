"""Problems of this machine's disk and processes, as backends tell them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cumulus.errors import BackendError


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """OSErrors and damaged files as `BackendError`."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise BackendError(f"the process backend could not {what}: {error.strerror}{where}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f"the process backend could not {what}: a file of the run is damaged ({error})") from error
