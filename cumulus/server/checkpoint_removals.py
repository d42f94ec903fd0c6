"""What is to be deleted of the daemon's bucket, since its job was: noted on this disk until it is gone.

CUMULUS_HOME/checkpoint-removals/UID    a document for each job
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cumulus.blob.s3.bucket import Bucket
from cumulus.checkpoint.layout import MANIFEST
from cumulus.clock import Clock, SystemClock, timestamp
from cumulus.controllers.context import Removal
from cumulus.lib.files import make_directories, write_durably

PATIENCE = 20.0
"""Seconds for which a request waits for a bucket that does not answer: it is asked again later."""


class CheckpointRemovals:
    """See `controllers.context.Removals`."""

    def __init__(self, root: Path, bucket: Bucket, clock: Clock | None = None) -> None:
        self._root = root
        self._bucket = bucket
        self._clock = clock or SystemClock()

    def note(self, namespace: str, job: str, uid: str) -> None:
        make_directories(self._root)
        if not self._file(uid).exists():
            self._write(Removal(namespace, job, uid, timestamp(self._clock.now())))

    def noted(self) -> Sequence[Removal]:
        try:
            names = sorted(name for name in os.listdir(self._root) if not name.startswith("."))
        except FileNotFoundError:
            return []
        return [Removal(**json.loads(self._file(name).read_bytes())) for name in names]

    def remove(self, one: Removal) -> int:
        from cumulus.blob.s3.client import S3Client

        client, prefix = S3Client(self._bucket, patience=PATIENCE), f"checkpoints/{one.namespace}/{one.uid}/"
        found = [each.key for each in client.list(prefix)]
        # First what makes something a checkpoint: nobody takes half of one for whole.
        client.delete(sorted(found, key=lambda key: not key.endswith(f"/{MANIFEST}")))
        for upload in [*client.uploads(prefix)]:
            client.abort(upload.key, upload.id)
        if not one.done:
            self._write(replace(one, done=True))
        return len(found)

    def forget(self, one: Removal) -> None:
        self._file(one.uid).unlink(missing_ok=True)

    def _write(self, one: Removal) -> None:
        write_durably(str(self._file(one.uid)), json.dumps(asdict(one)).encode())

    def _file(self, uid: str) -> Path:
        return self._root / uid
