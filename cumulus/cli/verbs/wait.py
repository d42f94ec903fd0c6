"""`cumulus wait`: until something is true, the time is up, or it cannot come true any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus.cli import completion, context, options, targets
from cumulus.cli.progress import Progress
from cumulus.cli.targets import Selection, Target
from cumulus.client.base import StillWaiting
from cumulus.clock import SystemClock
from cumulus.errors import UsageError
from cumulus.resources.key import Key
from cumulus.resources.query import Query
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import Client

FAILED = 3
"""Exit code where what was waited for has ended, and not well."""
_PATIENCE = 2.0
"""Seconds of waiting after which a missing daemon is worth a word: one may just be starting."""


def wait(
    words: options.Words = None,
    goal: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="GOAL",
            autocompletion=completion.wait_conditions,
            show_default=False,
            help="condition=NAME[=STATUS], jsonpath='{.path}'[=VALUE], finished, create or delete.",
        ),
    ] = "",
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait at most; 0 looks once.")] = "30s",
    selector: options.Labels = "",
    field_selector: options.Fields = "",
    all: Annotated[bool, typer.Option("--all", help="All objects of the kind, and at least one.")] = False,
    namespace: options.Namespace = "",
    all_namespaces: options.AllNamespaces = False,
    filename: options.Files = None,
    recursive: options.Recursive = False,
) -> int:
    """Wait for a condition or a field of objects, or until they are created or deleted.

    The exit code is 0 when it is true for all of them. It is 1 when the time is up, and at once when it cannot become
    true any more, as for a job that has failed. `finished` waits for the end of jobs, good or bad: the exit code is 3
    where one of them has failed.

    \b
    Examples:
      cumulus wait gpujob/train --for=condition=Succeeded --timeout=1h
      cumulus wait node --all --for=condition=Ready
      cumulus wait jobs -l team=vision --for=jsonpath='{.status.phase}'=Running
      cumulus wait job/train --for=delete --timeout=60s
      cumulus wait jobs --all --for=finished --timeout=8h
      cumulus wait -f job.yaml --for=finished
    """  # fmt: skip
    if filename and words:
        raise UsageError("give either -f or what to wait for, not both")
    found = [] if filename else targets.parse(words or ())
    several = bool(all or selector or field_selector)
    if any(target.name is None for target in found) and not several:
        raise UsageError("name an object, or give --all or a selector", hint="as in: cumulus wait job/train …")
    if any(target.name is not None for target in found) and several:
        raise UsageError("names cannot be given together with --all or a selector")
    if not goal:
        raise UsageError("say what to wait for", hint="as in --for=condition=Succeeded or --for=delete")
    seconds = options.seconds_of(timeout, "--timeout")
    selection = Selection(None if all_namespaces else context.namespace(namespace), selector, field_selector)
    files = targets.keys_in(filename or (), recursive)
    with context.client(create=True) as client:
        failed = follow(client, [*files, *wanted(found, selection)], goal, seconds)
    return FAILED if failed else 0


def wanted(found: Sequence[Target], selection: Selection) -> list[Key | Query]:
    """The targets as the client takes them. Raises UsageError for a bad selector."""
    return [
        selection.query(target.kind) if target.name is None
        else targets.key(target, selection.namespace or "default")
        for target in found
    ]  # fmt: skip


def follow(
    client: Client, waited: Sequence[Key | Query], condition: str, seconds: float,
    uids: Mapping[Key, str] = MappingProxyType({}),
) -> bool:  # fmt: skip
    """Print a line for each object as it gets there; whether one of them has failed. Raises WaitTimedOut,
    ConditionUnreachable, NotFound."""
    steps = client.wait(waited, condition, seconds=seconds, uids=uids)
    clock = SystemClock()
    patience = clock.monotonic() + min(_PATIENCE, seconds)
    failed = False
    with Progress() as progress:
        for step in steps:
            if isinstance(step, StillWaiting):
                progress.say(str(step))
                if clock.monotonic() >= patience:
                    context.note_if_no_daemon("things change", client)
                    patience = float("inf")
            else:
                word = "deleted" if step.deleted else step.ended or "condition met"
                failed = failed or step.failed
                print(f"{BY_NAME[step.key.kind].qualified}/{step.key.name} {word}", flush=True)
    return failed
