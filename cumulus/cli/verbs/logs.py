"""`cumulus logs`: what a job's replica wrote, from the backend that ran it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cumulus import paths
from cumulus.backends.base import Backend
from cumulus.cli import context, options, targets
from cumulus.cli.columns import lookup
from cumulus.cli.goals import summary
from cumulus.cli.progress import Progress
from cumulus.cli.targets import Target
from cumulus.errors import CumulusError, UsageError
from cumulus.resources.key import Document, Key
from cumulus.store.base import Store


class NoLog(CumulusError):
    """There is nothing to show."""


def logs(
    words: options.JobWords,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the attempt ends.")] = False,
    attempt: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=0, help="Which attempt; the last if left out.")
    ] = 0,
    replica: Annotated[int, typer.Option(metavar="N", min=0, help="Which replica of a gang.")] = 0,
    tail: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=-1, help="Only the last N lines; -1 for all.")
    ] = -1,
    namespace: options.Namespace = "default",
) -> None:
    """Show what a job wrote to stdout and stderr.

    Logs stay until the job is deleted.

    \b
    Examples:
      cumulus logs train
      cumulus logs train -f --tail 20
      cumulus logs job/train --attempt 1
      cumulus logs train --replica 3
    """
    target = targets.parse_one(words, default="GPUJob")
    if target.kind.name != "GPUJob":
        raise UsageError(f"only jobs have logs, not a {target.kind.name}")
    with context.open_store() as store:
        job = targets.one(store, target, namespace)
        if follow and not _begun(job):
            job = _started(store, target, namespace)
    number = _attempt(job, attempt)
    replicas = lookup(job, "spec.replicas") or 1
    if replica >= replicas:
        raise UsageError(f"{target} has {replicas} replicas, counted from 0: there is no replica {replica}")
    _copy(job, number, replica, follow=follow, tail=tail if tail >= 0 else None)


def _begun(job: Document) -> list[int]:
    """The numbers of the attempts that have a process, as far as the status remembers."""
    return [a["number"] for a in lookup(job, "status.attempts") or () if a.get("startTime")]


def _attempt(job: Document, asked: int) -> int:
    begun = _begun(job)
    name = f"gpujob/{job['metadata']['name']}"
    if not begun:
        raise NoLog(f"{name} has not started yet: {summary(job)}", hint=f"see `cumulus why {job['metadata']['name']}`")
    if asked > begun[-1]:
        raise NoLog(f"{name} has started {begun[-1]} attempts: there is no log of an attempt {asked}")
    return asked or begun[-1]


def _started(store: Store, target: Target, namespace: str) -> Document:
    """The job once an attempt has started. Raises NotFound, NoLog."""
    context.note_if_no_daemon("it starts")
    key: Key = targets.key(target, namespace)
    with Progress() as progress:
        watch = store.watch(since=store.revision(), kinds=frozenset({key.kind}))
        try:
            job = targets.one(store, target, namespace)
            while not _begun(job):
                if lookup(job, "status.phase") in ("Succeeded", "Failed"):
                    raise NoLog(f"{target} never started: {summary(job)}")
                progress.say(f"waiting for {target} to start: {summary(job)}")
                for event in watch.next():
                    if event.key == key:
                        job = event.document
                        if event.type == "DELETED":
                            raise NoLog(f"{target} was deleted")
            return job
        finally:
            watch.close()


def _copy(job: Document, attempt: int, replica: int, *, follow: bool, tail: int | None) -> None:
    backend = _backend(job, _node(job, attempt, replica))
    try:
        for chunk in backend.logs(job["metadata"]["uid"], attempt, replica, follow=follow, tail=tail):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    finally:
        backend.close()


def _backend(job: Document, node: str) -> Backend:
    """The one that ran the job. Raises NoLog where it ran nothing with this state directory."""
    home = paths.home()
    container = lookup(job, "spec.image")
    directory = paths.swarm_dir(home) if container else paths.process_dir(home)
    if not directory.exists():
        raise NoLog(f"there are no logs in {directory}", hint="the job ran with another CUMULUS_HOME")
    if container:
        from cumulus.cli import swarm

        return swarm.reader(home)
    from cumulus.backends.process.backend import ProcessBackend
    from cumulus.secrets import SecretStore

    return ProcessBackend(directory, node, SecretStore(paths.secrets_dir(home)))


def _node(job: Document, attempt: int, replica: int) -> str:
    for made in lookup(job, "status.attempts") or ():
        if made.get("number") == attempt:
            nodes = made.get("nodes") or [made.get("node", "")]
            return str(nodes[min(replica, len(nodes) - 1)])
    return ""
