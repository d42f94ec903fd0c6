"""`Backend` with runtime `container`: each workload is a service of one task, pinned to the workload's node.

What was asked for and how it ended is on this disk (`records`), what goes on is in the Swarm; nothing else is kept.
So a daemon that was killed between any two lines is continued by the next: it looks before it creates.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from cumulus.backends.base import (
    BlobReader,
    CallResult,
    Observed,
    Prefetched,
    Workload,
    WorkloadFinding,
    WorkloadReach,
    WorkloadState,
)
from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.backends.preparing import Preparing
from cumulus.backends.rundir.layout import run_name
from cumulus.backends.swarm import programs, spec
from cumulus.backends.swarm import tasks as observe
from cumulus.backends.swarm.calls import NodeCalls
from cumulus.backends.swarm.engine import Engine
from cumulus.backends.swarm.here import LocalRuns
from cumulus.backends.swarm.job_log import JobLogs
from cumulus.backends.swarm.machines import Machines
from cumulus.backends.swarm.members import Members
from cumulus.backends.swarm.node_engine import RunsPrograms
from cumulus.backends.swarm.owner import Ownership
from cumulus.backends.swarm.prefetching import PrefetchGivenUp, Prefetching
from cumulus.backends.swarm.reach import OpensChannels, ServiceReach
from cumulus.backends.swarm.records import END, REMOVED, RUNNING, SERVICE, START, STOP, Record, Records
from cumulus.backends.swarm.services import PrepareLease, Services
from cumulus.backends.swarm.task_reconciler import AskLeaseEnd, Engines, TaskReconciler, Timeouts
from cumulus.backends.swarm.uploading import NodeUploading, newest_files, noted, whose
from cumulus.backends.swarm.watch import SwarmWatcher
from cumulus.chronos.contract.container import FILES
from cumulus.clock import Clock, SystemClock
from cumulus.errors import BackendError, BackendRefused, CumulusError, NodeUnreachable, NotOurs
from cumulus.lib.state_id import StatePlace, find
from cumulus.lib.unix_user import UnixUser
from cumulus.resources.reasons import EventReason
from cumulus.secrets import JobSecrets

log = structlog.get_logger("cumulus.backends")

_LAST_PATIENCE = 3.0
"""Seconds that a purge waits for what it gave up."""


class SwarmBackend:
    """`root` holds its records. `store_id` names the store that it works for, and raises `BackendError` while it has
    none; `instance` names this control plane where several share a Swarm; `retention` says how much stays of a log,
    `mounts` from where containers of those who are no admins may mount, `timeouts` how long it waits before it gives
    something up, `blobs` are what calls are made of, `variables` the daemon's environment, `node_env` what programs of
    a node have by default, `reached` by what the programs of a node are reached (`node_engine`, if left out),
    `here` the daemon's own machine, if its processes are another backend's.

    All that touches the Swarm raises `NotOurs` while another control plane owns it."""

    def __init__(
        self,
        root: str,
        engine: Engine,
        secrets: JobSecrets,
        *,
        store_id: Callable[[], str],
        instance: str = "",
        node_engine: Engines = lambda node: None,
        prepare: PrepareLease = lambda node, lease: {},
        lease_end: AskLeaseEnd = lambda node, lease: ("", ""),
        clock: Clock | None = None,
        retention: LogRetention = DEFAULT_RETENTION,
        mounts: Sequence[str] = (),
        timeouts: Timeouts = Timeouts(),
        blobs: BlobReader | None = None,
        variables: Mapping[str, str] = {},
        node_env: Mapping[str, str] | None = None,
        reached: Callable[[str], OpensChannels | None] | None = None,
        here: LocalRuns | None = None,
    ) -> None:
        self.engine = engine
        clock = clock or SystemClock()
        self.members = Members(engine, clock)
        self._records = Records(root)
        self.ownership = Ownership(
            engine, lambda: _place(root), clock, named=instance, store_id=store_id,
            known=lambda name: self._records.find(name) is not None,
        )  # fmt: skip
        self.machines = Machines(self.members, self.ownership, node_engine)
        self._services = Services(
            engine, self.members, secrets, self.ownership.instance, prepare, clock, retention, tuple(mounts),
            node_env or {},
        )  # fmt: skip
        self._uploading = NodeUploading(node_engine, secrets, variables, here)
        self._preparing = Preparing()
        self._prefetching = Prefetching()
        self._tasks = TaskReconciler(
            engine, self.members, self._services, node_engine, lease_end, clock, self._report, timeouts,
            self._uploading,
        )  # fmt: skip
        self._logs = JobLogs(engine, self.members, self._services, node_engine, clock, retention, timeouts)
        self._calls = NodeCalls(node_engine, blobs)
        self._reached = reached or node_engine
        self._node_engine = node_engine
        self._mutex = threading.Lock()
        self._subscribers: list[Callable[[str, str], None]] = []
        self._findings: list[WorkloadFinding] = []
        self._live: dict[str, Record] = {r.name: r for r in self._records.all() if not r.has(END)}
        self._watcher: SwarmWatcher | None = None

    @property
    def runtime(self) -> str:
        return "container"

    def start(self, workload: Workload) -> None:
        """See `Backend.start`. It is on this disk before the service is created, and created at most once. Where its
        checkpoint comes from elsewhere first, the service is created later."""
        spec.refuse_impossible(workload)
        workload = programs.as_on_the_node(workload)
        self.ownership.instance()
        record = self._records.create(workload, noted(workload))
        if record is None:
            return
        earlier = [run for run in self._runs(workload.job_uid) if run.start["attempt"] < workload.attempt]
        if record.has(SERVICE) or record.has(END) or not self._uploading.fetches(record, earlier):
            self._make(record, workload)
            return
        self._preparing.run(
            record.name, partial(self._prepared, record, workload, earlier), partial(self._not_prepared, record),
            partial(self._changed, record.name),
        )  # fmt: skip

    def _prepared(self, record: Record, workload: Workload, earlier: Sequence[Record]) -> None:
        with (
            contextlib.suppress(PrefetchGivenUp),
            self._prefetching.started(workload.job_uid, workload.replica, workload.node) as given_up,
        ):
            # It may have been stopped before this thread began, and all of its job deleted.
            if record.has(END) or not record.has(START):
                return
            if not self._services.known(record) and not self._fetched(record, workload, earlier, given_up):
                return
            self._make(record, workload)
            self._changed(record.name)

    def _fetched(
        self, record: Record, workload: Workload, earlier: Sequence[Record], given_up: threading.Event
    ) -> bool:  # fmt: skip
        """Have its checkpoint on its node. False where that can't be there, and the job began elsewhere: another one
        may do better. Raises `BackendRefused` of a first attempt, `BackendError`, `PrefetchGivenUp`."""
        asked = workload.checkpointing
        origin = self._runs(asked.after) if asked is not None and asked.after else ()
        try:
            self._uploading.fetch(record, earlier, given_up, origin)
        except BackendRefused as error:
            if not earlier:
                raise
            why = f"not started: its checkpoints can't be fetched: {error}"
            with record.mutex:
                if not record.has(END):
                    self._tasks.never_started(record, f"{why} ({error.hint})" if error.hint else why, lost=True)
            self._changed(record.name)
            return False
        return True

    def _runs(self, job_uid: str) -> Sequence[Record]:
        """Of the job, on the daemon's own machine too."""
        return self._uploading.runs(self._records.of_job(job_uid), job_uid)

    def brings(self, workload: Workload) -> bool:
        """See `programs.Elsewhere.brings`."""
        runs = [run for run in self._records.of_job(workload.job_uid) if run.start["replica"] == workload.replica]
        return workload.checkpointing is not None and any(run.start.get("checkpoint") for run in runs)

    def bring(self, workload: Workload, place: str, user: UnixUser | None) -> bool:
        """See `programs.Elsewhere.bring`."""
        with (
            contextlib.suppress(PrefetchGivenUp),
            self._prefetching.started(workload.job_uid, workload.replica, workload.node) as given_up,
        ):
            self._uploading.bring_here(_here(workload, place, user), self._runs(workload.job_uid), given_up)
            return True
        return False

    def prefetch(
        self, workload: Workload, saved: str, here: tuple[str, UnixUser | None] | None = None
    ) -> Prefetched | None:
        """See `programs.Elsewhere.prefetch`."""
        record = Record(
            "", self._records.start_of(workload, noted(workload)) if here is None else _here(workload, *here)
        )
        if not record.start["checkpoint"]:
            return None

        def work(given_up: threading.Event) -> int | None:
            earlier = [run for run in self._runs(workload.job_uid) if run.start["attempt"] < workload.attempt]
            if here is None:
                self._records.note_ahead(record)
            return self._uploading.prefetch(record, earlier, given_up)

        return self._prefetching.ask(
            workload.job_uid, workload.replica, workload.node, saved, work,
            partial(self._changed_job, workload.namespace, workload.job),
        )  # fmt: skip

    def give_up(self, job_uid: str) -> None:
        """See `base.Prefetches`."""
        self._prefetching.forget(job_uid)

    def _not_prepared(self, record: Record, error: Exception) -> None:
        """What nobody waits for any more could not be fetched: the controllers try again, unless that is of no use."""
        log.warning("a checkpoint cannot be fetched", workload=record.name, error=str(error))
        if isinstance(error, BackendRefused):
            with record.mutex:
                if not record.has(END):
                    self._tasks.never_started(record, f"{error} ({error.hint})" if error.hint else str(error))

    def _make(self, record: Record, workload: Workload) -> None:
        with record.mutex:
            if record.has(END):
                return
            self.ownership.instance()
            if workload.call is None:
                if not record.has(SERVICE):
                    self._services.make(record, workload)
            elif not self._services.known(record):
                # Not before it is known that no container has this directory.
                running, binds = self._calls.bring(record, workload)
                self._services.make(record, running, binds)
            self._live[record.name] = record
            if self._watcher is not None:
                self._watcher.knows(self._services.id(record), record.name)
        self._poke()

    def stop(self, name: str, grace: float, reason: str = "") -> None:
        """See `Backend.stop`. Swarm itself ends it after the grace it was created with; a shorter one needs the node's
        own engine."""
        record = self._records.find(name)
        if record is None:
            return
        self.ownership.instance()
        with record.mutex:
            if record.has(END):
                return
            if not self._services.known(record):
                if record.name in self._preparing:
                    self._tasks.stopped_early(record)
                return
            self._tasks.ask_to_stop(record, grace, reason=reason)
            self._services.end(record)
        self._poke()

    def remove(self, name: str) -> None:
        """See `Backend.remove`. The whole log is saved before the service goes."""
        record = self._records.find(name)
        if record is None:
            return
        self.ownership.instance()
        with record.mutex:
            if not self._finished(record):
                raise BackendError(f"{name} still runs", hint="stop it first")
            self._logs.save(record)
            self._services.remove(record)
            self._calls.remove(record)
            self._records.remove(record)
        self._live.pop(name, None)

    def purge(self, job_uid: str) -> None:
        """See `Backend.purge`. Whatever still comes to a node for the job is given up first: it would stay there."""
        if not self._prefetching.end(job_uid, _LAST_PATIENCE):
            raise BackendError("a checkpoint of the job is still on its way to a node", hint="it is given up")
        everything = self._records.of_job(job_uid)
        records = [record for record in everything if not record.has(REMOVED)]
        if records:
            self.ownership.instance()
        for record in records:
            if not self._finished(record):
                raise BackendError(f"{record.name} still runs", hint="stop it first")
        for record in records:
            self._services.remove(record)
            self._calls.remove(record)
            self._live.pop(record.name, None)
        self._remove_files(job_uid, everything)
        self._records.purge(job_uid)

    def knows(self, job_uid: str) -> bool:
        """Whether it ran, or runs, something of that job. Asks nobody."""
        return bool(self._records.of_job(job_uid))

    def ran(self, job_uid: str, attempt: int, replica: int) -> bool:
        """Whether it was told to start that replica. Asks nobody."""
        return self._records.load(self._records.directory(job_uid, attempt, replica)) is not None

    def get(self, name: str) -> Observed | None:
        """See `Backend.get`. Raises `NodeUnreachable` while its node does not answer the manager."""
        record = self._records.find(name)
        if record is None:
            return None
        with record.mutex:
            if not record.has(END):
                self.ownership.instance()
                if not self._services.known(record):
                    return record.observed(WorkloadState.STARTING) if record.name in self._preparing else None
            return self._reconciled(record)

    def list(self, job_uid: str = "") -> Sequence[Observed]:
        """See `Backend.list`. A run whose node does not answer is told as it was."""
        try:
            self._adopt(job_uid)
        except NotOurs:
            if job_uid and not self._records.of_job(job_uid):
                return []
            raise
        records = self._records.of_job(job_uid) if job_uid else self._records.all()
        tasks: dict[str, list[dict[str, Any]]] = {}
        if any(record.name in self._live for record in records):
            for task in self.engine.tasks({"label": self._services.labels(job_uid)}):
                tasks.setdefault(task["ServiceID"], []).append(task)
        observed = []
        for record in records:
            if record.has(REMOVED):
                continue
            with record.mutex:
                end = record.end()
                if end is None and self._services.known(record):
                    try:
                        end = self._reconciled(record, observe.read_all(tasks.get(self._services.id(record), ())))
                    except NodeUnreachable:
                        end = self._tasks.running(record)
                elif end is None and record.name in self._preparing:
                    end = record.observed(WorkloadState.STARTING)
            if end is not None:
                observed.append(end)
        return observed

    def logs(
        self, job_uid: str, attempt: int, replica: int, *,
        follow: bool = False, tail: int | None = None, since: float | None = None, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """See `Backend.logs`. Raises `BackendError` where no such replica was started here."""
        record = self._records.load(self._records.directory(job_uid, attempt, replica))
        if record is None:
            raise BackendError(f"there is no log of attempt {attempt}, replica {replica}")
        return self._logs.read(record, follow, tail, since, timestamps=timestamps, position=position)

    def result(self, job_uid: str, attempt: int, replica: int) -> CallResult | None:
        """See `Backend.result`. What a call left stays on its node until it is removed."""
        record = self._records.load(self._records.directory(job_uid, attempt, replica))
        if record is None:
            raise BackendError(f"there is no result of attempt {attempt}, replica {replica}")
        if not record.start.get("call") or record.has(REMOVED):
            return None
        if record.end() is None:
            raise BackendError(f"attempt {attempt} of the job still runs")
        return self._calls.result(record)

    def checkpoint_place(self, job_uid: str) -> tuple[str, str, UnixUser | None] | None:
        """Node and directory of the newest attempt's checkpoints, and whose they are: None where only they tell. None
        where it has none on a node."""
        found = newest_files(self._records.of_job(job_uid))
        if found is None:
            return None
        last, user = found
        return last.start["node"], last.start["checkpoint"]["place"], user

    def own_directory(self, job_uid: str, attempt: int) -> tuple[str, str, UnixUser] | None:
        """Node and directory that the attempt's first replica has of its own, where it is a program of a node, and
        whose. None where it is none."""
        record = self._records.load(self._records.directory(job_uid, attempt, 0))
        uid = None if record is None else record.start.get("program")
        if record is None or uid is None:
            return None
        path = posixpath.join(FILES, str(uid), job_uid, run_name(attempt, 0), "work")
        return record.start["node"], path, whose(int(uid))

    def reach(self, job_uid: str, attempt: int, replica: int) -> WorkloadReach:
        """See `Backend.reach`."""
        directory = self._records.directory(job_uid, attempt, replica)
        return ServiceReach(lambda: self._records.load(directory), self._reached)

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """See `Backend.subscribe`."""
        self._subscribers.append(changed)
        if self._watcher is None:
            self._watcher = SwarmWatcher(
                self.engine, self.ownership.instance, live=self._count, changed=self._changed, swept=self._sweep
            )

    def findings(self) -> Sequence[WorkloadFinding]:
        """See `ReportsFindings.findings`."""
        with self._mutex:
            found, self._findings = self._findings, []
        return found

    def close(self) -> None:
        """See `Backend.close`."""
        self._preparing.close()
        self._prefetching.close()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        self.engine.close()

    def _reconciled(self, record: Record, tasks: Sequence[observe.Task] = ()) -> Observed:
        observed = self._tasks.reconcile(record, tasks)
        if observed.state.finished:
            self._live.pop(record.name, None)
        return observed

    def _finished(self, record: Record) -> bool:
        if not record.has(END) and not self._services.known(record):
            self._tasks.never_started(record)
        return self._reconciled(record).state.finished

    def _count(self) -> tuple[int, bool]:
        """How many runs have not ended, and whether one is on its way."""
        live = list(self._live.values())
        return len(live), any(not record.has(RUNNING) or record.has(STOP) for record in live)

    def _changed(self, name: str | None) -> None:
        records = list(self._live.values()) if name is None else [r for r in [self._records.find(name)] if r]
        for namespace, job in {(r.start["namespace"], r.start["job"]) for r in records}:
            self._changed_job(namespace, job)

    def _changed_job(self, namespace: str, job: str) -> None:
        for subscriber in self._subscribers:
            subscriber(namespace, job)

    def _sweep(self) -> None:
        """What makes up for whatever was missed, and collects what nobody needs."""
        self._adopt()
        self._services.collect(self._records)
        self._changed(None)

    def _adopt(self, job_uid: str = "") -> None:
        for record in self._services.adopt(self._records, job_uid):
            self._live[record.name] = record
            self._report(record, EventReason.SERVICE_ADOPTED, "its service was there without a record of it")

    def _report(self, record: Record, reason: EventReason, message: str) -> None:
        start = record.start
        log.warning("found in the Swarm", workload=record.name, reason=reason, message=message)
        with self._mutex:
            self._findings.append(WorkloadFinding(start["namespace"], start["job"], start["job_uid"], reason, message))

    def _remove_files(self, job_uid: str, records: Sequence[Record]) -> None:
        """Delete the directories of a job's programs on their nodes, as far as those answer."""
        found = {(r.start["node"], r.start.get("program")) for r in records} | {*self._records.ahead(job_uid)}
        for node, uid in found:
            engine = self._node_engine(node) if uid is not None else None
            if isinstance(engine, RunsPrograms):
                with contextlib.suppress(BackendError):
                    engine.remove_program(uid, job_uid)

    def _poke(self) -> None:
        if self._watcher is not None:
            self._watcher.poke()


def _here(workload: Workload, place: str, user: UnixUser | None) -> dict[str, Any]:
    """What the record of a run on the daemon's own machine says."""
    asked, uid = workload.checkpointing, os.geteuid() if user is None else user.uid
    kept = {"place": place, "user": whose(uid), "uri": asked.uri if asked is not None else ""}
    return {
        "name": workload.name, "attempt": workload.attempt, "replica": workload.replica, "node": workload.node,
        "checkpoint": kept,
    }  # fmt: skip


def _place(root: str) -> StatePlace:
    try:
        return find(root)
    except CumulusError as error:
        raise BackendError(str(error), hint=error.hint) from None
