"""What a container's node does for its checkpoints: it fetches the newest before the start, and copies what is saved
beyond itself from then on, also after the lease has ended.

The container sees a directory of its node. The uploader is a process of the node, outside of the container: it runs as
the container's user, has the keys that the container does not get, and ends when it has copied what the container left.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from cumulus.backends.base import Workload
from cumulus.backends.rundir.uploading import Beyond, NoKeys, taken_message
from cumulus.backends.swarm import programs
from cumulus.backends.swarm.checkpoint import place_of
from cumulus.backends.swarm.checkpoint_programs import CheckpointPrograms, NotWhole, PlaceAway
from cumulus.backends.swarm.confinement import NOBODYS_GROUP, user_of
from cumulus.backends.swarm.here import LocalRuns
from cumulus.backends.swarm.node_engine import NodeEngine, RunsCheckpoints, RunsPrograms
from cumulus.backends.swarm.prefetching import PrefetchGivenUp
from cumulus.backends.swarm.records import UPLOADER, Record
from cumulus.errors import BackendError, BackendRefused
from cumulus.lib.unix_user import UnixUser
from cumulus.secrets import JobSecrets
from cumulus.uploader.config import Config

log = structlog.get_logger("cumulus.backends")

_PULSE = 1.0
"""Seconds between two words to a program that fetches ahead."""

Earlier = Sequence[Record]
"""The runs of the job's earlier attempts."""


def noted(workload: Workload) -> dict[str, Any]:
    """What a run's record keeps of this: nothing where its node has none of its files."""
    asked = workload.checkpointing
    if asked is None:
        return {}
    if programs.is_program(workload):
        # Whose groups are those of the node's own list of users.
        place, user = programs.checkpoint_path(workload, programs.user_of(workload)), None
    else:
        place, user = place_of(workload), user_of(workload)
    if not place:
        return {}
    return {
        "place": place, "user": user, "uri": asked.uri, "named": asked.named, "keep": asked.keep,
        "credentials": asked.credentials, "after_uri": asked.after_uri, "after_uid": asked.after,
    }  # fmt: skip


