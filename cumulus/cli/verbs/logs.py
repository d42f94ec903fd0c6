"""`cumulus logs`: what jobs wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self, TypedDict

import typer

from cumulus.answers.logs import (
    AttemptEnded,
    AttemptFollows,
    LogAwaits,
    LogBytes,
    LogPiece,
    NobodyActs,
    NoneFollowed,
    NothingWritten,
    ReplicaChosen,
)
from cumulus.cli import completion, context, log_output, log_streams, options, targets, terminal
from cumulus.cli.progress import Progress
from cumulus.cli.targets import Selection
from cumulus.errors import NoLog, UsageError
from cumulus.resources import reruns
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import gpujob
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import Client

MOST = 64
"""Logs that are followed at once."""


def logs(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="JOB…", help="Jobs: NAME… or job/NAME….", autocompletion=completion.jobs, show_default=False
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the log, attempt after attempt, until the job is over.")
    ] = False,
    attempt: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=0, help="Which attempt; the last if left out.")
    ] = 0,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="The attempt before the last.")] = False,
    run: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=0, help="Of which run, if the job was rerun; the last.")
    ] = 0,
    replica: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, show_default=False, help="Which replica of a gang; else all."),
    ] = None,
    tail: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=-1, help="Only the last N lines; -1 for all.")
    ] = -1,
    since: Annotated[
        str, typer.Option(metavar="DURATION", show_default=False, help="Only what was written in that time: 10m, 1h.")
    ] = "",
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Show when each line was written, in UTC.")] = False,
    selector: options.Labels = "",
    all: Annotated[bool, typer.Option("--all", help="All jobs of the namespace.")] = False,
    namespace: options.Namespace = "",
) -> int:
    """Show what jobs wrote to stdout and stderr.

    Logs stay until the job is deleted. Where there are several logs, each line begins with its job and replica. On
    stderr you are told why an attempt wrote nothing, and how an attempt ended. A pipe gets exactly the bytes that the
    job wrote. A terminal gets line breaks, tabs, carriage returns, backspaces, colours and erase-in-line; all other
    control characters are shown as text.

    \b
    Examples:
      cumulus logs train
      cumulus logs train -f --tail 20
      cumulus logs job/train --attempt 1
      cumulus logs train -p
      cumulus logs train --run 1
      cumulus logs train --replica 3
      cumulus logs train eval -f
      cumulus logs -l team=vision --since 10m --timestamps
    """
    found, several = targets.parse_some(words or (), default=gpujob.KIND), bool(selector or all)
    targets.check_named(found, several=several)
    for target in found:
        if not target.kind.runs:
            hint = target.kind.logs_hint.format(name=target.name) or None
            raise UsageError(f"only jobs have logs, not a {target.kind.name}", hint=hint)
    if previous and attempt:
        raise UsageError("give either --previous or --attempt")
    selection = Selection(context.namespace(namespace), selector)
    given: _Given = {"follow": follow, "tail": tail if tail >= 0 else None, "since": _moment(since), "run": run,
                     "timestamps": timestamps}  # fmt: skip
    with context.client() as client:
        keys = list(targets.keys(client, found, selection))
        if len(keys) == 1 and not several and replica is not None and not previous:
            return _one(client, keys[0], replica, attempt, given)
        sources = [s for key in keys for s in _sources(client, key, replica, attempt, previous, given, len(keys) > 1)]
        if not sources:
            terminal.note("No jobs found.")
            return 0
        if len(sources) == 1:
            ((key, number, attempt), _) = sources[0]
            return _one(client, key, number, attempt, given)
        if follow and len(sources) > MOST:
            raise UsageError(f"these are {len(sources)} logs, and at most {MOST} are followed", hint="name fewer jobs")
        _silence()
        return log_streams.show([source for _, source in sources], sys.stdout, follow=follow)


class _Given(TypedDict):
    follow: bool
    tail: int | None
    since: float | None
    run: int
    timestamps: bool


def _one(client: Client, key: Key, replica: int | None, attempt: int, given: _Given) -> int:
    with _Shown(client, key) as shown:
        pieces = client.logs(key, attempt=attempt, replica=replica, **given)
        _silence()
        for piece in pieces:
            shown.show(piece)
    return 0


def _silence() -> None:
    # Loaded once there is something to read, as the backend loads it too.
    from cumulus import log

    log.silence()


def _sources(
    client: Client, key: Key, replica: int | None, attempt: int, previous: bool, given: _Given, named: bool
) -> Iterator[tuple[tuple[Key, int | None, int], log_streams.LogSource]]:
    """The logs of one job, each with what opens it. Raises NotFound, NoLog."""
    job = client.get(key)
    if BY_NAME[key.kind].leaves_files:
        job = reruns.as_it_was(job, given["run"]) or job
    number = _previous(job) if previous else attempt
    replicas = lookup(job, "spec.replicas") or 1
    for each in range(replicas) if replica is None else [replica]:
        name = f"{key.name}/{each}" if replicas > 1 else key.name
        chosen = each if replicas > 1 else replica
        open = partial(client.logs, key, attempt=number, replica=chosen, **given)
        yield (key, chosen, number), log_streams.LogSource(name, open)


def _previous(job: Document) -> int:
    """The number of the attempt before the last that has started. Raises NoLog."""
    begun = [a["number"] for a in lookup(job, "status.attempts") or () if a.get("startTime")]
    if len(begun) < 2:
        raise NoLog(f"gpujob/{job['metadata']['name']} has no attempt before the last", hint="leave -p out")
    return int(begun[-2])


def _moment(since: str) -> float | None:
    """So long ago, in seconds since 1970."""
    if not since:
        return None
    from cumulus.clock import SystemClock

    return SystemClock().now().timestamp() - options.seconds_of(since, "--since")


class _Shown:
    """Writes bytes to stdout, and notes and what is waited for to stderr."""

    def __init__(self, client: Client, key: Key) -> None:
        self._client = client
        self._name = f"gpujob/{key.name}"
        self._output = log_output.LogOutput(sys.stdout)
        self._progress = Progress()

    def show(self, piece: LogPiece) -> None:
        if isinstance(piece, LogBytes):
            self._progress.end()
            self._output.write(piece.data)
            return
        self._output.end()
        if isinstance(piece, LogAwaits):
            what = "to start" if piece.what == "start" else "to end"
            of = self._name if piece.what == "start" else f"the attempt of {self._name}"
            self._progress.say(f"waiting for {of} {what}: {piece.state}")
            return
        self._progress.end()
        if isinstance(piece, NobodyActs):
            then = "it starts" if piece.what == "start" else "how the attempt ended is told"
            context.note_if_no_daemon(then, self._client)
        else:
            terminal.note(_words(piece, self._name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._output.end()
        self._progress.end()


def _words(piece: ReplicaChosen | AttemptFollows | AttemptEnded | NothingWritten | NoneFollowed, job: str) -> str:
    match piece:
        case ReplicaChosen(replica, replicas):
            return f"This is replica {replica} of {replicas}; choose another with --replica 1 to {replicas - 1}."
        case AttemptFollows(attempt):
            return f"Attempt {attempt} of {job}:"
    said = log_streams.words(piece)
    return f"{said[0].upper()}{said[1:]}."
