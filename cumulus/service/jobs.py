"""Requests about jobs, and about the directories that were made for them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cumulus import paths
from cumulus.clock import Clock, timestamp
from cumulus.errors import JobFinished, NotRunning, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.annotations import UNPARK_REQUESTED
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds.gpujob import running_attempt
from cumulus.resources.registry import BY_NAME
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.redaction import Redaction

if TYPE_CHECKING:
    from cumulus.answers.objects import JobFiles

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,250}")
"""It names a directory here."""
_RUN = re.compile(r"a(\d+)-r(\d+)")


class Jobs:
    def __init__(self, objects: Objects, access: Access, home: Path, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock
        self._redaction = Redaction(access)
        self._home = home

    def suspend(self, identity: Identity, key: Key, *, suspended: bool, park: bool = False) -> bool:
        """Hold the job, or let it run again. Whether there was something to change. `park`: its program is to wait in
        main memory, and is stopped only if it can't. Raises NotFound, JobFinished, UsageError."""
        if park:
            _check_is_job(key)

        def change(job: Document) -> Document:
            _check_goes_on(key, job, "suspended" if suspended else "resumed")
            wanted: Document = {"suspend": suspended}
            if park or (not suspended and lookup(job, "spec.suspend") and lookup(job, "spec.park")):
                # What was parked as it was suspended comes back as it is resumed.
                wanted["park"] = suspended
            return _with_spec(job, wanted)

        return self._objects.edit(identity, key, change)[1]

    def park(self, identity: Identity, key: Key, *, parked: bool, park_for: str = "") -> bool:
        """Have the job's program wait in main memory, or come back to its GPU. Whether there was something to change.
        `park_for`: for how long at most, a duration; "" leaves what the job says. Raises NotFound, JobFinished,
        NotRunning where nothing runs that could be parked, and UsageError."""
        _check_is_job(key)

        def change(job: Document) -> Document:
            _check_goes_on(key, job, "parked" if parked else "unparked")
            if parked:
                if running_attempt(job) is None and not lookup(job, "spec.park"):
                    raise NotRunning(
                        f"gpujob/{key.name} does not run, so that there is nothing to park",
                        hint=f"hold it with: cumulus suspend {key.name}",
                    )
                return _with_spec(job, {"park": True} | ({"parkFor": park_for} if park_for else {}))
            if not lookup(job, "spec.park") and lookup(job, "status.phase") != "Parked":
                return job
            metadata = job["metadata"]
            asked = {**(metadata.get("annotations") or {}), UNPARK_REQUESTED: timestamp(self._clock.now())}
            made = _with_spec(job, {"park": False})
            return {**made, "metadata": {**metadata, "annotations": asked}}

        return self._objects.edit(identity, key, change)[1]

    def files(self, identity: Identity, uids: Sequence[str]) -> list[JobFiles]:
        """The directories of each of these jobs, which go once the job is deleted and its processes have ended."""
        for uid in uids:
            if not _UID.fullmatch(uid):
                raise UsageError(f"{one_line(uid)!r} is no uid of an object")
        all_seen = self._redaction.sees(identity, "")
        return [self._files(uid, None if all_seen else identity) for uid in uids]

    def _files(self, uid: str, reader: Identity | None) -> JobFiles:
        """`reader`: who sees only jobs of some namespaces; those of others have nothing."""
        from cumulus.answers.objects import JobFiles
        from cumulus.backends.process import layout
        from cumulus.backends.rundir.layout import JOBS

        root = paths.process_dir(self._home)
        directory = root / JOBS / uid
        found = [(int(match[1]), int(match[2]), path) for match, path in _runs(directory) if match]
        if reader is not None and not (
            found and all(self._redaction.sees(reader, _namespace(path)) for *_, path in found)
        ):
            return JobFiles("", (), False)
        if (user := next(filter(None, (layout.user_of(str(path)) for *_, path in found)), None)) is not None:
            # Not looked at: what is there is the user's, and leads wherever they have made it lead.
            theirs = Path(layout.files_of(str(root), user.uid)) / uid
            works = [theirs / path.name / layout.WORK for *_, path in sorted(found)]
            return JobFiles(str(theirs), tuple(map(str, works)), True)
        works = [work for *_, path in sorted(found) if (work := path / layout.WORK).is_dir()]
        filled = any(_is_filled(place) for place in (*works, directory / layout.CHECKPOINT))
        return JobFiles(str(directory), tuple(map(str, works)), filled)


def _check_is_job(key: Key) -> None:
    """Raises UsageError."""
    if not BY_NAME[key.kind].leaves_files:
        raise UsageError(f"only jobs are parked, not a {key.kind}")


def _check_goes_on(key: Key, job: Document, word: str) -> None:
    """Raises JobFinished where the job, or cron job, is over."""
    if BY_NAME[key.kind].over(job):
        phase = lookup(job, "status.phase")
        raise JobFinished(f"{key.kind.lower()}/{key.name} is over ({phase}) and cannot be {word}")


def _with_spec(job: Document, wanted: Document) -> Document:
    """The job with those fields of its spec; the same one where they are so already."""
    spec = job.get("spec") or {}
    if all((spec.get(name) or False) == value for name, value in wanted.items()):
        return job
    return {**job, "spec": {**spec, **wanted}}


def _namespace(run: Path) -> str:
    """Of the job whose run it is; "" where that is not known."""
    from cumulus.backends.process import layout

    try:
        return str(json.loads((run / layout.SPEC).read_text())["namespace"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _is_filled(place: Path) -> bool:
    try:
        with os.scandir(place) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _runs(place: Path) -> Iterator[tuple[re.Match[str] | None, Path]]:
    try:
        names = os.listdir(place)
    except OSError:
        # Of another user, or of a job whose processes run elsewhere.
        return
    for name in names:
        yield _RUN.fullmatch(name), place / name
