"""`cumulus logs`: what a job's replica wrote."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

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
from cumulus.cli import context, log_output, options, targets, terminal
from cumulus.cli.progress import Progress
from cumulus.resources.kinds import gpujob

if TYPE_CHECKING:
    from cumulus.client.base import Client, Key


def logs(
    words: options.JobWords,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the log, attempt after attempt, until the job is over.")
    ] = False,
    attempt: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=0, help="Which attempt; the last if left out.")
    ] = 0,
    run: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=0, help="Of which run, if the job was rerun; the last.")
    ] = 0,
    replica: Annotated[
        int | None, typer.Option(metavar="N", min=0, show_default=False, help="Which replica of a gang; 0 if left out.")
    ] = None,
    tail: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=-1, help="Only the last N lines; -1 for all.")
    ] = -1,
    since: Annotated[
        str, typer.Option(metavar="DURATION", show_default=False, help="Only what was written in that time: 10m, 1h.")
    ] = "",
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Show when each line was written, in UTC.")] = False,
    namespace: options.Namespace = "",
) -> None:
    """Show what a job wrote to stdout and stderr.

    Logs stay until the job is deleted. On stderr you are told why an attempt wrote nothing, and how an attempt ended. A
    pipe gets exactly the bytes that the job wrote. A terminal gets line breaks, tabs, carriage returns, backspaces,
    colours and erase-in-line; all other control characters are shown as text.

    \b
    Examples:
      cumulus logs train
      cumulus logs train -f --tail 20
      cumulus logs job/train --attempt 1
      cumulus logs train --replica 3
      cumulus logs train --run 1
      cumulus logs train --since 10m --timestamps
    """
    target = targets.parse_one(words, default=gpujob.KIND)
    key, lines = targets.key(target, context.namespace(namespace)), tail if tail >= 0 else None
    with context.client() as client, _Shown(client, key) as shown:
        pieces = client.logs(
            key, attempt=attempt, replica=replica, follow=follow, tail=lines, since=_moment(since),
            timestamps=timestamps, run=run,
        )  # fmt: skip
        # Loaded once there is something to read, as the backend loads it too.
        from cumulus import log

        log.silence()
        for piece in pieces:
            shown.show(piece)


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
        case AttemptEnded(attempt, end, wrote=False):
            return f"Attempt {attempt} wrote nothing; it ended with {end}."
        case AttemptEnded(attempt, end):
            return f"Attempt {attempt} ended with {end}."
        case NothingWritten(attempt):
            return f"Attempt {attempt} has written nothing so far."
        case NoneFollowed(state):
            return f"No attempt followed: {state}."
