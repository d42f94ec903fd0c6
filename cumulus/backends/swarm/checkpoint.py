"""`CheckpointStore` for the files that a container has of its node, seen by the node's own engine."""

from __future__ import annotations

import posixpath

from cumulus.backends.base import Workload
from cumulus.backends.checkpoints import CheckpointUnseen, LastCheckpoint, SealedCheckpoint
from cumulus.backends.swarm.node_engine import SeesFiles
from cumulus.checkpoint import layout
from cumulus.errors import BackendError
from cumulus.lib.printable import one_line
from cumulus.uploader import status

_LONGEST_WORD = 300


def place_of(workload: Workload) -> str:
    """Where the container's checkpoints are on its node, "" where they are on none of its mounts."""
    base, asked = workload.working_dir or "/", workload.checkpoint_path
    if not workload.image:
        # Nothing copies what a program of the node keeps on the node's own disk.
        return ""
    if not asked or not (workload.working_dir or posixpath.isabs(asked)):
        # It begins where the image says.
        return ""
    path = posixpath.normpath(posixpath.join(base, asked))
    mounts = ((posixpath.normpath(posixpath.join(base, mount.target)), mount.source) for mount in workload.mounts)
    for target, source in sorted(mounts, key=lambda mount: -len(mount[0])):
        if f"{path}/".startswith(f"{target.rstrip('/')}/"):
            return posixpath.normpath(source + path[len(target.rstrip("/")) :])
    return ""


class NodeFiles:
    """The files at or below the `path` of a container. It may have ended. `copied`: they are copied beyond the node, or
    why they are not."""

    def __init__(self, engine: SeesFiles, container: str, path: str, copied: bool = False, problem: str = "") -> None:
        self._engine = engine
        self._container = container
        self._path = path
        self._copied = copied
        self._problem = problem

    def newest(self) -> LastCheckpoint | None:
        """See `CheckpointStore.newest`."""
        try:
            written = self._engine.written(self._container, self._path)
        except BackendError as error:
            raise CheckpointUnseen(str(error)) from error
        if written is None:
            raise CheckpointUnseen(f"{self._path} is not a directory of the node, or cannot be read there")
        return LastCheckpoint(self._path, written) if written else None

    def saved(self, known: SealedCheckpoint | None = None) -> SealedCheckpoint | None:
        """See `CheckpointStore.saved`."""
        try:
            found = self._engine.newest_manifest(self._container, self._path)
            if found is None:
                return known
            if known is not None and found[:2] == (known.step, known.time):
                return self._with_upload(known)
            step, time, file = found
            manifest = layout.FilesManifest.decode(self._engine.manifest(self._container, file), step)
        except BackendError as error:
            raise CheckpointUnseen(str(error)) from error
        except layout.Damaged:
            return known
        return self._with_upload(
            SealedCheckpoint(step, time, manifest.size, manifest.seconds, layout.directory(self._path, step))
        )

    def _with_upload(self, found: SealedCheckpoint) -> SealedCheckpoint:
        """With how far the copy is. The job can write what the uploader says: it is for people."""
        told = status.decode(self._engine.upload_status(self._container, self._path)) if self._copied else None
        step = -1 if told is None or told.step is None else told.step
        problem = self._problem or ("" if told is None else told.error)
        return found._replace(uploaded=step, upload_error=one_line(problem)[:_LONGEST_WORD])
