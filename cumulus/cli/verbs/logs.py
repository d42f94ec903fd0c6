"""`cumulus logs`: what a job's replica wrote, from the backend that ran it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Annotated

import typer

from cumulus import daemon_lock, paths
from cumulus.backends.base import Backend
from cumulus.cli import context, log_output, options, targets, terminal
from cumulus.cli.progress import Progress
from cumulus.clock import SystemClock
from cumulus.errors import CumulusError, NotFound, UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.wait_conditions import phase_summary
from cumulus.store.base import Store

_PATIENCE = 2.0
"""Seconds for the controllers to write down that an attempt ended; a missing daemon does not."""


class NoLog(CumulusError):
    """There is nothing to show."""


def logs(
    words: options.JobWords,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is over, from each attempt to the next.")
    ] = False,
    attempt: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=0, help="Which attempt; the last if left out.")
    ] = 0,
    replica: Annotated[
        int | None, typer.Option(metavar="N", min=0, show_default=False, help="Which replica of a gang; 0 if left out.")
    ] = None,
    tail: Annotated[
        int, typer.Option(metavar="N", show_default=False, min=-1, help="Only the last N lines; -1 for all.")
    ] = -1,
    namespace: options.Namespace = "default",
) -> None:
    """Show what a job wrote to stdout and stderr.

    Logs stay until the job is deleted. Why an attempt wrote nothing, and how one ended, is said on stderr. A pipe gets
    the bytes that the job wrote; a terminal obeys of them line breaks, tabs, carriage return, backspace, colours and
    erase in line, and shows all other control characters as text.

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
    lines = tail if tail >= 0 else None
    with context.open_store() as store:
        job = Objects(store, SystemClock()).get(Identity.of_this_process(), targets.key(target, namespace))
        replicas = lookup(job, "spec.replicas") or 1
        if replica is not None and replica >= replicas:
            raise UsageError(f"{target} has {replicas} replicas, counted from 0: there is no replica {replica}")
        if replica is None and replicas > 1:
            terminal.note(f"This is replica 0 of {replicas}; choose another with --replica 1 to {replicas - 1}.")
        if follow:
            _Follower(store, targets.key(target, namespace), job, replica or 0).run(attempt, lines)
            return
        number = _attempt(job, attempt)
        if not _copy(job, number, replica or 0, follow=False, tail=lines) and lines != 0:
            terminal.note(_silence(job, number))


def _begun(job: Document) -> list[int]:
    """The numbers of the attempts that have a process, as far as the status remembers."""
    return [a["number"] for a in lookup(job, "status.attempts") or () if a.get("startTime")]


def _attempt(job: Document, asked: int) -> int:
    """The attempt to show. Raises NoLog, with why there is none."""
    begun = _begun(job)
    name = f"gpujob/{job['metadata']['name']}"
    if not begun and _over(job):
        raise NoLog(f"{name} never started: {_why_not(job)}")
    if not begun:
        raise NoLog(
            f"{name} has not started yet: {phase_summary(job)}",
            hint=f"see `cumulus why {job['metadata']['name']}`",
        )
    if asked > begun[-1]:
        raise NoLog(f"{name} has started {begun[-1]} attempts: there is no log of an attempt {asked}")
    if asked and asked not in begun and (attempt := _of(job, asked)):
        raise NoLog(f"attempt {asked} of {name} never started: {_end(attempt)}")
    return asked or begun[-1]


def _why_not(job: Document) -> str:
    """Why a job that is over never started: how its last attempt ended, or what its condition says."""
    ended = [a for a in lookup(job, "status.attempts") or () if a.get("endTime")]
    return f"attempt {ended[-1]['number']} ended with {_end(ended[-1])}" if ended else phase_summary(job)


def _over(job: Document) -> bool:
    return lookup(job, "status.phase") in ("Succeeded", "Failed")


def _of(job: Document, number: int) -> Document:
    """The attempt, empty where the status has forgotten it."""
    return next((dict(a) for a in lookup(job, "status.attempts") or () if a.get("number") == number), {})


