"""The loop of an uploader: the newest checkpoint of an L1 directory goes to the place, again and again.

    PATH/.uploader/lock         held by the one that is at work
    PATH/.uploader/held/        links to the checkpoint that is being copied
    PATH/.uploader/notes.json   uploads that are not complete
    PATH/.uploader/status.json  for others to read

Where the program saves faster than the place takes it, checkpoints in between are left out: the newest counts.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import suppress
from dataclasses import replace

from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import Damaged, FilesManifest
from cumulus.clock import SystemClock, timestamp
from cumulus.errors import BlobError, BucketUnavailable
from cumulus.lib.backoff import Backoff
from cumulus.lib.printable import one_line
from cumulus.uploader import snapshot, status
from cumulus.uploader.catalog import Superseded
from cumulus.uploader.place import CheckpointName, Place
from cumulus.uploader.status import DIRECTORY, UploadStatus
from cumulus.uploader.upload import Journal, Upload, UploadIncomplete

LOOK_SECONDS = 1.0
_TOLD_SECONDS = 1.0
_AGAIN = Backoff(1.0, 60.0)
_CLOCK = SystemClock()


class RunFollower:
    """`over` is set when the run has ended: then what is left is copied, and `run` returns. After `linger` seconds more
    it gives up."""

    def __init__(
        self, place: Place, path: str, keep: int, *, over: threading.Event, stop: threading.Event, linger: float
    ) -> None:
        self._place = place
        self._path = path
        self._keep = keep
        self._over = over
        self._stop = stop
        self._linger = linger
        self._directory = os.path.join(path, DIRECTORY)
        self._held = os.path.join(self._directory, "held")
        self._status = UploadStatus(uri=place.uri)
        self._mutex = threading.Lock()
        self._told = 0.0
        self._done: CheckpointName | None = None
        """The newest that is committed, or needs no copy."""
        self._refused: set[CheckpointName] = set()
        """Those that are damaged on the disk."""
        self._failures = 0

    def run(self) -> bool:
        """False where it gave up, or was stopped, with something left to copy."""
        lock = self._lock()
        if lock is None:
            return True
        try:
            self._begin()
            return self._follow()
        finally:
            os.close(lock)

    def waiting(self, problem: BlobError) -> None:
        """Show a problem that may pass by itself."""
        self._fail(str(problem))

    def _follow(self) -> bool:
        ended = None
        while not self._stop.is_set():
            over = self._over.is_set()
            step = self._next()
            if step is not None and self._try(step):
                continue
            if over and step is None:
                return True
            if over:
                ended = time.monotonic() if ended is None else ended
                if time.monotonic() - ended > self._linger:
                    return False
            self._wait(LOOK_SECONDS if step is None else _AGAIN.seconds(self._failures))
        return self._next() is None

    def _lock(self) -> int | None:
        """Wait until there is something to copy, and no other is at work on the directory; None where nothing came.

        Until then nothing is made: a program without our library may want a file of that name."""
        descriptor = None
        while not self._stop.is_set():
            over = self._over.is_set()
            with suppress(OSError):
                if descriptor is None and layout.steps(self._path):
                    os.makedirs(self._directory, 0o700, exist_ok=True)
                    path = os.path.join(self._directory, "lock")
                    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                if descriptor is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
            if descriptor is None and over:
                return None
            self._wait(LOOK_SECONDS)
        if descriptor is not None:
            os.close(descriptor)
        return None

    def _begin(self) -> None:
        """Go on from what an earlier one wrote."""
        with suppress(OSError):
            before = status.read(self._path)
            if before is not None and before.uri == self._place.uri:
                self._status = replace(before, uploading=None, sent=0, error="", error_at="")
                if before.step is not None:
                    self._done = CheckpointName(before.token, before.step)

    def _next(self) -> int | None:
        """The step to copy: one that is held already, else the newest that is not there yet."""
        try:
            held = snapshot.held_step(self._held)
            if held is not None:
                if self._is_new(self._held, held):
                    return held
                snapshot.release(self._held)
            for step in layout.steps(self._path):
                if self._is_new(self._path, step):
                    return step
        except OSError as error:
            self._fail(f"{self._path} can't be read: {error.strerror}")
        return None

    def _is_new(self, path: str, step: int) -> bool:
        try:
            name = CheckpointName(layout.read_manifest(path, step).token, step)
        except Damaged as damaged:
            if damaged.problem != "is missing":
                self._fail(str(damaged))
            return False
        except FileNotFoundError:
            return False
        return name not in self._refused and (self._done is None or name > self._done)

    def _try(self, step: int) -> bool:
        """Copy the step; whether there may be more to do at once."""
        with self._mutex:
            self._status = replace(self._status, uploading=step, sent=0)
        self._tell()
        name = None
        try:
            held = snapshot.held_step(self._held) == step
            source = self._held if held else snapshot.hold(self._path, step, self._held)
            name = CheckpointName(layout.read_manifest(source, step).token, step)
            upload = Upload(self._place, Journal(os.path.join(self._directory, "notes.json")), self._sent)
            manifest = upload.run(source, step, self._keep)
        except Superseded as error:
            # Nothing that this attempt saves is of use any more.
            self._done = name
            snapshot.release(self._held)
            self._fail(f"{error}: nothing more is copied")
            return True
        except Damaged as damaged:
            snapshot.release(self._held)
            if os.path.isdir(layout.directory(self._path, step)) and name is not None:
                self._refused.add(name)
                self._fail(f"{damaged}: it is not copied")
            return True
        except FileNotFoundError as error:
            snapshot.release(self._held)
            if not os.path.isdir(layout.directory(self._path, step)):
                return True  # Pruned meanwhile.
            self._fail(f"step {step} can't be copied: {error.strerror}: {error.filename}")
        except UploadIncomplete as error:
            # Its own files are there. There may be a newer one, and the other node may never come to it.
            snapshot.release(self._held)
            self._fail(str(error))
        except BucketUnavailable as error:
            self._fail(str(error))
        except BlobError as error:
            self._fail(str(error) + (f" ({error.hint})" if error.hint else ""))
        except OSError as error:
            self._fail(f"step {step} can't be copied: {error.strerror}: {error.filename}")
        else:
            snapshot.release(self._held)
            self._succeed(name, manifest)
            return True
        self._failures += 1
        return False

    def _succeed(self, name: CheckpointName, manifest: FilesManifest) -> None:
        self._failures = 0
        self._done = name
        with self._mutex:
            self._status = UploadStatus(self._place.uri, name.step, name.token, manifest.size, timestamp(_CLOCK.now()))
        self._tell()

    def _sent(self, count: int) -> None:
        with self._mutex:
            self._status = replace(self._status, sent=self._status.sent + count, error="", error_at="")
            if time.monotonic() - self._told < _TOLD_SECONDS:
                return
            self._told = time.monotonic()
        self._tell()

    def _fail(self, error: str) -> None:
        with self._mutex:
            same = error == self._status.error
            since = self._status.error_at if same else timestamp(_CLOCK.now())
            self._status = replace(self._status, error=one_line(error)[:500], error_at=since)
        if not same:
            self._tell()

    def _tell(self) -> None:
        """Nobody may be able to read it: the disk is full, say. It goes on all the same."""
        with suppress(OSError):
            status.write(self._path, self._status)

    def _wait(self, seconds: float) -> None:
        """At most; the end of the run ends it too."""
        if not self._over.is_set():
            self._over.wait(seconds)
        else:
            self._stop.wait(seconds)