class NodeUploading:
    """`engines` gives a node's own engine by the node's name; `variables` are the daemon's environment; `here` is the
    daemon's own machine, where that runs jobs without an image."""

    def __init__(
        self, engines: Callable[[str], NodeEngine | None], secrets: JobSecrets, variables: Mapping[str, str],
        here: LocalRuns | None = None,
    ) -> None:  # fmt: skip
        self._engines = engines
        self._secrets = secrets
        self._variables = variables
        self._here = here
        self._given: dict[str, Config] = {}
        """What this daemon gave the uploader of each run, by its name."""

    def forget(self, record: Record) -> None:
        """The run has ended."""
        self._given.pop(record.name, None)

    def runs(self, records: Sequence[Record], job_uid: str) -> Earlier:
        """All runs of a job: these, and those on the daemon's own machine."""
        return [*records, *(self._here.runs(job_uid) if self._here is not None else ())]

    def bring_here(self, start: Mapping[str, Any], runs: Earlier, given_up: threading.Event) -> None:
        """Have what another node has of the job in a directory of this machine, if that is newer than what it has.
        `start`: of a run here, as its record would say. Raises `BackendError` where that node, which nothing else
        replaces, does not give it, `PrefetchGivenUp`."""
        record = Record("", dict(start))
        earlier = [run for run in runs if run.start["attempt"] < start["attempt"]]
        programs = self._programs(record)
        if programs is None:
            return
        user = UnixUser.read(start["checkpoint"]["user"])
        missed = self._fetch_from_node(record, earlier, programs, user, given_up)
        if missed is not None and not start["checkpoint"]["uri"]:
            raise missed

    def fetches(self, record: Record, earlier: Earlier) -> bool:
        """Whether something is to be asked or fetched before the run starts."""
        kept = record.start.get("checkpoint") or {}
        return bool(kept) and bool(kept["uri"] or kept["after_uid"] or _elsewhere(record, earlier))

    def fetch(
        self, record: Record, earlier: Earlier, given_up: threading.Event, origin: Sequence[Record] = ()
    ) -> None:  # fmt: skip
        """Have the newest checkpoint on the run's node: its own, else that of the node where the job ran last, else
        the one beyond the nodes. Where the job has none, that of the job it goes on from, whose runs are `origin`, in
        the same order. This may take long.

        Raises `BackendRefused` where the node can't reach the place that the job names, `PlaceAway` and `BackendError`
        where another try may help, `PrefetchGivenUp` soon after the event was set."""
        kept = record.start["checkpoint"]
        programs = self._programs(record)
        if programs is None:
            begun = record.is_program and _elsewhere(record, earlier) is not None
            if kept["named"] or kept["after_uid"] or begun or _were_copied(earlier):
                raise _no_ssh(record)
            return
        user = self._user(record, earlier)
        self._make_place(record)
        missed = self._fetch_from_node(record, earlier, programs, user, given_up) if earlier else None
        answer = self._fetch_from_place(record, earlier, programs, user) if kept["uri"] else {}
        if (
            kept["after_uid"]
            and answer.get("step") is None
            and _newest(programs.read(user, "list", kept["place"])) is None
        ):
            answer = self._adopt(record, origin, programs, user, given_up)
        for refused in answer.get("refused", ()):
            log.warning("a checkpoint is damaged", workload=record.name, problem=refused)
        if missed is not None and record.is_program and answer.get("step") is None:
            # It would begin anew, though all that it did is there.
            raise missed

    def prefetch(self, record: Record, earlier: Earlier, given_up: threading.Event) -> int | None:
        """The same before anything is leased on the run's node, and as far as it can be had: the step of the newest
        that is there then. Raises `PrefetchGivenUp` soon after the event was set, `BackendError`."""
        kept = record.start["checkpoint"]
        programs = self._programs(record)
        if programs is None:
            raise _no_ssh(record)
        user = self._user(record, earlier)
        self._make_place(record)
        missed = self._fetch_from_node(record, earlier, programs, user, given_up)
        if kept["uri"] and not self._is_here(record):
            config = self._config(record, user, Beyond.own)
            programs.prefetch(config, kept["place"], _here_since(record, earlier), _until(given_up))
        found = _newest(programs.read(user, "list", kept["place"]))
        if found is None and missed is not None:
            raise missed
        return None if found is None else found[1]

    def follow(self, record: Record, container: str) -> str:
        """Have what the container saves copied, from now on until it has ended and all is copied. Why that is not
        possible, "" where it is. Harmless where it is done already."""
        kept = record.start.get("checkpoint") or {}
        if not kept.get("uri"):
            return ""
        before = record.read(UPLOADER) or {}
        if before and not before["error"]:
            self._renew(record, container)
            return ""
        try:
            programs, engine = self._programs(record), self._engines(record.start["node"])
            if programs is None or engine is None:
                raise _no_ssh(record)
            state = (engine.container(container) or {}).get("State") or {}
            config = self._config(record, UnixUser.read(kept["user"]), Beyond.own)
            answer = programs.ask(config, "start", kept["place"], _pid(state))
            self._given[record.name] = config
            after = {"error": "", "user": answer.get("user")}
        except BackendError as error:
            after = {"error": f"{error} ({error.hint})" if error.hint else str(error), "user": None}
        if after != before:
            record.write(UPLOADER, after)
        return str(after["error"])

    def _renew(self, record: Record, container: str) -> None:
        """Another uploader takes the place of one that gets nothing beyond the node, where it may have other keys than
        those of now. Where that is not possible, the one at work stays, and says what is wrong."""
        kept, saved = record.start["checkpoint"], record.saved()
        if saved is None or not saved.upload_error:
            return
        try:
            config = self._config(record, UnixUser.read(kept["user"]), Beyond.own)
            programs, engine = self._programs(record), self._engines(record.start["node"])
            if config == self._given.get(record.name) or programs is None or engine is None:
                return
            state = (engine.container(container) or {}).get("State") or {}
            programs.ask(config, "start", kept["place"], _pid(state), "instead")
            self._given[record.name] = config
        except BackendError as error:
            log.warning("the uploader keeps its old keys", workload=record.name, problem=str(error))

    def _adopt(
        self, record: Record, origin: Sequence[Record], programs: CheckpointPrograms, user: UnixUser | None,
        given_up: threading.Event,
    ) -> dict[str, Any]:  # fmt: skip
        """The last checkpoint of the job that this one goes on from. Raises `BackendRefused` where there is none."""
        kept = record.start["checkpoint"]
        last, whose = newest_files(origin) or (None, None)
        theirs = None if last is None else self._programs(last)
        if last is not None and theirs is not None:
            there = last.start["checkpoint"]["place"]
            try:
                if (found := _newest(theirs.read(whose, "list", there))) is not None:
                    with contextlib.closing(theirs.read(whose, "send", there, str(found[1]))) as sent:
                        return programs.receive(user, kept["place"], _unless(given_up, sent), adopt=True)
            except BackendError as error:
                if not kept["after_uri"]:
                    raise
                log.warning("no checkpoint comes from the last node", workload=record.name, problem=str(error))
        answer: dict[str, Any] = {}
        if kept["after_uri"]:
            answer = programs.ask(self._config(record, user, Beyond.other), "adopt", kept["place"], "")
        if answer.get("step") is None:
            raise BackendRefused("checkpoint.from: there is no whole checkpoint of that job on a node or beyond it")
        return answer

    def _fetch_from_place(
        self, record: Record, earlier: Earlier, programs: CheckpointPrograms, user: UnixUser | None
    ) -> dict[str, Any]:
        kept = record.start["checkpoint"]
        config = self._config(record, user, Beyond.own)
        # The earlier ones may have been processes of the daemon's machine, of which no record is here.
        first = int(record.start["attempt"]) == 1
        try:
            if not first:
                return programs.ask(config, "restore", kept["place"], str(_here_since(record, earlier)))
            answer = programs.ask(config, "check", kept["place"])
        except PlaceAway:
            if not first:
                raise
            return {}  # It is asked for nothing yet.
        except BackendRefused as error:
            if kept["named"] or _were_copied(earlier):
                raise
            # Nobody asked for it by name: the job's status says why nothing is copied.
            log.warning("checkpoints are not copied", workload=record.name, problem=str(error))
            return {}
        if answer.get("step") is not None and record.start["replica"] == 0:
            raise BackendRefused(taken_message(config.uri, answer["step"]))
        return {}

    def _fetch_from_node(
        self, record: Record, earlier: Earlier, programs: CheckpointPrograms, user: UnixUser | None,
        given_up: threading.Event,
    ) -> BackendError | None:  # fmt: skip
        """Of the node where the job ran last, if that has a newer one than this and answers. Why it was not to be
        had."""
        other = _elsewhere(record, earlier)
        if other is None:
            return None
        theirs = self._programs(other)
        if theirs is None:
            return _no_ssh(other)
        path, there = record.start["checkpoint"]["place"], other.start["checkpoint"]["place"]
        try:
            found, here = _newest(theirs.read(user, "list", there)), _newest(programs.read(user, "list", path))
            if found is None or (here is not None and here >= found):
                return None
            try:
                self._copy(theirs, programs, user, there, path, given_up, str(found[1]))
            except NotWhole as error:
                log.warning("a checkpoint is damaged", workload=record.name, problem=str(error))
                # The one before it, if there is one.
                self._copy(theirs, programs, user, there, path, given_up)
            log.info(
                "a checkpoint came from the last node", workload=record.name, node=other.start["node"], step=found[1]
            )
            return None
        except NotWhole as error:
            log.warning("no checkpoint of the last node is whole", workload=record.name, problem=str(error))
            return None
        except BackendError as error:
            log.warning(
                "no checkpoint comes from the last node", workload=record.name, node=other.start["node"],
                problem=str(error),
            )  # fmt: skip
            return error

    def _copy(
        self, theirs: CheckpointPrograms, ours: CheckpointPrograms, user: UnixUser | None, there: str, path: str,
        given_up: threading.Event, *step: str,
    ) -> None:  # fmt: skip
        with contextlib.closing(theirs.read(user, "send", there, *step)) as sent:
            ours.receive(user, path, _unless(given_up, sent))

    def _is_here(self, record: Record) -> bool:
        return self._here is not None and record.start["node"] == self._here.node

    def _programs(self, record: Record) -> CheckpointPrograms | None:
        if self._here is not None and self._is_here(record):
            return self._here.checkpoints
        engine = self._engines(record.start["node"])
        return engine.checkpoints if isinstance(engine, RunsCheckpoints) else None

    def _make_place(self, record: Record) -> None:
        """The directory of its user's programs on its node, which may never have had one."""
        engine = self._engines(record.start["node"])
        if record.is_program and isinstance(engine, RunsPrograms):
            engine.make_place(int(record.start["program"]))

    def _config(self, record: Record, user: UnixUser | None, of: Callable[[Beyond], Config]) -> Config:
        start, kept = record.start, record.start["checkpoint"]
        place = Beyond(
            start["namespace"], start["job_uid"], kept["uri"], kept["credentials"], int(kept["keep"]),
            kept["after_uri"], kept["after_uid"], self._secrets.of(start["namespace"]), self._variables, user,
            owner=True, carried=True,
        )  # fmt: skip
        try:
            return of(place)
        except NoKeys as error:
            raise BackendRefused(str(error)) from None

    def _user(self, record: Record, earlier: Earlier) -> UnixUser | None:
        """Whom the container runs as, None where nobody knows before it runs."""
        user = UnixUser.read(record.start["checkpoint"]["user"]) or _user_seen(earlier)
        uid = record.start.get("program")
        return whose(int(uid)) if user is None and uid is not None else user


