"""`Backend` with runtime `container`: each workload is a service of one task, pinned to the workload's node.

What was asked for and how it ended is on this disk (`records`), what goes on is in the Swarm; nothing else is kept.
So a daemon that was killed between any two lines is continued by the next: it looks before it creates.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from cumulus.backends.base import Finding, LeaseRef, Observed, State, Workload
from cumulus.backends.process.log import Redactor
from cumulus.backends.swarm import logs as task_logs
from cumulus.backends.swarm import observe, spec
from cumulus.backends.swarm.engine import Engine, NameTaken, NoSuch, registry_auth
from cumulus.backends.swarm.members import Member, Members
from cumulus.backends.swarm.observe import Facts, Task
from cumulus.backends.swarm.records import END, LOG_DONE, REMOVED, RUNNING, SERVICE, STOP, Record, Records
from cumulus.backends.swarm.shell import NodeEngine
from cumulus.backends.swarm.watch import Watcher
from cumulus.clock import Clock, SystemClock, parse_timestamp, timestamp
from cumulus.errors import BackendError, BackendRefused, ChronosError, NodeUnreachable
from cumulus.secrets import SecretStore, SecretUnavailable

log = structlog.get_logger("cumulus.backends")

PLACE_SECONDS = 45.0
"""How long a task may wait for its node to take it."""
FORGET_SECONDS = 30.0
"""How long a service may be without any task."""
LOG_SECONDS = 120.0
"""How long the log of a run that has ended is asked for in vain before its service goes without."""
REJOIN_SECONDS = 30.0
"""How long before the end of a run its node may have joined anew for that to be the reason."""
FOLLOW_SECONDS = 0.3

Prepare = Callable[[str, LeaseRef], Mapping[str, str]]
"""Node and lease -> the variables by which the node's Chronos holds a job to it. Raises `ChronosError`."""
LeaseEnd = Callable[[str, str], str]
"""Node and lease id -> "expired", "released" or "" while it lives. Raises `ChronosError`."""
Engines = Callable[[str], NodeEngine | None]
"""A node's own engine, where it can be reached without the manager."""


