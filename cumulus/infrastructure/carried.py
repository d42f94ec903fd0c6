"""What programs changed in the directories that were carried to their nodes, for the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from cumulus import paths
from cumulus.answers.carried import ChangedBytes, ChangedFile, ChangePiece, ChangesFound, GoneFile, StayingFile
from cumulus.backends.process.backend import ProcessBackend
from cumulus.errors import BackendError, NotFound
from cumulus.infrastructure.node_files import Said, exactly, line_of, read_here, read_there
from cumulus.lib.unix_user import UnixUser
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.secrets import JobSecrets

_CHUNK = 256 * 2**10


def changes(
    home: Path, job: Document, most: int, nodes: Callable[[str], Document | None]
) -> Iterator[ChangePiece]:  # fmt: skip
    """See `service.infrastructure.Infrastructure.changes`."""
    attempts = [attempt for attempt in lookup(job, "status.attempts") or () if attempt.get("node")]
    if not attempts:
        raise NotFound(f"gpujob/{job['metadata']['name']} changed nothing: it has not run yet")
    last = attempts[-1]
    place = _here(home, job, last["number"])
    if place is not None:
        path, user = place
        ask: Callable[..., Said] = partial(read_here, user)
    else:
        path, ask = _elsewhere(home, job, last["number"], nodes)
    return _pieces(last["node"], path, lambda: ask("changed", path, str(most)))


def _here(home: Path, job: Document, attempt: int) -> tuple[str, UnixUser | None] | None:
    directory = paths.process_dir(home)
    if not directory.exists():
        return None
    backend = ProcessBackend(directory, "", JobSecrets(paths.job_secrets_dir(home)))
    try:
        return backend.own_directory(job["metadata"]["uid"], attempt)
    finally:
        backend.close()


def _elsewhere(
    home: Path, job: Document, attempt: int, nodes: Callable[[str], Document | None]
) -> tuple[str, Callable[..., Said]]:
    from cumulus.infrastructure import swarm

    found = None
    if paths.swarm_dir(home).exists():
        backend = swarm.reader(home)
        found = backend.own_directory(job["metadata"]["uid"], attempt)
        backend.close()
    if found is None:
        raise NotFound(f"gpujob/{job['metadata']['name']} has no directory of its own here")
    name, path, user = found
    node = nodes(name)
    engine = None if node is None else swarm.engine_of(home, node)
    if engine is None:
        raise BackendError(f"{name}, where it ran, has no SSH address", hint=f"set spec.ssh of gpunode/{name}")
    return path, partial(read_there, engine.checkpoints, user)


def _pieces(node: str, path: str, ask: Callable[[], Said]) -> Iterator[ChangePiece]:
    with ask() as said:
        head = line_of(said)
        if head is None:
            raise BackendError(f"what reads {path} on {node} said nothing")
        try:
            sent = bool(head["sent"])
            yield ChangesFound(node, path, int(head["files"]), int(head["size"]), sent)
            while (line := line_of(said)) is not None:
                yield from _piece(line, said if sent else None)
        except (KeyError, TypeError, ValueError):
            raise BackendError(f"what reads {path} on {node} makes no sense") from None


def _piece(line: dict[str, Any], said: IO[bytes] | None) -> Iterator[ChangePiece]:
    if "gone" in line:
        yield GoneFile(str(line["gone"]))
        return
    if "stays" in line:
        yield StayingFile(str(line["stays"]))
        return
    size, before = int(line["size"]), line.get("before") or (-1, -1)
    yield ChangedFile(str(line["path"]), size, int(line["mode"]), int(line["changed"]), int(before[0]), int(before[1]))
    while said is not None and size:
        data = exactly(said, min(_CHUNK, size))
        size -= len(data)
        yield ChangedBytes(data)
