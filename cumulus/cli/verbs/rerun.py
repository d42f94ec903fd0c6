"""`cumulus rerun`: a job made anew under its name, followed as `cumulus run` follows one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from cumulus.cli import attached, completion, confirm, context, options, set_fields, targets, terminal
from cumulus.errors import UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kinds import gpujob
from cumulus.resources.registry import BY_NAME, find_kind


def rerun(
    words: options.JobWords,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            autocompletion=completion.settings,
            show_default=False,
            help="Change a field of it: spec.args='--lr 0.1', spec.gpu.duration=2h. May be given several times.",
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            "-e",
            metavar="NAME[=VALUE]",
            show_default=False,
            help="Set a variable, or pass on this shell's. Its other variables stay.",
        ),
    ] = None,
    from_checkpoint: Annotated[
        bool, typer.Option("--from-checkpoint", help="Go on from what it saved last, instead of from the beginning.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a running job is ended.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not follow it.")] = False,
    namespace: options.Namespace = "",
) -> int | None:
    """Run a job again: make it anew under its name, and follow it.

    What runs of it is ended first, as `delete` ends it: with a checkpoint, if it keeps any. The logs and files of its
    earlier runs stay until spec.ttlAfterFinished of each is over, or the job is deleted: see `cumulus logs --run 1`.

    \b
    Examples:
      cumulus rerun train
      cumulus rerun train --set spec.args='--lr 0.1 --epochs 20' --set spec.gpu.memory=50%
      cumulus rerun train -e SEED=7 -d
      cumulus rerun train --from-checkpoint --set spec.gpu.duration=4h
    """  # fmt: skip
    _check_name_alone(words or ())
    key = targets.job_key(words, namespace, "only jobs can be run again, not")
    patch = set_fields.patch_of(gpujob.KIND, settings or ())
    if other := sorted(patch.keys() - {"spec"}):
        raise UsageError(f"--set: {other[0]} stays as it is", hint="see `cumulus label` and `cumulus annotate`")
    with context.client() as client:
        context.check_daemon(client)
        job = client.get(key)
        if not yes and not _agreed(job):
            terminal.note("Nothing was changed.")
            return 1
        changes = {**patch.get("spec", {}), **_with_env(job, env or ())}
        made = client.rerun(key, changes=changes or None, from_checkpoint=from_checkpoint, uid=job["metadata"]["uid"])
    number = made["status"]["run"]
    print(f"{gpujob.KIND.qualified}/{key.name} is run {number}", flush=True)
    terminal.note(f"The log of the run before: cumulus logs {key.name} --run {number - 1}")
    return None if detach else attached.attach(key, made["metadata"]["uid"])


def _check_name_alone(words: Sequence[str]) -> None:
    """Raises UsageError where a command follows, as it does with `run`."""
    with suppress(UsageError):
        if len(words) == 1 or (len(words) == 2 and find_kind(words[0])):
            return
    if words:
        raise UsageError(
            "only a job's name is taken",
            hint="what it runs is changed by --set spec.args='--lr 0.1', or --set spec.command=…",
        )


def _agreed(job: Document) -> bool:
    """Whether what runs may be ended. Only who sits at a terminal is asked."""
    if gpujob.running_attempt(job) is None or BY_NAME[job["kind"]].over(job) or not confirm.possible():
        return True
    from cumulus.clock import SystemClock

    lost = gpujob.unsaved(job, SystemClock().now())
    loses = f" It would lose {lost}." if lost else ""
    return confirm.confirmed(f"gpujob/{job['metadata']['name']} still runs.{loses} End it and run it again?")


def _with_env(job: Document, given: list[str] | tuple[str, ...]) -> Document:
    """The variables of the job with those that are given; empty where none is."""
    if not given:
        return {}
    from cumulus.cli import command_job

    new = dict(command_job.given(text, os.environ, "-e") for text in given)
    kept = [each for each in lookup(job, "spec.env") or () if each["name"] not in new]
    return {"env": [*kept, *({"name": name, "value": value} for name, value in new.items())]}
