"""Requests about jobs, and about the directories that were made for them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cumulus import paths
from cumulus.errors import JobFinished, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
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
    def __init__(self, objects: Objects, access: Access, home: Path) -> None:
        self._objects = objects
        self._redaction = Redaction(access)
        self._home = home

    def suspend(self, identity: Identity, key: Key, *, suspended: bool) -> bool:
        """Hold the job, or let it run again. Whether there was something to change. Raises NotFound, JobFinished."""

        def change(job: Document) -> Document:
            if BY_NAME[key.kind].over(job):
                phase, word = lookup(job, "status.phase"), "suspended" if suspended else "resumed"
                raise JobFinished(f"{key.kind.lower()}/{key.name} is over ({phase}) and cannot be {word}")
            if bool(lookup(job, "spec.suspend")) == suspended:
                return job
            return {**job, "spec": {**(job.get("spec") or {}), "suspend": suspended}}

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
