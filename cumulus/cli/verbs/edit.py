"""Small changes to one object: suspend, resume, cordon, uncordon, label, annotate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import typer

from cumulus.cli import context, options, targets
from cumulus.cli.targets import Target
from cumulus.errors import UsageError
from cumulus.resources.kind import Kind
from cumulus.resources.kinds import gpujob, gpunode


def suspend(words: options.JobWords, namespace: options.Namespace = "") -> None:
    """Stop a job and give its lease back. Nothing of it runs until it is resumed.

    \b
    Examples:
      cumulus suspend train
      cumulus suspend job/train -n research
    """
    _suspend(words, namespace, suspended=True)


def resume(words: options.JobWords, namespace: options.Namespace = "") -> None:
    """Let a suspended job run again, as a new attempt.

    \b
    Examples:
      cumulus resume train
    """
    _suspend(words, namespace, suspended=False)


def cordon(words: options.NodeWords) -> None:
    """Stop placing new jobs on a node. What runs there goes on.

    \b
    Examples:
      cumulus cordon gpu-3
    """
    _cordon(words, unschedulable=True)


def uncordon(words: options.NodeWords) -> None:
    """Place jobs on a node again.

    \b
    Examples:
      cumulus uncordon gpu-3
    """
    _cordon(words, unschedulable=False)


Pairs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="WHAT… KEY=VALUE…", show_default=False, help="KIND NAME or KIND/NAME, then KEY=VALUE or KEY-."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Change a key that already has another value.")]


def label(words: Pairs = None, overwrite: Overwrite = False, namespace: options.Namespace = "") -> None:
    """Set labels with KEY=VALUE, or remove them with KEY-.

    \b
    Examples:
      cumulus label job train team=vision
      cumulus label job/train team=audio --overwrite
      cumulus label node gpu-3 rack-
    """
    from cumulus.resources.fields import check_label_key, check_label_value

    _set_pairs(words or (), namespace, overwrite, "labels", check_label_key, check_label_value)


def annotate(words: Pairs = None, overwrite: Overwrite = False, namespace: options.Namespace = "") -> None:
    """Set annotations with KEY=VALUE, or remove them with KEY-.

    \b
    Examples:
      cumulus annotate job train note='long run'
      cumulus annotate job/train note-
    """
    from cumulus.resources.fields import check_label_key

    _set_pairs(words or (), namespace, overwrite, "annotations", check_label_key, str)


def _suspend(words: Sequence[str], namespace: str, *, suspended: bool) -> None:
    target = _of_kind(words, gpujob.KIND)
    word = "suspended" if suspended else "resumed"
    with context.client() as client:
        changed = client.suspend(targets.key(target, context.namespace(namespace)), suspended=suspended)
        print(f"{target.kind.qualified}/{target.name} {word if changed else f'already {word}'}")
        if changed:
            context.note_if_no_daemon("this takes effect", client)


def _cordon(words: Sequence[str], *, unschedulable: bool) -> None:
    target = _of_kind(words, gpunode.KIND)
    word = "cordoned" if unschedulable else "uncordoned"
    with context.client() as client:
        changed = client.cordon(targets.key(target, "").name, unschedulable=unschedulable)
    print(f"{target.kind.qualified}/{target.name} {word if changed else f'already {word}'}")


def _of_kind(words: Sequence[str], kind: Kind) -> Target:
    target = targets.parse_one(words, default=kind)
    if target.kind is not kind:
        raise UsageError(f"this is for a {kind.name}, not for a {target.kind.name}")
    return target


def _set_pairs(
    words: Sequence[str],
    namespace: str,
    overwrite: bool,
    field: Literal["labels", "annotations"],
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
    with context.client() as client:
        change, done = {
            "labels": (client.set_labels, "labeled"),
            "annotations": (client.set_annotations, "annotated"),
        }[field]
        for target in targets.parse(named):
            if target.name is None:
                raise UsageError("name the object", hint="as KIND NAME or KIND/NAME")
            changed = change(targets.key(target, context.namespace(namespace)), wanted, overwrite=overwrite)
            print(f"{target.kind.qualified}/{target.name} {done if changed else 'unchanged'}")
