"""Where jobs left files: on this machine, or on the nodes where their services ran."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cumulus import paths
from cumulus.backends.process.backend import ProcessBackend
from cumulus.errors import BackendError
from cumulus.resources.key import Document
from cumulus.secrets import JobSecrets

if TYPE_CHECKING:
    from cumulus.backends.swarm.backend import SwarmBackend
    from cumulus.backends.swarm.checkpoint_programs import CheckpointPrograms

What = TypeVar("What")


def here(home: Path, find: Callable[[ProcessBackend], What | None]) -> What | None:
    """What `find` knows of this machine's processes; None where none ran with this state directory."""
    directory = paths.process_dir(home)
    if not directory.exists():
        return None
    with closing(ProcessBackend(directory, "", JobSecrets(paths.job_secrets_dir(home)), reads=True)) as backend:
        return find(backend)


def elsewhere(home: Path, find: Callable[[SwarmBackend], What | None]) -> What | None:
    """The same of services."""
    if not paths.swarm_dir(home).exists():
        return None
    from cumulus.infrastructure import swarm

    with closing(swarm.reader(home)) as backend:
        return find(backend)


def programs_of(
    home: Path, nodes: Callable[[str], Document | None], name: str, what: str
) -> CheckpointPrograms:  # fmt: skip
    """What reads files on the node; `what` says what is there. Raises BackendError where it has no SSH address."""
    from cumulus.infrastructure import swarm

    node = nodes(name)
    engine = None if node is None else swarm.engine_of(home, node)
    if engine is None:
        raise BackendError(f"{name}, where {what}, has no SSH address", hint=f"set spec.ssh of gpunode/{name}")
    return engine.checkpoints
