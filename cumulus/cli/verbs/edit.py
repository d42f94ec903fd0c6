"""Small changes to one object: suspend, resume, cordon, uncordon, label, annotate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from cumulus.cli import context, options, targets
from cumulus.cli.targets import Target
from cumulus.errors import Conflict, CumulusError, UsageError
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, key_of
from cumulus.store.base import Store

_ATTEMPTS = 10

Change = Callable[[Document], Document]
"""The changed object; the given one itself where there is nothing to change."""


class Refused(CumulusError):
    """The object is past such a change."""


def suspend(words: options.JobWords, namespace: options.Namespace = "default") -> None:
    """Hold a job: it is ended, its lease is given back, and nothing runs until it is resumed.

    \b
    Examples:
      cumulus suspend train
      cumulus suspend job/train -n research
    """
    _job(words, namespace, suspended=True)


def resume(words: options.JobWords, namespace: options.Namespace = "default") -> None:
    """Let a suspended job run again, as a new attempt.

    \b
    Examples:
      cumulus resume train
    """
    _job(words, namespace, suspended=False)


def cordon(words: options.NodeWords) -> None:
    """Place nothing new on a node. What runs there goes on.

    \b
    Examples:
      cumulus cordon gpu-3
    """
    _node(words, unschedulable=True)


def uncordon(words: options.NodeWords) -> None:
    """Place jobs on a node again.

    \b
    Examples:
      cumulus uncordon gpu-3
    """
    _node(words, unschedulable=False)


Pairs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="WHAT… KEY=VALUE…", show_default=False, help="KIND NAME or KIND/NAME, then KEY=VALUE or KEY-."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Change a key that has another value already.")]


def label(words: Pairs = None, overwrite: Overwrite = False, namespace: options.Namespace = "default") -> None:
    """Set labels with KEY=VALUE, remove them with KEY-.

    \b
    Examples:
      cumulus label job train team=vision
      cumulus label job/train team=audio --overwrite
      cumulus label node gpu-3 rack-
    """
    from cumulus.resources.fields import check_label_key, check_label_value

    _pairs(words or (), namespace, overwrite, "labels", check_label_key, check_label_value)


def annotate(words: Pairs = None, overwrite: Overwrite = False, namespace: options.Namespace = "default") -> None:
    """Set annotations with KEY=VALUE, remove them with KEY-.

    \b
    Examples:
      cumulus annotate job train note='long run'
      cumulus annotate job/train note-
    """
    from cumulus.resources.fields import check_label_key

    _pairs(words or (), namespace, overwrite, "annotations", check_label_key, str)


def _job(words: Sequence[str], namespace: str, *, suspended: bool) -> None:
    target = _of_kind(words, "GPUJob")
    word = "suspended" if suspended else "resumed"

    def change(job: Document) -> Document:
        phase = lookup(job, "status.phase")
        if phase in ("Succeeded", "Failed"):
            raise Refused(f"{target} is over ({phase}) and cannot be {word}")
        return _set_spec(job, "suspend", suspended)

    with context.open_store() as store:
        changed = edit(store, target, namespace, change)
    print(f"{target.kind.qualified}/{target.name} {word if changed else f'already {word}'}")
    if changed:
        context.note_if_no_daemon("this takes effect")


def _node(words: Sequence[str], *, unschedulable: bool) -> None:
    target = _of_kind(words, "GPUNode")
    word = "cordoned" if unschedulable else "uncordoned"
    with context.open_store() as store:
        changed = edit(store, target, "", lambda node: _set_spec(node, "unschedulable", unschedulable))
    print(f"{target.kind.qualified}/{target.name} {word if changed else f'already {word}'}")


def _of_kind(words: Sequence[str], kind: str) -> Target:
    target = targets.parse_one(words, default=kind)
    if target.kind.name != kind:
        raise UsageError(f"this is for a {kind}, not for a {target.kind.name}")
    return target


def _set_spec(document: Document, field: str, value: object) -> Document:
    spec = document.get("spec") or {}
    if (spec.get(field) or False) == value:
        return document
    return {**document, "spec": {**spec, field: value}}


def edit(store: Store, target: Target, namespace: str, change: Change) -> bool:
    """Read, change, write; again when another was faster. Whether there was something to change."""
    for _ in range(_ATTEMPTS):
        found = targets.one(store, target, namespace)
        changed = change(found)
        if changed is found:
            return False
        try:
            store.update(changed)
            return True
        except Conflict:
            continue
    raise Conflict(f"{target} keeps changing", hint="try again")


def _pairs(
    words: Sequence[str],
    namespace: str,
    overwrite: bool,
    field: str,
    check_key: Callable[[str], str],
    check_value: Callable[[str], str],
) -> None:
    named = [word for word in words if "=" not in word and not word.endswith("-")]
    given = [word for word in words if word not in named]
    if not given:
        raise UsageError(f"give {field} as KEY=VALUE, or KEY- to remove one")
    wanted: dict[str, str | None] = {}
    for word in given:
        key, equals, value = word.partition("=")
        try:
            wanted[check_key(key if equals else key.removesuffix("-"))] = check_value(value) if equals else None
        except ValueError as error:
            raise UsageError(str(error)) from None
    with context.open_store() as store:
        for target in targets.parse(named):
            if target.name is None:
                raise UsageError("name the object", hint="as KIND NAME or KIND/NAME")
            changed = edit(store, target, namespace, lambda d: _with_pairs(d, field, wanted, overwrite))
            word = {"labels": "labeled", "annotations": "annotated"}[field]
            print(f"{target.kind.qualified}/{target.name} {word if changed else 'unchanged'}")


def _with_pairs(document: Document, field: str, wanted: dict[str, str | None], overwrite: bool) -> Document:
    before = document["metadata"].get(field) or {}
    taken = [k for k, v in wanted.items() if v is not None and k in before and before[k] != v]
    if taken and not overwrite:
        raise Refused(f"{key_of(document)} has {taken[0]}={before[taken[0]]} already", hint="give --overwrite")
    after = {k: v for k, v in {**before, **wanted}.items() if v is not None}
    if after == before:
        return document
    return {**document, "metadata": {**document["metadata"], field: after}}