class SwarmBackend:
    """`root` holds its records, `instance` names this control plane where several share a Swarm."""

    def __init__(
        self,
        root: str,
        engine: Engine,
        secrets: SecretStore,
        *,
        instance: str = "default",
        node_engine: Engines = lambda node: None,
        prepare: Prepare = lambda node, lease: {},
        lease_end: LeaseEnd = lambda node, lease: "",
        clock: Clock | None = None,
    ) -> None:
        self.engine = engine
        self._clock = clock or SystemClock()
        self.members = Members(engine, self._clock)
        self._records = Records(root)
        self._secrets = secrets
        self._instance = instance
        self._node_engine = node_engine
        self._prepare = prepare
        self._lease_end = lease_end
        self._mutex = threading.Lock()
        self._subscribers: list[Callable[[str, str], None]] = []
        self._findings: list[Finding] = []
        self._live: dict[str, Record] = {r.name: r for r in self._records.all() if not r.has(END)}
        self._watcher: Watcher | None = None

    @property
    def runtime(self) -> str:
        return "container"

    def start(self, workload: Workload) -> None:
        """See `Backend.start`. It is on this disk before the service is created, and created at most once."""
        spec.refuse_impossible(workload)
        record = self._records.create(workload)
        if record is None:
            return
        with record.mutex:
            if record.has(SERVICE) or record.has(END) or self._found(record):
                return
            member = self._ready_member(workload.node)
            prepared: dict[str, str] = {}
            for lease in workload.leases:
                prepared = _joined(prepared, self._prepare(workload.node, lease))
            secrets = self._make_secrets(workload)
            body = spec.service(
                workload, instance=self._instance, node_id=member.id, image=self.engine.digest(workload.image),
                secrets=secrets, prepared=prepared,
            )  # fmt: skip
            with contextlib.suppress(NameTaken):
                self._created(record, self.engine.create_service(body, registry_auth(workload.image)))
                return
            if not self._found(record):
                raise BackendRefused(f"the name {body['Name']} is taken by a service that is not ours")

    def stop(self, name: str, grace: float) -> None:
        """See `Backend.stop`. Swarm itself ends it after the grace it was created with; a shorter one needs the node's
        own engine."""
        record = self._records.find(name)
        if record is None:
            return
        with record.mutex:
            if record.has(END) or not self._known_service(record):
                return
            self._ask_to_stop(record, grace)
            self._neutralize(record)
        self._poke()

    def remove(self, name: str) -> None:
        """See `Backend.remove`. The whole log is saved before the service goes."""
        record = self._records.find(name)
        if record is None:
            return
        with record.mutex:
            if not self._finished(record):
                raise BackendError(f"{name} still runs", hint="stop it first")
            self._save_log(record)
            self._remove_service(record)
            self._records.remove(record)
        self._live.pop(name, None)

    def purge(self, job_uid: str) -> None:
        """See `Backend.purge`."""
        records = self._records.of_job(job_uid)
        for record in records:
            if not record.has(REMOVED) and not self._finished(record):
                raise BackendError(f"{record.name} still runs", hint="stop it first")
        for record in records:
            if not record.has(REMOVED):
                self._remove_service(record)
            self._live.pop(record.name, None)
        self._records.purge(job_uid)

    def get(self, name: str) -> Observed | None:
        """See `Backend.get`. Raises `NodeUnreachable` while its node does not answer the manager."""
        record = self._records.find(name)
        if record is None:
            return None
        with record.mutex:
            end = record.end()
            if end is not None:
                return end
            return self._settle(record) if self._known_service(record) else None

    def list(self) -> Sequence[Observed]:
        """See `Backend.list`. A run whose node does not answer is told as it was."""
        self._adopt()
        tasks: dict[str, list[dict[str, Any]]] = {}
        if self._live:
            for task in self.engine.tasks({"label": [f"{spec.INSTANCE}={self._instance}"]}):
                tasks.setdefault(task["ServiceID"], []).append(task)
        observed = []
        for record in self._records.all():
            with record.mutex:
                end = record.end()
                if end is None and self._known_service(record):
                    try:
                        end = self._settle(record, observe.read_all(tasks.get(self._service_id(record), ())))
                    except NodeUnreachable:
                        end = self._running(record)
            if end is not None:
                observed.append(end)
        return observed

    def logs(
        self, job_uid: str, attempt: int, replica: int, *, follow: bool = False, tail: int | None = None
    ) -> Iterator[bytes]:
        """See `Backend.logs`. Raises `BackendError` where no such replica was started here."""
        record = self._records.load(self._records.directory(job_uid, attempt, replica))
        if record is None:
            raise BackendError(f"there is no log of attempt {attempt}, replica {replica}")
        if record.has(LOG_DONE):
            return task_logs.saved(record, tail)
        return self._live_log(record, follow, tail)

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """See `Backend.subscribe`."""
        self._subscribers.append(changed)
        if self._watcher is None:
            self._watcher = Watcher(
                self.engine, self._instance, live=self._count, changed=self._changed, swept=self._sweep
            )

    def findings(self) -> Sequence[Finding]:
        """What was found that nobody of ours did, since this was asked last."""
        with self._mutex:
            found, self._findings = self._findings, []
        return found

    def close(self) -> None:
        """See `Backend.close`."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        self.engine.close()

    # Creating

    def _found(self, record: Record) -> bool:
        """Whether its service is there already, made by a start that was cut short."""
        service = self.engine.service(spec.service_name(record.name))
        if service is None or not self._is_of(service, record):
            return False
        self._created(record, service["ID"])
        return True

    def _is_of(self, service: Mapping[str, Any], record: Record) -> bool:
        labels = service["Spec"].get("Labels") or {}
        return labels.get(spec.INSTANCE) == self._instance and labels.get(spec.WORKLOAD) == record.name

    def _created(self, record: Record, id: str) -> None:
        record.write(SERVICE, {"id": id, "at": timestamp(self._clock.now())})
        self._live[record.name] = record
        if self._watcher is not None:
            self._watcher.knows(id, record.name)
        self._poke()

    def _ready_member(self, node: str) -> Member:
        member = self.members.named(node)
        if not member.answers:
            raise NodeUnreachable(f"{node} is {member.state} in the Swarm: {member.message or 'it does not answer'}")
        return member

    def _make_secrets(self, workload: Workload) -> Sequence[spec.SecretFile]:
        made = []
        labels = spec.labels(workload, self._instance)
        for variable in (e for e in workload.env if e.secret):
            try:
                value = self._secrets.get(variable.secret, variable.key)
            except SecretUnavailable as error:
                raise BackendError(str(error), hint=error.hint) from None
            name = spec.secret_name(workload.name, variable.name)
            data = base64.b64encode(value.encode()).decode()
            try:
                id = self.engine.create_secret(name, data, labels)
            except NameTaken:
                id = next(s["ID"] for s in self._secrets_of(workload.name) if s["Spec"]["Name"] == name)
            made.append(spec.SecretFile(variable.name, id, name))
        return made

    def _secrets_of(self, workload_name: str) -> Sequence[Mapping[str, Any]]:
        return self.engine.secrets([f"{spec.INSTANCE}={self._instance}", f"{spec.WORKLOAD}={workload_name}"])

    # Seeing

    def _known_service(self, record: Record) -> bool:
        return record.has(SERVICE) or self._found(record)

    def _service_id(self, record: Record) -> str:
        return str((record.read(SERVICE) or {})["id"])

    def _finished(self, record: Record) -> bool:
        if record.has(END):
            return True
        if not self._known_service(record):
            record.write(END, {"state": State.FAILED.value, "reason": "StartError", "message": "never started"})
            return True
        return self._settle(record).state.finished

    def _settle(self, record: Record, tasks: Sequence[Task] = ()) -> Observed:
        """What the run is now; what nobody of ours did to it is undone or ends it. Raises `NodeUnreachable`."""
        id = self._service_id(record)
        tasks = tasks or observe.read_all(self.engine.tasks({"service": [id]}))
        if not tasks:
            return self._without_task(record, id)
        run, others = _run_of(record, tasks)
        if run.terminal:
            if observe.alive(others):
                self._find(record, "ServiceChanged", "somebody changed its service: what that started is ended")
                self._neutralize(record)
                return self._running(record, run)
            return self._end(record, run)
        stop = record.read(STOP)
        if stop is not None:
            return self._stopping(record, run, stop)
        if observe.alive(others):
            self._find(record, "ServiceScaled", "somebody scaled its service: it is put back to one task")
            self.engine.update_service(id, spec.unscaled)
        if not run.placed:
            return self._waiting(record, run)
        return self._on_node(record, run)

    def _without_task(self, record: Record, id: str) -> Observed:
        if self.engine.service(id) is None:
            self._find(record, "ServiceRemoved", "somebody removed its service")
            return self._ended(record, State.FAILED, None, "Lost", "somebody removed its service")
        began = parse_timestamp((record.read(SERVICE) or {}).get("at") or timestamp(self._clock.now()))
        if (self._clock.now() - began).total_seconds() > FORGET_SECONDS:
            self._find(record, "TaskForgotten", "Swarm has no task of its service: it was scaled to zero, or pruned")
            return self._ended(record, State.FAILED, None, "Lost", "Swarm has no task of its service any more")
        return self._running(record)

    def _waiting(self, record: Record, run: Task) -> Observed:
        """No node has taken it yet."""
        member = self.members.named(record.start["node"])
        if not member.answers:
            raise NodeUnreachable(f"{member.name} is {member.state} in the Swarm")
        age = (self._clock.now() - parse_timestamp(run.created)).total_seconds()
        if run.error and age > PLACE_SECONDS:
            self._ask_to_stop(record, 0.0, why=f"Swarm does not place it: {run.error}")
            self._neutralize(record)
        return self._running(record, run)

    def _on_node(self, record: Record, run: Task) -> Observed:
        member = self.members.by_id(run.node_id)
        if member is None:
            self._find(record, "NodeRemoved", f"{record.start['node']} was removed from the Swarm")
            return self._ended(record, State.FAILED, None, "Lost", "its node was removed from the Swarm")
        if not member.answers:
            raise NodeUnreachable(f"{member.name} is {member.state} in the Swarm: {member.message}".rstrip(": "))
        return self._running(record, run)

    def _stopping(self, record: Record, run: Task, stop: Mapping[str, Any]) -> Observed:
        if run.desired == "running":
            self._neutralize(record)
        elif not run.placed:
            why = stop.get("why")
            reason, message = ("Lost", why) if why else ("Stopped", "stopped before it started")
            return self._ended(record, State.FAILED, None, reason, message)
        elapsed = (self._clock.now() - parse_timestamp(stop["at"])).total_seconds()
        if elapsed >= float(stop["grace"]) and run.container:
            self._kill(record, run)
        if run.placed:
            return self._on_node(record, run)
        return self._running(record, run)

    def _running(self, record: Record, run: Task | None = None) -> Observed:
        """As it was seen last: `run` moves it on."""
        known = record.read(RUNNING)
        if known is None and run is not None and run.state == "running":
            known = {"at": run.at, "task": run.id}
            record.write(RUNNING, known)
        if known is None:
            return record.observed(State.STARTING)
        return record.observed(State.RUNNING, started_at=known["at"])

    # Ending

    def _ask_to_stop(self, record: Record, grace: float, why: str = "") -> None:
        """A later request can only bring the end nearer."""
        earlier = record.read(STOP)
        now = self._clock.now()
        if earlier is not None:
            left = float(earlier["grace"]) - (now - parse_timestamp(earlier["at"])).total_seconds()
            if left <= grace:
                return
        record.write(STOP, {"grace": max(0.0, grace), "at": timestamp(now), "why": why})

    def _neutralize(self, record: Record) -> None:
        """Let Swarm end whatever runs of the service, and start nothing of it any more."""
        self.engine.update_service(self._service_id(record), spec.stopped)
        self._poke()

    def _kill(self, record: Record, run: Task) -> None:
        engine = self._node_engine(record.start["node"])
        if engine is None:
            return
        with contextlib.suppress(BackendError):
            engine.kill(run.container)

    def _end(self, record: Record, run: Task) -> Observed:
        facts = self._facts(record, run)
        state, reason, message = observe.ended(run, facts)
        if reason == "Lost":
            self._find(record, "ServiceEnded", message)
        return self._ended(record, state, run.exit_code, reason, message, run)

    def _facts(self, record: Record, run: Task) -> Facts:
        stopped = record.has(STOP)
        if run.state in ("complete", "rejected") or stopped:
            return Facts(stopped=stopped)
        oom = self._was_oom(record, run) if run.exit_code == 137 else False
        lease = self._how_lease_ended(record)
        return Facts(
            lease=lease, oom=oom, memory_bytes=int(record.start["memory_bytes"]), node=record.start["node"],
            restarted=self._joined_anew(run),
        )  # fmt: skip

    def _joined_anew(self, run: Task) -> bool:
        """Whether the run's node joined the Swarm about when the run ended."""
        member = self.members.by_id(run.node_id)
        if member is None:
            return True
        since = (parse_timestamp(member.updated) - parse_timestamp(run.at)).total_seconds()
        return since > -REJOIN_SECONDS

    def _how_lease_ended(self, record: Record) -> str:
        """By the word of the node's Chronos; where it says nothing, by the time."""
        for lease in record.start["leases"]:
            try:
                if end := self._lease_end(record.start["node"], lease["id"]):
                    return end
            except ChronosError:
                expires = lease["expires_at"]
                if expires and self._clock.now() >= parse_timestamp(expires):
                    return "expired"
        return ""

    def _was_oom(self, record: Record, run: Task) -> bool | None:
        engine = self._node_engine(record.start["node"])
        if engine is None:
            return None
        try:
            container = engine.container(run.container)
        except BackendError:
            return None
        return None if container is None else bool(container["State"].get("OOMKilled"))

    def _ended(
        self, record: Record, state: State, code: int | None, reason: str, message: str, run: Task | None = None
    ) -> Observed:
        now = timestamp(self._clock.now())
        finished = run.at if run is not None and run.at else now
        known = record.read(RUNNING)
        started = known["at"] if known else (run.created if run is not None and run.container else "")
        record.write(
            END,
            {
                "state": state.value, "exit_code": code, "reason": reason, "message": message,
                "started_at": min(started, finished), "finished_at": finished,
            },
        )  # fmt: skip
        self._live.pop(record.name, None)
        end = record.end()
        assert end is not None
        return end

    def _remove_service(self, record: Record) -> None:
        """The service where it is ours, and its secrets."""
        service = self.engine.service(spec.service_name(record.name))
        if service is not None and self._is_of(service, record):
            self.engine.remove_service(service["ID"])
        if record.start["secrets"]:
            for secret in self._secrets_of(record.name):
                self.engine.remove_secret(secret["ID"])

    # Logs

    def _save_log(self, record: Record) -> None:
        """Raises `BackendError` where it cannot be read and there is hope yet."""
        if record.has(LOG_DONE):
            return
        if not record.has(SERVICE):
            task_logs.write(record, b"")
            return
        try:
            task_logs.save(record, self._fetcher(record), self._redactor(record))
        except NoSuch:
            task_logs.write(record, b"[cumulus: the log went with the service, which somebody removed]\n")
        except BackendError as error:
            end = record.end()
            finished = parse_timestamp(end.finished_at) if end is not None and end.finished_at else self._clock.now()
            if (self._clock.now() - finished).total_seconds() < LOG_SECONDS:
                raise
            task_logs.write(record, f"[cumulus: the log could not be read: {error}]\n".encode())

    def _fetcher(self, record: Record) -> task_logs.Fetch:
        """Reads the run's log through the manager, and where that does not work through the node's own engine.

        A node that is down makes the manager hang (moby#38640, #37336), so it is not asked for its logs then."""
        tasks = observe.read_all(self.engine.tasks({"service": [self._service_id(record)]}))
        if not tasks:
            raise NoSuch(f"no task of {record.name} is there")
        run, _ = _run_of(record, tasks)
        if not run.container:
            return lambda since: b""

        def fetch(since: float) -> bytes:
            member = self.members.by_id(run.node_id)
            trouble = BackendError(f"{record.start['node']} does not answer the manager")
            said: bytes | None = None
            if member is not None and member.answers:
                try:
                    said = self.engine.task_log(run.id, since)
                    task_logs.check(said)
                except BackendError as error:
                    trouble, said = error, None
            engine = self._node_engine(record.start["node"])
            # A manager whose node has just come back may answer with nothing at all.
            if said or (said is not None and (since or engine is None or not run.terminal)):
                return said
            if engine is None:
                raise trouble
            return engine.container_log(run.container, since)

        return fetch

    def _live_log(self, record: Record, follow: bool, tail: int | None) -> Iterator[bytes]:
        try:
            reader = task_logs.Reader(self._fetcher(record), self._redactor(record))
            content = reader.step() if follow else reader.step() + reader.flush()
            yield task_logs.last_lines(content, tail)
        except NoSuch:
            return
        while follow:
            ended = record.has(END) or record.has(REMOVED) or not self._goes_on(record)
            with contextlib.suppress(NoSuch):
                if fresh := reader.step():
                    yield fresh
            if ended:
                break
            self._clock.sleep(FOLLOW_SECONDS)
        yield reader.flush()

    def _goes_on(self, record: Record) -> bool:
        try:
            observed = self.get(record.name)
        except NodeUnreachable:
            return True
        return observed is not None and not observed.state.finished

    def _redactor(self, record: Record) -> Redactor:
        values = []
        for _, name, key in record.start["secrets"]:
            with contextlib.suppress(SecretUnavailable):
                values.append(self._secrets.get(name, key))
        return Redactor(values)

    # Watching

    def _count(self) -> tuple[int, bool]:
        """How many runs have not ended, and whether one is on its way."""
        live = list(self._live.values())
        return len(live), any(not record.has(RUNNING) or record.has(STOP) for record in live)

    def _changed(self, name: str | None) -> None:
        records = list(self._live.values()) if name is None else [r for r in [self._records.find(name)] if r]
        for namespace, job in {(r.start["namespace"], r.start["job"]) for r in records}:
            for subscriber in self._subscribers:
                subscriber(namespace, job)

    def _sweep(self) -> None:
        """What makes up for whatever was missed, and collects what nobody needs."""
        self._adopt()
        self._collect_secrets()
        self._changed(None)

    def _adopt(self) -> None:
        """Take on services of ours that this disk does not know: the sweep loop then ends them or goes on with them."""
        for service in self.engine.services([f"{spec.INSTANCE}={self._instance}"]):
            labels = service["Spec"]["Labels"]
            name = labels.get(spec.WORKLOAD, "")
            if self._records.find(name) is not None:
                continue
            record = self._records.adopt(labels, service["ID"])
            if record is not None:
                self._live[record.name] = record
                self._find(record, "ServiceAdopted", "its service was there without a record of it")
            else:
                # Its run was removed, or its job purged: the removal of the service was cut short.
                self.engine.remove_service(service["ID"])

    def _collect_secrets(self) -> None:
        """Secrets whose run is over."""
        for secret in self.engine.secrets([f"{spec.INSTANCE}={self._instance}"]):
            record = self._records.find(secret["Spec"]["Labels"].get(spec.WORKLOAD, ""))
            if record is None or record.has(END):
                with contextlib.suppress(BackendError):
                    self.engine.remove_secret(secret["ID"])

    def _find(self, record: Record, reason: str, message: str) -> None:
        start = record.start
        log.warning("found in the Swarm", workload=record.name, reason=reason, message=message)
        with self._mutex:
            self._findings.append(Finding(start["namespace"], start["job"], start["job_uid"], reason, message))

    def _poke(self) -> None:
        if self._watcher is not None:
            self._watcher.poke()


def _run_of(record: Record, tasks: Sequence[Task]) -> tuple[Task, Sequence[Task]]:
    """The task that is the run, and the others."""
    known = (record.read(RUNNING) or {}).get("task")
    run = next((task for task in tasks if task.id == known), tasks[0])
    return run, [task for task in tasks if task is not run]


def _joined(variables: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Those of several leases: lists are joined."""
    return {
        **variables,
        **{
            name: ":".join(dict.fromkeys([*variables[name].split(":"), *value.split(":")]))
            if name in variables and name in ("OPENCL_LAYERS", "CHRONOS_ACCOUNT", "PYTHONPATH")
            else value
            for name, value in more.items()
        },
    }
