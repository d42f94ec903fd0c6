"""Small changes to objects: suspend, resume, park, unpark, cordon, uncordon, label, annotate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cumulus.cli import completion, context, drains, options, targets, terminal
from cumulus.cli.targets import Selection, Target
from cumulus.errors import (
    AlreadySet,
    Conflict,
    Forbidden,
    InvalidObject,
    JobFinished,
    NotFound,
    NotRunning,
    UsageError,
)
from cumulus.resources.key import Key
from cumulus.resources.kind import Kind
from cumulus.resources.kinds import gpucronjob, gpujob, gpujobarray, gpunode
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import Client


Some = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="JOB…",
        help="Jobs: NAME… or job/NAME…; cron jobs: cronjob/NAME….",
        autocompletion=completion.jobs,
        show_default=False,
    ),
]
SomeJobs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="JOB…", help="Jobs: NAME… or job/NAME….", autocompletion=completion.jobs, show_default=False
    ),
]
SomeNodes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NODE…", help="Nodes: NAME… or node/NAME….", autocompletion=completion.nodes, show_default=False
    ),
]
All = Annotated[bool, typer.Option("--all", help="All of them in the namespace.")]


def suspend(
    words: Some = None,
    park: Annotated[
        bool, typer.Option("--park", help="Keep programs in main memory instead; stop only those that can't be.")
    ] = False,
    selector: options.Labels = "",
    all: All = False,
    namespace: options.Namespace = "",
) -> int:
    """Stop jobs and give their leases back. Nothing of them runs until they are resumed. A cron job that is suspended
    makes no more jobs.

    \b
    Examples:
      cumulus suspend train
      cumulus suspend train eval -n research
      cumulus suspend -l team=vision
      cumulus suspend --park train
      cumulus suspend cronjob/nightly
    """
    return _suspend(words or (), selector, all, namespace, suspended=True, park=park)


def resume(
    words: Some = None, selector: options.Labels = "", all: All = False, namespace: options.Namespace = ""
) -> int:
    """Let suspended jobs run again, as a new attempt each.

    \b
    Examples:
      cumulus resume train
      cumulus resume --all
      cumulus resume cronjob/nightly
    """
    return _suspend(words or (), selector, all, namespace, suspended=False)


def park(
    words: SomeJobs = None,
    park_for: Annotated[
        str,
        typer.Option(
            "--for", metavar="DURATION", show_default=False,
            help="How long at most: 8h. After that the program is ended. If left out, a day, or what the job says.",
        ),
    ] = "",
    selector: options.Labels = "", all: All = False, namespace: options.Namespace = "",
) -> int:  # fmt: skip
    """Free the GPU of running jobs: their programs wait in main memory, with all that they had on the GPU.

    A program need not know of it. It holds no share until `cumulus unpark` brings it back to its GPU, where it waits
    for its turn like others. A notebook answers meanwhile; what it asks of the GPU waits. Not every program can be
    parked: the node looks first, and one that it refuses goes on. `cumulus why JOB` then says the reason.

    \b
    Examples:
      cumulus park notebook
      cumulus park train eval --for 8h
      cumulus park -l team=vision
    """
    return _park(words or (), selector, all, namespace, parked=True, park_for=park_for)


def unpark(
    words: SomeJobs = None, selector: options.Labels = "", all: All = False, namespace: options.Namespace = ""
) -> int:
    """Bring parked jobs back to their GPUs. They wait for their share there, as in a queue.

    \b
    Examples:
      cumulus unpark notebook
      cumulus unpark --all
    """
    return _park(words or (), selector, all, namespace, parked=False)


def cordon(words: SomeNodes = None, selector: options.Labels = "", all: All = False) -> int:
    """Stop placing new jobs on nodes. What runs there goes on.

    \b
    Examples:
      cumulus cordon gpu-3
      cumulus cordon -l rack=7
    """
    return _cordon(words or (), selector, all, unschedulable=True)


def uncordon(words: SomeNodes = None, selector: options.Labels = "", all: All = False) -> int:
    """Place jobs on nodes again. A drain (`cumulus drain NODE --at`) that has begun is over with it.

    \b
    Examples:
      cumulus uncordon gpu-3
    """
    return _cordon(words or (), selector, all, unschedulable=False)


Pairs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="WHAT… KEY=VALUE…",
        help="KIND NAME or KIND/NAME, then KEY=VALUE or KEY-.",
        autocompletion=completion.words,
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Change a key that already has another value.")]


def label(
    words: Pairs = None, overwrite: Overwrite = False, selector: options.Labels = "", all: All = False,
    namespace: options.Namespace = "",
) -> int:  # fmt: skip
    """Set labels with KEY=VALUE, or remove them with KEY-.

    \b
    Examples:
      cumulus label job train team=vision
      cumulus label job train eval team=vision
      cumulus label jobs -l team=vision keep=yes
      cumulus label job/train team=audio --overwrite
      cumulus label node gpu-3 rack-
    """
    from cumulus.resources.fields import check_label_key, check_label_value

    pairs = _pairs(words or (), "labels", check_label_key, check_label_value)
    return _set_pairs(words or (), pairs, namespace, selector, all, overwrite, "labels")


def annotate(
    words: Pairs = None, overwrite: Overwrite = False, selector: options.Labels = "", all: All = False,
    namespace: options.Namespace = "",
) -> int:  # fmt: skip
    """Set annotations with KEY=VALUE, or remove them with KEY-.

    \b
    Examples:
      cumulus annotate job train note='long run'
      cumulus annotate job/train note-
    """
    from cumulus.resources.fields import check_label_key

    pairs = _pairs(words or (), "annotations", check_label_key, str)
    return _set_pairs(words or (), pairs, namespace, selector, all, overwrite, "annotations")


def _suspend(
    words: Sequence[str], selector: str, all: bool, namespace: str, *, suspended: bool, park: bool = False
) -> int:
    done, found = (
        "suspended" if suspended else "resumed",
        _of_kind(words, (gpujob.KIND, gpucronjob.KIND, gpujobarray.KIND), bool(selector or all)),
    )
    with context.client() as client:
        selection = Selection(context.namespace(namespace), selector)
        code, changed = _each(
            client, found, selection, done, f"already {done}",
            lambda key: client.suspend(key, suspended=suspended, park=park),
        )  # fmt: skip
        if changed:
            context.note_if_no_daemon("this takes effect", client)
    return code


def _park(words: Sequence[str], selector: str, all: bool, namespace: str, *, parked: bool, park_for: str = "") -> int:
    if park_for:
        options.seconds_of(park_for, "--for")
    done, otherwise = ("is to be parked", "is to be parked already") if parked else ("comes back", "is not parked")
    found = _of_kind(words, (gpujob.KIND,), bool(selector or all))
    with context.client() as client:
        selection = Selection(context.namespace(namespace), selector)
        code, changed = _each(
            client, found, selection, done, otherwise,
            lambda key: client.park(key, parked=parked, park_for=park_for),
        )  # fmt: skip
        if changed:
            context.note_if_no_daemon("this takes effect", client)
    return code


def _cordon(words: Sequence[str], selector: str, all: bool, *, unschedulable: bool) -> int:
    done, found = "cordoned" if unschedulable else "uncordoned", _of_kind(words, (gpunode.KIND,), bool(selector or all))
    with context.client() as client:
        return _each(
            client, found, Selection(None, selector), done, f"already {done}",
            lambda key: _cordoned(client, key.name, unschedulable),
        )[0]  # fmt: skip


def _cordoned(client: Client, node: str, unschedulable: bool) -> bool:
    changed = client.cordon(node, unschedulable=unschedulable)
    return (not unschedulable and drains.ended_by_uncordon(client, node)) or changed


def _each(
    client: Client, found: Sequence[Target], selection: Selection, done: str, otherwise: str,
    change: Callable[[Key], bool],
) -> tuple[int, int]:  # fmt: skip
    """Change each, whatever becomes of the others. The exit code, and how many were changed."""
    code = changed = seen = 0
    for key in list(targets.keys(client, found, selection)):
        seen += 1
        try:
            was = change(key)
        except (NotFound, JobFinished, NotRunning, InvalidObject, AlreadySet, Forbidden, Conflict) as error:
            terminal.error(error)
            code = 1
            continue
        changed += was
        print(f"{BY_NAME[key.kind].qualified}/{key.name} {done if was else otherwise}", flush=True)
    if not seen:
        terminal.note("No resources found.")
    return code, changed


def _of_kind(words: Sequence[str], kinds: Sequence[Kind], several: bool) -> list[Target]:
    found = targets.parse_some(words, default=kinds[0])
    targets.check_named(found, several=several)
    if wrong := next((target for target in found if target.kind not in kinds), None):
        names = " or a ".join(kind.name for kind in kinds)
        raise UsageError(f"this is for a {names}, not for a {wrong.kind.name}")
    return found


def _is_pair(word: str) -> bool:
    return "=" in word or word.endswith("-")


def _pairs(
    words: Sequence[str], field: str, check_key: Callable[[str], str], check_value: Callable[[str], str]
) -> dict[str, str | None]:
    given = [word for word in words if _is_pair(word)]
    if not given:
        raise UsageError(f"give {field} as KEY=VALUE, or KEY- to remove one")
    wanted: dict[str, str | None] = {}
    for word in given:
        key, equals, value = word.partition("=")
        try:
            wanted[check_key(key if equals else key.removesuffix("-"))] = check_value(value) if equals else None
        except ValueError as error:
            raise UsageError(str(error)) from None
    return wanted


def _set_pairs(
    words: Sequence[str], wanted: Mapping[str, str | None], namespace: str, selector: str, all: bool, overwrite: bool,
    field: Literal["labels", "annotations"],
) -> int:  # fmt: skip
    found = targets.parse([word for word in words if not _is_pair(word)])
    targets.check_named(found, several=bool(selector or all))
    with context.client() as client:
        change, done = {
            "labels": (client.set_labels, "labeled"),
            "annotations": (client.set_annotations, "annotated"),
        }[field]
        selection = Selection(context.namespace(namespace), selector)
        return _each(
            client, found, selection, done, "unchanged",
            lambda key: change(key, wanted, overwrite=overwrite),
        )[0]  # fmt: skip
