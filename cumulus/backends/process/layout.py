"""The files of a process job's run, which the backend and the supervisor share. Standard library only.

ROOT/runs/NAME            link to the run's directory: everything started and not removed
ROOT/events/NAME          the supervisor sets its times when the run's state has changed
ROOT/trash/               what a purge is deleting
ROOT/jobs/JOB_UID/checkpoint/  of all attempts, where the job gives a relative path
ROOT/jobs/JOB_UID/ahead.json  whose a checkpoint is that came here before anything of the job ran here
ROOT/jobs/JOB_UID/aN-rM/  one run (see `rundir.layout` for what all backends share)
    spec.json             what to run; complete before the directory has its name
    lock                  a record lock, held by the supervisor for its life: at most one, found by its pid;
                          made with the directory, since a second file of that name would be a second lock;
                          a supervisor that is ending its run sets its times while it makes progress
    started.json          written before the command is let go: from here on, no second start
    stop.json             a request to end, with its grace, when that is over (CLOCK_BOOTTIME), and why
    checkpoint.json       the job's newest checkpoint, as its supervisor saw it
    uploader              locked by the process that copies its checkpoints elsewhere, which notes there that it has
    execs                 the socket at which the supervisor starts programs beside the command
    exit.json             the end; written once, durable, then never changed
    work/                 its working directory, where the job names none
    hostfile              of a gang: its hosts
    checkpoint-request    there once the node has asked the program for a checkpoint; holds the reason
    call/                 of a call: what it is made of, then what it left
ROOT/ports/               see `ports`
ROOT/environments/        Python environments that calls ask for
ROOT/runner-DIGEST.pyz    what runs calls

Where a root daemon runs the program as its submitter, all of the above is root's alone, and what the program uses is
elsewhere:

ROOT/users/UID/           of that user, mode 0700. Nobody opens, makes or deletes anything in it but as that user
ROOT/users/UID/JOB_UID/aN-rM/work/, hostfile, checkpoint-request
ROOT/users/UID/JOB_UID/aN-rM/call/
ROOT/users/UID/JOB_UID/checkpoint/
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any, NamedTuple

from cumulus.backends import checkpoints
from cumulus.backends.checkpoints import SealedCheckpoint
from cumulus.backends.rundir.documents import read_document, write_document
from cumulus.lib import cgroup
from cumulus.lib.unix_user import UnixUser

FORMAT, FORMAT_BEFORE_CALLS, FORMAT_BEFORE_USERS = 3, 2, 1
"""Of spec.json. A supervisor refuses a newer one, a backend reads all older ones."""

RUNS, EVENTS, TRASH, USERS = "runs", "events", "trash", "users"
SPEC, LOCK, STARTED, STOP, EXIT = "spec.json", "lock", "started.json", "stop.json", "exit.json"
SAVED = "checkpoint.json"
WORK, CHECKPOINT, SUPERVISOR_LOG = "work", "checkpoint", "supervisor.log"
UPLOADER, UPLOADER_LOG = "uploader", "uploader.log"
CALL, ENVIRONMENTS = "call", "environments"
REQUEST = "checkpoint-request"
HOSTFILE = "hostfile"
AHEAD = "ahead.json"
EXECS = "execs"
MOST_ASKED = 2**17
"""Bytes of a request to start a program there."""


def files_of(root: str, uid: int) -> str:
    """Where the files of that user's jobs are, a directory for each job."""
    return os.path.join(root, USERS, str(uid))


def user_of(run: str) -> UnixUser | None:
    """Whom the program of the run in that directory runs as, where that is not the daemon's own user; None also where
    there is no run."""
    return _user_in(os.path.join(run, SPEC))


def user_ahead(job: str) -> UnixUser | None:
    """Whose a checkpoint is that came to the job whose directory that is, before it ran here; None as in `user_of`."""
    return _user_in(os.path.join(job, AHEAD))


def _user_in(file: str) -> UnixUser | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return UnixUser.read((read_document(file) or {}).get("user"))
    return None


def enclosure(started: dict[str, Any] | None) -> str:
    """The cgroup of a run that has started, "" where it has none; jobs can write the file that says so."""
    directory = (started or {}).get("cgroup")
    return str(directory) if cgroup.is_ours(directory) else ""


class Stop(NamedTuple):
    """A request to end: the seconds of grace that were given, when they are over (CLOCK_BOOTTIME), and why, in one
    word."""

    grace: float
    kill_at: float
    reason: str = ""


def write_stop(path: str, request: Stop) -> None:
    write_document(path, request._asdict())


def read_stop(path: str = STOP) -> Stop | None:
    """The request at `path`; where it is damaged, one to end at once."""
    try:
        document = read_document(path)
        # Versions before this one gave the grace alone.
        if document is None:
            return None
        kill_at = float(document.get("kill_at", math.inf))
        return Stop(float(document["grace"]), kill_at, str(document.get("reason", "")))
    except (ValueError, KeyError, TypeError):
        return Stop(0.0, 0.0)


def read_saved(path: str = SAVED) -> SealedCheckpoint | None:
    """The job's newest checkpoint, as its supervisor saw it last; None where that is damaged."""
    try:
        return checkpoints.read_saved(read_document(path))
    except ValueError:
        return None


def show_progress() -> None:
    """Show that this supervisor is not stuck. It calls this again and again while it ends the run."""
    with contextlib.suppress(OSError):
        # By path: to close a descriptor of the file would let go of the lock.
        os.utime(LOCK)