def _end(attempt: Document) -> str:
    """How it ended: `Error, exit code 3`, `StartError: there is no program tarin`."""
    code, message = attempt.get("exitCode"), attempt.get("message")
    said = (attempt.get("reason") or "no reason") + (f", exit code {code}" if code else "")
    return f"{said}: {message}" if message and message != f"ended with exit code {code}" else said


def _silence(job: Document, number: int) -> str:
    attempt = _of(job, number)
    if attempt.get("endTime"):
        return f"Attempt {number} wrote nothing; it ended with {_end(attempt)}."
    return f"Attempt {number} has written nothing so far."


class _Follower:
    """Copies the log of one attempt after another, until the job is over."""

    def __init__(self, store: Store, key: Key, job: Document, replica: int) -> None:
        self._store = store
        self._key = key
        self._job = job
        self._replica = replica

    def run(self, asked: int, tail: int | None) -> None:
        """The attempt `asked` alone; where that is 0, the last one and all that follow it. Raises NoLog."""
        if not _begun(self._job):
            context.note_if_no_daemon("it starts")
            self._until(partial(self._followed, 0))
        number = _attempt(self._job, asked)
        while True:
            wrote = _copy(self._job, number, self._replica, follow=True, tail=tail)
            if not self._until(partial(self._ended, number), patience=_PATIENCE):
                context.note_if_no_daemon("how the attempt ended is told")
                return
            attempt = _of(self._job, number)
            if not wrote and tail != 0:
                terminal.note(_silence(self._job, number))
            elif attempt.get("reason") != "Completed":
                terminal.note(f"Attempt {number} ended with {_end(attempt)}.")
            if asked or (_over(self._job) and not self._later(number)):
                return
            self._until(partial(self._followed, number))
            later = self._later(number)
            if not later:
                terminal.note(f"No attempt followed: {phase_summary(self._job)}.")
                return
            number, tail = later[0], None
            terminal.note(f"Attempt {number} of gpujob/{self._key.name}:")

    def _later(self, number: int) -> list[int]:
        return [begun for begun in _begun(self._job) if begun > number]

    def _followed(self, number: int) -> bool:
        return bool(self._later(number)) or _over(self._job)

    def _ended(self, number: int) -> bool:
        attempt = _of(self._job, number)
        return not attempt or bool(attempt.get("endTime")) or _over(self._job)

    def _until(self, come: Callable[[], bool], *, patience: float | None = None) -> bool:
        """Follow the job until `come` is true. False where `patience` is over and no daemon is there to make it so.
        Raises NoLog where the job is deleted."""
        with Progress() as progress:
            watch = self._store.watch(since=self._store.revision(), kinds=frozenset({self._key.kind}))
            try:
                self._seen(self._read())
                while not come():
                    if patience is None:
                        progress.say(f"waiting for gpujob/{self._key.name} to start: {phase_summary(self._job)}")
                    events = watch.next(timeout=patience)
                    for event in events:
                        if event.key == self._key:
                            self._seen(None if event.type == "DELETED" else event.document)
                    if events or patience is None:
                        continue
                    if daemon_lock.daemon_pid(paths.home()) is None:
                        return False
                    # Other replicas of the gang may go on for long.
                    progress.say(
                        f"waiting for the attempt of gpujob/{self._key.name} to end: {phase_summary(self._job)}"
                    )
                return True
            finally:
                watch.close()

    def _read(self) -> Document | None:
        try:
            return self._store.get(self._key)
        except NotFound:
            return None

    def _seen(self, job: Document | None) -> None:
        if job is None or job["metadata"]["uid"] != self._job["metadata"]["uid"]:
            raise NoLog(f"gpujob/{self._key.name} was deleted")
        self._job = job


def _copy(job: Document, attempt: int, replica: int, *, follow: bool, tail: int | None) -> bool:
    """Write the log to stdout; whether there was any."""
    backend = _backend(job, _node(job, attempt, replica))
    try:
        log = _Counted(backend.logs(job["metadata"]["uid"], attempt, replica, follow=follow, tail=tail))
        log_output.copy(log, sys.stdout)
        return log.size > 0
    finally:
        backend.close()


class _Counted:
    """Chunks, and how many bytes they had."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


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
