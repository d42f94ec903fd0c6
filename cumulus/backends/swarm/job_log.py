"""The log of a run: from the manager, the node's own engine, or this disk; saved whole before its service goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from cumulus.backends.logs import LogRetention
from cumulus.backends.redactor import Redactor
from cumulus.backends.rundir.log_times import TimedBytes
from cumulus.backends.swarm import log_stream
from cumulus.backends.swarm import tasks as observe
from cumulus.backends.swarm.engine import Engine, EngineUnavailable, NoSuch
from cumulus.backends.swarm.members import Members, SwarmMember
from cumulus.backends.swarm.records import END, LOG_DONE, REMOVED, SERVICE, Record
from cumulus.backends.swarm.services import Services
from cumulus.backends.swarm.task_reconciler import CLOCKS, Engines, Timeouts, run_of, seconds_between
from cumulus.clock import Clock, parse_timestamp
from cumulus.errors import BackendError

FOLLOW_SECONDS = 0.3
STARTING_SECONDS = 5.0
"""How long after its start an engine may not have taken up its containers yet."""
JOINED_SECONDS = 10.0
"""How long after its node joined anew a manager may know nothing of a log that is there."""
_AWAY = "was away when this ended: the end of the log may be missing"


class JobLogs:
    """Reads only: whoever follows a log neither settles a run nor changes a service."""

    def __init__(
        self, engine: Engine, members: Members, services: Services, node_engine: Engines, clock: Clock,
        retention: LogRetention, timeouts: Timeouts,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._members = members
        self._services = services
        self._node_engine = node_engine
        self._clock = clock
        self._retention = retention
        self._timeouts = timeouts

    def save(self, record: Record) -> None:
        """Save the whole log on this disk. Raises `BackendError` while it cannot be read and may still come."""
        if record.has(LOG_DONE):
            return
        if not record.has(SERVICE):
            log_stream.write(record, ())
            return
        try:
            reader = log_stream.StreamReader(self._fetcher(record), self._redactor(record))
            content = self._whole(reader)
            lacks = self._lacks(record, content[-1][1][-1:] if content else b"")
            log_stream.write(record, [*content, *([(self._now(), lacks)] if lacks else [])], self._retention)
        except NoSuch as error:
            log_stream.write(record, [(self._now(), f"[cumulus: the log is gone: {error}]\n".encode())])
        except BackendError as error:
            end = record.end()
            finished = parse_timestamp(end.finished_at) if end is not None and end.finished_at else self._clock.now()
            if (self._clock.now() - finished).total_seconds() < self._timeouts.log:
                raise
            log_stream.write(record, [(self._now(), f"[cumulus: the log could not be read: {error}]\n".encode())])

    def read(
        self, record: Record, follow: bool, tail: int | None, since: float | None = None, *, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """See `Backend.logs`."""
        if record.has(LOG_DONE):
            return log_stream.saved(record, tail, since, timestamps=timestamps, position=position)
        live = self._live(record, follow, tail, log_stream.LogSelection(since, timestamps))
        return live if position is None else log_stream.from_position(live, position)

    def _live(self, record: Record, follow: bool, tail: int | None, shown: log_stream.LogSelection) -> Iterator[bytes]:
        try:
            reader = log_stream.StreamReader(self._fetcher(record), self._redactor(record))
            content = self._patiently(reader.timed if follow else partial(self._whole, reader))
            last = content[-1][1][-1:] if content else b""
            if not follow and record.has(END) and (lacks := self._lacks(record, last)):
                content.append((self._now(), lacks))
            yield log_stream.last_lines(shown.of(content), tail)
        except NoSuch:
            return
        while follow:
            ended = record.has(END) or record.has(REMOVED) or not self._goes_on(record)
            fresh: list[TimedBytes] = []
            with contextlib.suppress(NoSuch):
                if fresh := self._patiently(reader.timed):
                    last = fresh[-1][1][-1:]
            yield shown.of(fresh)
            if ended:
                rest = reader.flush()
                yield shown.of([(self._now(), rest + self._lacks(record, rest[-1:] or last))])
                break
            self._clock.sleep(FOLLOW_SECONDS)

    def _patiently(self, read: Callable[[], list[TimedBytes]]) -> list[TimedBytes]:
        """Reads again for a while what a manager has not yet: a person would only ask again themselves."""
        patience = self._clock.monotonic() + JOINED_SECONDS
        while True:
            try:
                return read()
            except log_stream.NotThereYet:
                if self._clock.monotonic() >= patience:
                    raise
            self._clock.sleep(FOLLOW_SECONDS)

    def _whole(self, reader: log_stream.StreamReader) -> list[TimedBytes]:
        content = reader.timed()
        rest = reader.flush()
        return [*content, (content[-1][0] if content else self._now(), rest)] if rest else content

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _goes_on(self, record: Record) -> bool:
        try:
            return not self._run(record).terminal
        except NoSuch:
            return False
        except BackendError:
            return True

    def _run(self, record: Record) -> observe.Task:
        tasks = observe.read_all(self._engine.tasks({"service": [self._services.id(record)]}))
        if not tasks:
            raise NoSuch("somebody removed its service")
        return run_of(record, tasks)[0]

    def _fetcher(self, record: Record) -> log_stream.Fetch:
        """Reads the run's log through the manager, and where that does not work through the node's own engine.

        A node that is down makes the manager hang (moby#38640, #37336), so it is not asked for its logs then."""

        def fetch(since: float) -> bytes:
            run = self._run(record)
            if not run.container:
                return b""
            if run.container_gone:
                return self._kept_on_node(record, run, since)
            member = self._members.by_id(run.node_id)
            problem = BackendError(f"{record.start['node']} does not answer the manager")
            said: bytes | None = None
            if member is not None and member.answers:
                try:
                    said = self._engine.task_log(run.id, since)
                    if record.start.get("terminal"):
                        said = log_stream.framed(said)
                    log_stream.check(said)
                except EngineUnavailable as error:
                    # A manager waits for a node that is away, as long as we wait for the manager.
                    problem, said = BackendError(f"no log came from {member.name} through the manager: {error}"), None
                except BackendError as error:
                    problem, said = error, None
            ended = run.terminal or record.has(END)
            if said or (said is not None and not ended):
                return said
            # A manager may answer with nothing at all once the node of an ended task joined anew.
            engine = self._node_engine(record.start["node"])
            if engine is not None:
                return engine.container_log(run.container, since)
            if said is None:
                raise problem
            if member is not None and self._just_joined(member):
                raise log_stream.NotThereYet(f"{member.name} has just come back, and the manager has no log of it yet")
            return said

        return fetch

    def _just_joined(self, member: SwarmMember) -> bool:
        if not member.updated:
            return False
        return abs((self._clock.now() - parse_timestamp(member.updated)).total_seconds()) < JOINED_SECONDS

    def _lacks(self, record: Record, before: bytes) -> bytes:
        """The line that says that the end of a log may be missing; nothing where it is whole, or that is not known.

        An engine that was killed drops what a container wrote that ended before it was back. `before` is the last
        byte of the log."""
        try:
            if not self._engine_was_away(record, self._run(record)):
                return b""
        except BackendError:
            return b""
        start = b"\n" if before not in (b"", b"\n") else b""
        return start + f"[cumulus: the engine of {record.start['node']} {_AWAY}]\n".encode()

    def _engine_was_away(self, record: Record, run: observe.Task) -> bool:
        """Whether the run's container ended while its engine did not watch. The node is asked only where it joined
        anew meanwhile, as it does when its engine starts."""
        member, engine = self._members.by_id(run.node_id), self._node_engine(record.start["node"])
        if member is None or engine is None or run.state not in ("complete", "failed") or not run.container:
            return False
        if not member.updated or seconds_between(run.created, member.updated) <= 0:
            return False
        state = (engine.container(run.container) or {}).get("State") or {}
        finished = observe.moment(state.get("FinishedAt", ""))
        started = engine.started() if finished else None
        if started is None:
            return False
        # One that was noticed before the engine was started anew was seen by the engine before.
        noticed = parse_timestamp(run.at).timestamp() + CLOCKS
        return parse_timestamp(finished).timestamp() < started + STARTING_SECONDS and started <= noticed

    def _kept_on_node(self, record: Record, run: observe.Task, since: float) -> bytes:
        """What the node kept of a container that its engine removed."""
        engine = self._node_engine(record.start["node"])
        kept = None if engine is None else engine.kept_log(run.container, since)
        if kept is None:
            raise NoSuch("the engine was stopped, and removed it with its container")
        return kept

    def _redactor(self, record: Record) -> Redactor:
        return Redactor(self._services.secret_values(record))
