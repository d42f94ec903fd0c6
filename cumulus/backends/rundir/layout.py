"""Where the directories of runs lie below a backend's root: what all backends share. Standard library only.

ROOT/purged/JOB_UID       tombstone: nothing of this job is started any more
ROOT/jobs/JOB_UID/aN-rM/  one run: replica M of attempt N; stays until the job is purged, so it never starts twice
    removed               the run was removed; only its log counts
    log.OFFSET            what it wrote, see `rundir.log`
"""

from __future__ import annotations

import os

JOBS, PURGED, REMOVED = "jobs", "purged", "removed"


def run_directory(job_uid: str, attempt: int, replica: int) -> str:
    """Where a run lives, relative to the root."""
    return os.path.join(JOBS, job_uid, run_name(attempt, replica))


def run_name(attempt: int, replica: int) -> str:
    """The name of its directory among those of its job."""
    return f"a{attempt}-r{replica}"