def _pid(state: Mapping[str, Any]) -> str:
    """Of a container's first process; 0 where it has ended."""
    return str(int(state.get("Pid") or 0))


def _unless(given_up: threading.Event, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if given_up.is_set():
            raise PrefetchGivenUp
        yield chunk


def _until(given_up: threading.Event) -> Iterator[bytes]:
    """Something now and then, by which a program's end is noticed."""
    while not given_up.wait(_PULSE):
        yield b"\n"
    raise PrefetchGivenUp


def whose(uid: int) -> UnixUser:
    """A user of another machine: of the groups on one none need be the same on the other."""
    return UnixUser(uid, NOBODYS_GROUP, (), str(uid), "/", "/bin/sh")


def _user_seen(runs: Sequence[Record]) -> UnixUser | None:
    """Whom the job's containers were seen to run as."""
    for run in reversed(runs):
        if user := UnixUser.read((run.read(UPLOADER) or {}).get("user")):
            return user
    return None


def _were_copied(runs: Sequence[Record]) -> bool:
    """Whether something of them may be beyond the nodes."""
    return any((run.read(UPLOADER) or {"error": "never"})["error"] == "" for run in runs)


def newest_files(runs: Sequence[Record]) -> tuple[Record, UnixUser | None] | None:
    """The job's last run that has files on its node, and whose they are: None where only they tell. None where there is
    no such run."""
    there = [run for run in runs if run.start.get("checkpoint")]
    if not there:
        return None
    last = max(there, key=lambda run: (int(run.start["attempt"]), -int(run.start["replica"])))
    return last, UnixUser.read(last.start["checkpoint"]["user"]) or _user_seen(there)


def _elsewhere(record: Record, earlier: Earlier) -> Record | None:
    """The last run of the same replica, where that was on another node with files there."""
    runs = [run for run in earlier if run.start["replica"] == record.start["replica"] and run.start.get("checkpoint")]
    last = max(runs, key=lambda run: int(run.start["attempt"]), default=None)
    return last if last is not None and last.start["node"] != record.start["node"] else None


def _here_since(record: Record, earlier: Earlier) -> int:
    """The first of the attempts that all ran on this node up to this one; this one where the last ran elsewhere, 0
    where all ran here."""
    number, node = int(record.start["attempt"]), record.start["node"]
    while runs := [run for run in earlier if int(run.start["attempt"]) == number - 1]:
        if any(run.start["node"] != node for run in runs):
            return number
        number -= 1
    return number if number > 1 else 0


def _newest(said: Any) -> tuple[int, int] | None:
    """Attempt and step of the newest of a list that looks whole."""
    found = None
    for line in b"".join(said).splitlines():
        try:
            one = json.loads(line)
            if "error" in one:
                raise BackendError(str(one["error"]))
            if "problem" not in one and (at := (int(one["attempt"]), int(one["step"]))) > (found or (-1, -1)):
                found = at
        except (ValueError, KeyError, TypeError):
            raise BackendError("what lists the checkpoints makes no sense") from None
    return found


def _no_ssh(record: Record) -> BackendRefused:
    node = record.start["node"]
    return BackendRefused(
        f"{node} has no SSH address, over which its checkpoints are copied", hint=f"set spec.ssh of gpunode/{node}"
    )
