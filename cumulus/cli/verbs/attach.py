"""`cumulus attach`: follow a job again, until it is over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cumulus.cli import console, context, feeding, followed, options, targets, terminal, this_shell
from cumulus.errors import UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.registry import BY_NAME


def attach(
    words: options.JobWords,
    tail: Annotated[
        str, typer.Option("--tail", metavar="N", show_default=False, help="Only the last N lines of what was written.")
    ] = "",
    stdin: Annotated[
        bool, typer.Option("--stdin", "-i", help="Pass this command's input on to a job that waits for one.")
    ] = False,
    sync: Annotated[
        bool, typer.Option("--sync", help="Of a job of `run --sync`: bring what it changed into this directory.")
    ] = False,
    sync_limit: Annotated[
        str,
        typer.Option("--sync-limit", metavar="SIZE", show_default=False, help="At most so much; 256Mi if left out."),
    ] = "",
    namespace: options.Namespace = "",
) -> int:
    """Follow a job until it is over, and end with its exit code.

    As `cumulus run` does: it shows the log of the last attempt and of those that follow, Ctrl-C leaves the job alone,
    and Ctrl-C twice ends it. A job at a terminal (`cumulus run -it`) is joined at it: Ctrl-P Ctrl-Q leaves it alone. A
    job that is parked comes back to its GPU.

    \b
    Examples:
      cumulus attach train
      cumulus attach job/train --tail 20
      cumulus attach -i reads < data.txt
      cumulus attach --sync train-x7k2p
    """
    key = targets.job_key(words, namespace, "only jobs can be attached to, not")
    lines = options.count(tail, "--tail", 0) if tail else None
    if sync_limit and not sync:
        raise UsageError("--sync-limit is for --sync", hint="leave it out, or add --sync")
    most = followed.most(sync_limit) if sync else 0
    directory = Path(this_shell.directory()) if sync else None
    with context.client() as client:
        job = client.get(key)
        if sync and (lookup(job, "spec.workingDir") or lookup(job, "spec.image")):
            raise UsageError(
                f"gpujob/{key.name} has no directory of its own here that could come back",
                hint="it was made without `cumulus run --sync`",
            )
        if lookup(job, "status.phase") == "Parked" and client.park(key, parked=False):
            terminal.note(f"gpujob/{key.name} is parked; it comes back to its GPU.")
    uid = job["metadata"]["uid"]
    if stdin and not (lookup(job, "spec.stdin") or lookup(job, "spec.tty")):
        raise UsageError(f"gpujob/{key.name} waits for no input", hint="it was made without `cumulus run -i`")
    if lookup(job, "spec.tty") and not BY_NAME[key.kind].over(job) and sys.stdin is not None and sys.stdin.isatty():
        return console.attach(key, uid)
    feeder = feeding.Feeder(key) if stdin and lookup(job, "spec.stdin") else None
    code = followed.follow(key, uid, feeder, tail=lines)
    return code if directory is None else followed.bring_back(code, key, directory, most)
