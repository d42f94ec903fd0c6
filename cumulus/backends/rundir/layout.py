"""The files of a run: what the backend, the supervisor and the log reader agree on. Standard library only.

ROOT/runs/NAME            link to the run's directory: everything started and not removed
ROOT/events/NAME          its times are set by the supervisor when the run's state changed
ROOT/trash/               what a purge is deleting
ROOT/purged/JOB_UID       tombstone: nothing of this job is started any more
ROOT/jobs/JOB_UID/checkpoint/  of all attempts, where the job gives a relative path
ROOT/jobs/JOB_UID/aN-rM/  one run; stays until the job is purged, so that it is never started twice
    spec.json             what to run; complete before the directory has its name
    lock                  a record lock, held by the supervisor for its life: at most one, found by its pid;
                          made with the directory, since a second file of that name would be a second lock
                          its times are set by a supervisor that is ending its run and makes progress
    started.json          written before the command is let go: from here on, no second start
    stop.json             a request to end, with its grace and when that is over (CLOCK_BOOTTIME)
    exit.json             the end; written once, durable, then never changed
    removed               the run was removed; only its log counts
    log.OFFSET            what it wrote, in segments named by the offset of their first byte
    work/                 its working directory, where the job names none
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from typing import Any, NamedTuple

from cumulus.chronos import cgroup

FORMAT = 1
"""Of spec.json. A supervisor refuses a newer one, a backend reads all older ones."""

_MOST = 64 * 2**20
"""Bytes of a document at most; the largest spec has a few MiB."""

RUNS, JOBS, EVENTS, PURGED, TRASH = "runs", "jobs", "events", "purged", "trash"
SPEC, LOCK, STARTED, STOP, EXIT, REMOVED = "spec.json", "lock", "started.json", "stop.json", "exit.json", "removed"
WORK, CHECKPOINT, SUPERVISOR_LOG, LOG_PREFIX = "work", "checkpoint", "supervisor.log", "log."

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk: they pass, and are no fault of the job."""


def run_directory(job_uid: str, attempt: int, replica: int) -> str:
    """Where a run lives, relative to the root."""
    return os.path.join(JOBS, job_uid, f"a{attempt}-r{replica}")


def write_durably(path: str, content: bytes, mode: int = 0o600) -> None:
    """Put `content` at `path`, whole or not at all, also through a power cut. Raises OSError."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path) or ".")


def write_document(path: str, document: dict[str, Any]) -> None:
    """`write_durably` of a JSON object."""
    write_durably(path, json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")


def read_document(path: str) -> dict[str, Any] | None:
    """The JSON object at `path`, None where there is no file. Raises ValueError where it is no JSON object.

    A job can put there what it likes: a pipe that nobody writes to or a link to /dev/zero is no file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            content = file.read(_MOST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(content) > _MOST:
        raise ValueError(f"{path} is larger than {_MOST} bytes")
    document = json.loads(content.decode("utf-8", "surrogateescape"))
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no JSON object")
    return document


def enclosure(started: dict[str, Any] | None) -> str:
    """The cgroup of a run that has started, "" where it has none; jobs can write the file that says so."""
    directory = (started or {}).get("cgroup")
    return str(directory) if cgroup.is_ours(directory) else ""


def sync_directory(path: str) -> None:
    """Make names created or renamed in the directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Stop(NamedTuple):
    """A request to end: the seconds of grace that were given, and when they are over (CLOCK_BOOTTIME)."""

    grace: float
    kill_at: float


def write_stop(path: str, request: Stop) -> None:
    write_document(path, request._asdict())


def read_stop(path: str = STOP) -> Stop | None:
    """The request at `path`; where it is damaged, one to end at once."""
    try:
        document = read_document(path)
        # Versions before this one gave the grace alone.
        return None if document is None else Stop(float(document["grace"]), float(document.get("kill_at", math.inf)))
    except (ValueError, KeyError, TypeError):
        return Stop(0.0, 0.0)


def show_progress() -> None:
    """Said by a supervisor in its run's directory, again and again while it ends the run: it is not stuck."""
    with contextlib.suppress(OSError):
        # By path: to close a descriptor of the file would let go of the lock.
        os.utime(LOCK)


def boot_id() -> str:
    """Names this boot of the machine: a run started in another one has no processes left."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
