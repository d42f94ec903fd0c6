"""What programs changed in the directories that were carried to their nodes, for the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from cumulus.answers.carried import ChangedBytes, ChangedFile, ChangePiece, ChangesFound, GoneFile, StayingFile
from cumulus.errors import BackendError, NotFound
from cumulus.infrastructure.left_on_nodes import elsewhere, here, programs_of
from cumulus.infrastructure.node_files import Output, exactly, line_of, read_here, read_there
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document

_CHUNK = 256 * 2**10


def changes(
    home: Path, job: Document, most: int, nodes: Callable[[str], Document | None]
) -> Iterator[ChangePiece]:  # fmt: skip
    """See `service.infrastructure.Infrastructure.changes`."""
    attempts = [attempt for attempt in lookup(job, "status.attempts") or () if attempt.get("node")]
    if not attempts:
        raise NotFound(f"gpujob/{job['metadata']['name']} changed nothing: it has not run yet")
    last = attempts[-1]
    uid, number = job["metadata"]["uid"], last["number"]
    place = here(home, lambda backend: backend.own_directory(uid, number))
    if place is not None:
        path, user = place
        ask: Callable[..., Output] = partial(read_here, user)
    else:
        found = elsewhere(home, lambda backend: backend.own_directory(uid, number))
        if found is None:
            raise NotFound(f"gpujob/{job['metadata']['name']} has no directory of its own here")
        node, path, whose = found
        ask = partial(read_there, programs_of(home, nodes, node, "it ran"), whose)
    return _pieces(last["node"], path, lambda: ask("changed", path, str(most)))


def _pieces(node: str, path: str, ask: Callable[[], Output]) -> Iterator[ChangePiece]:
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
