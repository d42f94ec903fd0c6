"""Readers of jobs' logs, from the files that their backends left in a state directory."""

from __future__ import annotations

from pathlib import Path

from cumulus import paths
from cumulus.backends.base import Backend
from cumulus.backends.rundir.layout import JOBS
from cumulus.errors import NoLog
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.secrets import JobSecrets


def log_reader(home: Path, job: Document, node: str, where: Document | None) -> Backend:
    """See `service.infrastructure.LogReaders`. `where`: the GPUNode whose own engine it may ask."""
    container = lookup(job, "spec.image")
    directory = paths.swarm_dir(home) if container else paths.process_dir(home)
    if not directory.exists():
        raise NoLog(f"there are no logs in {directory}", hint="the job ran with another CUMULUS_HOME")
    if container:
        from cumulus.infrastructure.swarm import reader

        return reader(home, where)
    from cumulus.backends.process.backend import ProcessBackend

    here = ProcessBackend(directory, node, JobSecrets(paths.job_secrets_dir(home)), reads=True)
    if not (paths.swarm_dir(home) / JOBS / job["metadata"]["uid"]).exists():
        return here
    from cumulus.backends.programs import ProgramBackend
    from cumulus.infrastructure.swarm import reader

    return ProgramBackend(here, node, reader(home, where))
