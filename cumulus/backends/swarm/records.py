"""The daemon's records of runs on disk: what was asked for, how it ended, what it wrote.

ROOT/names/NAME           link to the run's directory: everything started and not removed
ROOT/purged/JOB_UID       tombstone: nothing of this job is started any more
ROOT/jobs/JOB_UID/aN-rM/  one run; stays until the job is purged, so that it is never started twice
    start.json            who it is; written before the service is created
    service.json          the id of its service: from here on, no second one is created
    running.json          when it was first seen to run
    stop.json             a request to end, with its grace, when it was made, and what was saved by then
    checkpoint.json       the job's newest checkpoint, as it was seen last
    uploader.json         that its node copies what it saves: as whom, or why not
    end.json              how it ended; written once, never changed
    log.OFFSET, log.OFFSET.times, log.done  what it wrote and when, saved before the service is removed
    removed               it was removed; only its log counts
ROOT/jobs/JOB_UID/ahead.NODE/  a checkpoint of the job's programs came to that node before anything ran there
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cumulus.backends.base import Observed, Workload, WorkloadState
from cumulus.backends.checkpoints import SealedCheckpoint, read_saved
from cumulus.backends.rundir import layout
from cumulus.backends.rundir.documents import read_document, write_document
from cumulus.backends.swarm import programs, spec
from cumulus.errors import BackendError
from cumulus.lib.files import sync_directory, write_durably

NAMES = "names"
START, SERVICE, RUNNING, STOP, END = "start.json", "service.json", "running.json", "stop.json", "end.json"
SAVED = "checkpoint.json"
UPLOADER = "uploader.json"
_AHEAD, _NODE = "ahead.", "node.json"
LOG_DONE, REMOVED = "log.done", "removed"


@dataclass
class Record:
    """One run. Hold `mutex` while you act on it; other daemons stand by meanwhile."""

    directory: str
    start: dict[str, Any]
    mutex: threading.RLock = field(default_factory=threading.RLock)

    @property
    def name(self) -> str:
        return str(self.start["name"])

    @property
    def is_program(self) -> bool:
        """Whether it has its node's own root."""
        return self.start.get("program") is not None

    def read(self, file: str) -> dict[str, Any] | None:
        try:
            return read_document(os.path.join(self.directory, file))
        except ValueError as error:
            raise BackendError(f"the record of {self.name} is damaged: {error}") from None

    def write(self, file: str, document: dict[str, Any]) -> None:
        write_document(os.path.join(self.directory, file), document)

    def has(self, file: str) -> bool:
        return os.path.exists(os.path.join(self.directory, file))

    def observed(self, state: WorkloadState, **more: Any) -> Observed:
        start = self.start
        return Observed(
            name=start["name"], job_uid=start["job_uid"], namespace=start["namespace"], job=start["job"],
            attempt=start["attempt"], replica=start["replica"], node=start["node"], state=state, **more,
        )  # fmt: skip

    def end(self) -> Observed | None:
        document = self.read(END)
        if document is None:
            return None
        return self.observed(**{**document, "state": WorkloadState(document["state"]), "checkpoint": self.saved()})

    def saved(self) -> SealedCheckpoint | None:
        """The job's newest checkpoint, as it was seen last."""
        return read_saved(self.read(SAVED))


