"""`CheckpointStore` for the files that a container has of its node, seen by the node's own engine."""

from __future__ import annotations

from cumulus.backends.checkpoints import Checkpoint, CheckpointUnseen, Saved
from cumulus.backends.swarm.node_engine import SeesFiles
from cumulus.checkpoint import layout
from cumulus.errors import BackendError


class NodeFiles:
    """The files at or below the `path` of a container. It may have ended."""

    def __init__(self, engine: SeesFiles, container: str, path: str) -> None:
        self._engine = engine
        self._container = container
        self._path = path

    def newest(self) -> Checkpoint | None:
        """See `CheckpointStore.newest`."""
        try:
            written = self._engine.written(self._container, self._path)
        except BackendError as error:
            raise CheckpointUnseen(str(error)) from error
        if written is None:
            raise CheckpointUnseen(f"{self._path} is not a directory of the node, or cannot be read there")
        return Checkpoint(self._path, written) if written else None

    def saved(self, known: Saved | None = None) -> Saved | None:
        """See `CheckpointStore.saved`."""
        try:
            found = self._engine.newest_manifest(self._container, self._path)
            if found is None or (known is not None and found[:2] == (known.step, known.time)):
                return known
            step, time, file = found
            manifest = layout.Manifest.decode(self._engine.manifest(file), step)
        except BackendError as error:
            raise CheckpointUnseen(str(error)) from error
        except layout.Damaged:
            return known
        return Saved(step, time, manifest.size, manifest.seconds, layout.directory(self._path, step))
