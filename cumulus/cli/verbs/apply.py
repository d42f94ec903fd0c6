"""`cumulus apply` and `cumulus diff`: manifests against the store, through `cumulus.apply`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus.cli import completion, context, files, options, printers, terminal
from cumulus.errors import CumulusError, UsageError
from cumulus.lib import safe_output
from cumulus.resources.documents import lookup
from cumulus.resources.field_managers import CUMULUS
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import Applied, Client
    from cumulus.manifest import Manifest
    from cumulus.resources.key import Document

Namespace = Annotated[
    str,
    typer.Option(
        "--namespace", "-n", metavar="NAME", show_default=False, help="The namespace of objects that name none."
    ),
]

FieldManager = Annotated[
    str,
    typer.Option("--field-manager", metavar="NAME", help="Who owns what is applied; one name for each person or tool."),
]
ForceConflicts = Annotated[
    bool, typer.Option("--force-conflicts", help="Change fields also where another manager owns them, and own them.")
]

Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Make jobs anew whose immutable fields change; what runs is ended, old logs are kept."
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FORM",
        show_default=False,
        help="name, json or yaml.",
        autocompletion=completion.one_of("name", "json", "yaml"),
    ),
]


def apply(
    filename: options.Files = None,
    recursive: options.Recursive = False,
    dry_run: Annotated[str, options.dry_run("server: check and merge, but write nothing.")] = "none",
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what was applied before, matches -l and is in no file now.")
    ] = False,
    prune_limit: Annotated[
        str,
        typer.Option(
            metavar="N",
            show_default=False,
            help="Prune at most N objects; by default 10, or half of them if that is more.",
        ),
    ] = "",
    selector: options.Labels = "",
    namespace: Namespace = "",
    field_manager: FieldManager = CUMULUS,
    force_conflicts: ForceConflicts = False,
    force: Force = False,
    output: Output = "",
) -> None:
    """Create or change objects from manifests.

    All objects are written in one transaction, or none is. You own the fields that you apply. Fields that you applied
    before and that are gone from the file are removed; every other field stays. If another manager owns a field and
    gave it another value, that is a conflict: take the field out of the file, or take it over with --force-conflicts.

    \b
    Examples:
      cumulus apply -f job.yaml
      cumulus apply -f manifests/ -R
      cumulus apply -f - < job.yaml
      cumulus apply -f job.yaml --dry-run=server
      cumulus apply -f manifests/ --prune -l team=vision
      cumulus apply -f job.yaml --force-conflicts
      cumulus apply -f job.yaml --force
      cumulus apply -f manifests/ --field-manager=ci
    """
    dry = is_dry(dry_run, output)
    limit = _prune_limit(prune, prune_limit, selector)
    manifests = load(filename, recursive, namespace)
    with context.client(create=not dry) as client:
        results = client.apply(
            manifests, dry_run=dry, prune=selector, prune_limit=limit, field_manager=field_manager,
            force_conflicts=force_conflicts, recreate=force,
        )  # fmt: skip
        _show(results, output, " (server dry run)" if dry else "")
        if dry:
            _tell_starts(client, results)
            return
        pruned = [r.before for r in results if r.action == "pruned" and r.before and BY_NAME[r.key.kind].leaves_files]
        files.tell_of_loss(client, {job["metadata"]["uid"]: job["metadata"]["name"] for job in pruned})
        if any(result.action != "unchanged" for result in results):
            context.note_if_no_daemon("this takes effect", client)


def diff(
    filename: options.Files = None,
    recursive: options.Recursive = False,
    namespace: Namespace = "",
    field_manager: FieldManager = CUMULUS,
    force_conflicts: ForceConflicts = False,
    source: Annotated[
        str, typer.Option("--source", metavar="NAME", show_default=False, help="What this Source would do with them.")
    ] = "",
) -> int:
    """Show what apply would change. The exit code is 0 for no change, 1 for changes, and above 1 for an error.

    \b
    Examples:
      cumulus diff -f job.yaml
      cumulus diff -f manifests/ -R
      cumulus diff -f manifests/ -R --source cluster
    """
    try:
        if source:
            return _source_diff(filename, namespace, source)
        manifests = load(filename, recursive, namespace)
        with context.client() as client:
            results = client.apply(
                manifests, dry_run=True, field_manager=field_manager, force_conflicts=force_conflicts
            )
        from cumulus.cli.diff import diff as differences

        text = differences(results)
    except CumulusError as error:
        terminal.error(error)
        return 2
    _print(text)
    return 1 if text else 0


def _source_diff(filename: Sequence[str] | None, namespace: str, source: str) -> int:
    """With deletions, and what it would ask first."""
    from cumulus.cli.diff import diff as differences
    from cumulus.resources.key import Key
    from cumulus.resources.kinds.source import KIND

    if not filename:
        raise UsageError("say what to read", hint="as in -f DIRECTORY")
    where = context.namespace(namespace)
    with context.client() as client:
        key = Key(KIND.name, where, source)
        manifests = _as_read_by(client.get(key), filename, where)
        found = client.source_diff(key, manifests)
    _print(differences(found.changes))
    for change in found.changes:
        if change.action == "recreated":
            terminal.note(f"It would delete {change.key} and make it anew.")
    for asked in found.asks:
        terminal.note(f"It would ask first: {asked}.")
    return 1 if found.changes else 0


def _as_read_by(source: Document, filename: Sequence[str], namespace: str) -> Sequence[Manifest]:
    """The manifests in the files given, as the Source would read them. Raises UsageError, InvalidManifest."""
    from cumulus import manifest

    name, variables = source["metadata"]["name"], lookup(source, "spec.variables")
    how = lookup(source, "spec.render")
    directories = [path for path in filename if os.path.isdir(path)]
    if how and directories:
        shown = "kubectl kustomize" if how == "kustomize" else f"helm template {name}"
        raise UsageError(
            f"source/{name} renders {directories[0]} with {how}; diff reads manifests",
            hint=f"render it first: {shown} {directories[0]} | cumulus diff -f - --source {name}",
        )
    if not variables:
        return manifest.load(filename, recursive=True, default_namespace=namespace)
    if len(filename) != 1 or not directories:
        raise UsageError(
            f"source/{name} has variables, in {variables}", hint="give its directory alone, which holds that file"
        )
    from cumulus.gitops.desired import desired
    from cumulus.gitops.directory import read

    (place,) = directories
    try:
        held = read(place, variables).files
    except ValueError as error:
        raise UsageError(f"{place} {error}") from None
    files = {os.path.normpath(os.path.join(place, file)): data for file, data in held.items()}
    found = desired(files, namespace, os.path.normpath(os.path.join(place, variables)))
    return list(found.manifests.values())


def load(filename: Sequence[str] | None, recursive: bool, namespace: str, *, generate: bool = False) -> list[Manifest]:
    """The manifests in the files given. Raises UsageError, InvalidManifest."""
    if not filename:
        raise UsageError("say what to read", hint="as in -f FILE, -f DIRECTORY or -f - for stdin")
    from cumulus import manifest

    return manifest.load(
        filename, recursive=recursive, namespace=namespace or None, default_namespace=context.namespace(),
        generate=generate,
    )  # fmt: skip


def is_dry(dry_run: str, output: str) -> bool:
    """Whether nothing is to be written. Raises UsageError for options that there are not."""
    dry = options.is_dry_run(dry_run)
    if output not in ("", "name", "json", "yaml"):
        raise UsageError(f"there is no output format {output!r} here", hint="the formats are name, json, yaml")
    return dry


def _prune_limit(prune: bool, limit: str, selector: str) -> int | None:
    """The most objects to prune, None for the usual limit. Raises UsageError, also for a bad selector."""
    if not prune:
        if selector:
            raise UsageError("-l chooses what to prune", hint="give --prune too, or leave -l out")
        return None
    if not selector:
        raise UsageError("pruning needs a label selector", hint="say which objects are yours: --prune -l app=NAME")
    if limit and not limit.isdigit():
        raise UsageError(f"--prune-limit takes a number, not {limit!r}")
    from cumulus.resources.selectors import parse_labels

    parse_labels(selector)
    return int(limit) if limit else None


def _show(results: Sequence[Applied], output: str, suffix: str) -> None:
    if output in ("json", "yaml"):
        shown = [result.after or result.before for result in results]
        documents = [printers.without_managed_fields(document) for document in shown if document is not None]
        value = documents[0] if len(documents) == 1 else printers.as_list(documents)
        text = printers.to_json(value) if output == "json" else printers.to_yaml(value)
        safe_output.block(sys.stdout, f"{text}\n")
        return
    for result in results:
        print(f"{BY_NAME[result.key.kind].qualified}/{result.key.name}" if output == "name" else f"{result}{suffix}")


def _tell_starts(client: Client, results: Sequence[Applied]) -> None:
    """When the jobs that would be made would start."""
    for result in results:
        if result.action == "created" and result.after is not None and BY_NAME[result.key.kind].owns:
            terminal.note(f"gpujob/{result.key.name}: {client.forecast(result.after)}.")


def _print(diff: str) -> None:
    """Removed lines red and added ones green on a terminal."""
    codes = {"-": safe_output.RED, "+": safe_output.GREEN, "@": safe_output.DIM}
    for line in diff.splitlines():
        safe_output.line(sys.stdout, (line, codes.get(line[:1], "")))