class Records:
    """All runs below `root`, which is made where missing."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self._mutex = threading.Lock()
        self._known: dict[str, Record] = {}
        with _translated("prepare its directory"):
            for directory in ("", NAMES, layout.JOBS, layout.PURGED):
                os.makedirs(os.path.join(self.root, directory), mode=0o700, exist_ok=True)
            sync_directory(os.path.dirname(self.root))

    def create(self, workload: Workload, checkpoint: dict[str, Any]) -> Record | None:
        """The workload's record, made now or before, with what is noted of its checkpoints. None where its run was
        removed, or its job purged."""
        return self._create(self.start_of(workload, checkpoint))

    def start_of(self, workload: Workload, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """What a record of the workload says."""
        leases = [asdict(lease) for lease in workload.leases]
        program = programs.user_of(workload) if programs.is_program(workload) else None
        path = workload.checkpoint_path if program is None else programs.checkpoint_path(workload, program)
        secrets = [[e.name, e.secret, e.key] for e in workload.env if e.secret]
        return {
            "name": workload.name, "job_uid": workload.job_uid, "namespace": workload.namespace,
            "job": workload.job, "attempt": workload.attempt, "replica": workload.replica, "node": workload.node,
            "grace": workload.grace, "memory_bytes": workload.memory_bytes, "leases": leases, "secrets": secrets,
            "checkpoint_path": path, "asked": workload.checkpointing is not None,
            "checkpoint": checkpoint, "call": _call(workload), "gang": len(workload.gang),
            "program": None if program is None else program.uid, "terminal": workload.terminal,
        }  # fmt: skip

    def note_ahead(self, record: Record) -> None:
        """Before a checkpoint comes to a node on which the job may never run: its files there go with the job."""
        uid, node = record.start.get("program"), record.start["node"]
        place = os.path.join(self.root, layout.JOBS, record.start["job_uid"], f"{_AHEAD}{node}")
        if uid is None or not spec.is_file_name(os.path.basename(place)) or os.path.exists(os.path.join(place, START)):
            return
        with _translated(f"note what comes to {node}"):
            os.makedirs(place, mode=0o700, exist_ok=True)
            write_document(os.path.join(place, _NODE), {"node": node, "program": uid})

    def ahead(self, job_uid: str) -> Sequence[tuple[str, int]]:
        """Nodes to which checkpoints of the job came, and whose programs' they are there."""
        place = os.path.join(self.root, layout.JOBS, job_uid)
        if not spec.is_file_name(job_uid) or not os.path.isdir(place):
            return []
        noted = (
            read_document(os.path.join(place, name, _NODE)) for name in os.listdir(place) if name.startswith(_AHEAD)
        )
        return [(str(each["node"]), int(each["program"])) for each in noted if each is not None]

    def adopt(self, labels: dict[str, str], service_id: str) -> Record | None:
        """A record for a service of ours that this disk does not know: its directory was lost, perhaps."""
        try:
            record = self._create(
                {
                    "name": labels[spec.WORKLOAD], "job_uid": labels[spec.OWNER], "namespace": labels[spec.NAMESPACE],
                    "job": labels[spec.JOB], "attempt": int(labels[spec.ATTEMPT]),
                    "replica": int(labels[spec.REPLICA]), "node": labels[spec.NODE], "grace": 10.0, "memory_bytes": 0,
                    "leases": [], "secrets": [],
                }
            )  # fmt: skip
        except (KeyError, ValueError):
            return None
        if record is not None and not record.has(SERVICE):
            record.write(SERVICE, {"id": service_id})
        return record

    def find(self, name: str) -> Record | None:
        """The record of a run that was started and not removed."""
        if not spec.is_file_name(name):
            return None
        link = os.path.join(self.root, NAMES, name)
        try:
            target = os.readlink(link)
        except FileNotFoundError:
            return None
        return self.load(os.path.normpath(os.path.join(os.path.dirname(link), target)))

    def load(self, directory: str) -> Record | None:
        with self._mutex:
            known = self._known.get(directory)
            if known is None:
                start = read_document(os.path.join(directory, START))
                if start is None:
                    return None
                known = self._known[directory] = Record(directory, start)
            return known

    def directory(self, job_uid: str, attempt: int, replica: int) -> str:
        return os.path.join(self.root, layout.run_directory(job_uid, attempt, replica))

    def all(self) -> Sequence[Record]:
        """Records of all runs that are not removed, by name."""
        names = sorted(os.listdir(os.path.join(self.root, NAMES)))
        return [record for record in map(self.find, names) if record is not None]

    def of_job(self, job_uid: str) -> Sequence[Record]:
        """Records of all runs of a job, removed ones too."""
        place = os.path.join(self.root, layout.JOBS, job_uid)
        if not spec.is_file_name(job_uid) or not os.path.isdir(place):
            return []
        found = (self.load(os.path.join(place, name)) for name in sorted(os.listdir(place)))
        return [record for record in found if record is not None]

    def remove(self, record: Record) -> None:
        with _translated(f"remove {record.name}"):
            write_durably(os.path.join(record.directory, REMOVED), b"")
            self._unlink(record)

    def purge(self, job_uid: str) -> None:
        """Delete all of a job, and remember that."""
        with _translated(f"purge job {job_uid}"):
            records = self.of_job(job_uid)
            if not records and not self.ahead(job_uid):
                return
            write_durably(os.path.join(self.root, layout.PURGED, job_uid), b"")
            for record in records:
                self._unlink(record)
                with self._mutex:
                    self._known.pop(record.directory, None)
            shutil.rmtree(os.path.join(self.root, layout.JOBS, job_uid), ignore_errors=True)

    def _create(self, start: dict[str, Any]) -> Record | None:
        if not spec.is_file_name(start["name"]) or not spec.is_file_name(start["job_uid"]):
            raise BackendError(f"{start['name']!r} cannot name a workload: it names a file here")
        with _translated(f"start {start['name']}"):
            if os.path.exists(os.path.join(self.root, layout.PURGED, start["job_uid"])):
                return None
            directory = self.directory(start["job_uid"], start["attempt"], start["replica"])
            if os.path.exists(os.path.join(directory, REMOVED)):
                return None
            if not os.path.exists(os.path.join(directory, START)):
                os.makedirs(directory, mode=0o700, exist_ok=True)
                write_document(os.path.join(directory, START), start)
                sync_directory(os.path.dirname(directory))
            record = self.load(directory)
            if record is not None:
                self._link(record)
            return record

    def _link(self, record: Record) -> None:
        link = os.path.join(self.root, NAMES, record.name)
        if not os.path.lexists(link):
            with contextlib.suppress(FileExistsError):
                os.symlink(os.path.relpath(record.directory, os.path.dirname(link)), link)

    def _unlink(self, record: Record) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.root, NAMES, record.name))


def _call(workload: Workload) -> dict[str, str] | None:
    """Of a call: the name of its directory on the node, and its Python."""
    call = workload.call
    if call is None:
        return None
    name = spec.service_name(workload.name)
    return {"directory": name, "python": call.python, "interpreter": call.interpreter}


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """OSErrors of the disk as `BackendError`."""
    try:
        yield
    except OSError as error:
        raise BackendError(f"the swarm backend cannot {what}: {error.strerror}") from error
