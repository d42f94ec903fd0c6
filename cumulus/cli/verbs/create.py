"""`cumulus create`, `replace` and `patch`: an object written as it is, as kubectl does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus.cli import completion, context, options, printers, targets, terminal
from cumulus.cli.verbs.apply import Force, Namespace, Output, is_dry, load
from cumulus.errors import AlreadyExists, Conflict, CumulusError, Forbidden, InvalidObject, NotFound, UsageError
from cumulus.lib import safe_output
from cumulus.resources.key import Document
from cumulus.resources.kinds import gpujob
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import PatchType
    from cumulus.manifest import Manifest

_REFUSED = (AlreadyExists, Conflict, Forbidden, InvalidObject, NotFound)
DryRun = Annotated[str, options.dry_run("server: check, but write nothing.")]


def create(
    filename: options.Files = None,
    recursive: options.Recursive = False,
    dry_run: DryRun = "none",
    output: Output = "",
    namespace: Namespace = "",
) -> int:
    """Create objects from manifests. One that is there already is an error, and stays as it is.

    With metadata.generateName in place of a name, each gets a new name that begins so.

    \b
    Examples:
      cumulus create -f job.yaml
      cumulus create -f sweep.yaml -o name
    """
    dry = is_dry(dry_run, output)
    manifests = load(filename, recursive, namespace, generate=True)
    with context.client(create=not dry) as client:
        code = _each(manifests, lambda one: (client.create(one.document, dry_run=dry), "created"), output, dry)
        if not dry:
            context.note_if_no_daemon("this takes effect", client)
    return code


def replace(
    filename: options.Files = None,
    recursive: options.Recursive = False,
    force: Force = False,
    dry_run: DryRun = "none",
    output: Output = "",
    namespace: Namespace = "",
) -> int:
    """Replace objects by manifests: what the file does not say is gone, labels too. Each must be there.

    \b
    Examples:
      cumulus replace -f job.yaml
      cumulus replace -f job.yaml --force
    """
    dry = is_dry(dry_run, output)
    manifests = load(filename, recursive, namespace)
    with context.client() as client:

        def replaced(manifest: Manifest) -> tuple[Document, str]:
            live = client.get(manifest.key)
            if force:
                (found,) = client.apply([manifest], dry_run=True, force_conflicts=True, recreate=True)
                if found.action == "recreated":
                    (found,) = [found] if dry else client.apply([manifest], force_conflicts=True, recreate=True)
                    return found.after or live, "recreated"
            return client.update(over(live, manifest.document), dry_run=dry), "replaced"

        code = _each(manifests, replaced, output, dry)
        if not dry:
            context.note_if_no_daemon("this takes effect", client)
    return code


def patch(
    words: options.JobWords,
    given: Annotated[
        str, typer.Option("--patch", "-p", metavar="PATCH", show_default=False, help="The patch, as JSON or YAML.")
    ] = "",
    file: Annotated[
        str, typer.Option("--patch-file", metavar="FILE", show_default=False, help="A file with it; - for stdin.")
    ] = "",
    type: Annotated[
        str,
        typer.Option(
            "--type",
            autocompletion=completion.one_of("merge", "json"),
            metavar="merge|json",
            help="A JSON merge patch, or a JSON patch.",
        ),
    ] = "merge",
    dry_run: DryRun = "none",
    output: Output = "",
    namespace: options.Namespace = "",
) -> None:
    """Change fields of an object by a patch.

    \b
    Examples:
      cumulus patch job train -p '{"spec": {"priority": 5}}'
      cumulus patch job/train -p 'spec: {ttlAfterFinished: 1h}'
      cumulus patch node gpu-3 --type json -p '[{"op": "add", "path": "/metadata/labels/rack", "value": "7"}]'
    """
    dry = is_dry(dry_run, output)
    if bool(given) == bool(file):
        raise UsageError("give the patch with -p, or with --patch-file")
    if type not in ("merge", "json"):
        raise UsageError(f"there is no type {type!r} of patch", hint="it is merge or json")
    from cumulus import manifest

    patch = manifest.plain_value(given or _read(file), name=file or "the patch")
    key = targets.key(targets.parse_one(words, default=gpujob.KIND), context.namespace(namespace))
    with context.client() as client:
        before = client.get(key)
        kind: PatchType = "json" if type == "json" else "merge"
        after = client.patch(key, patch, type=kind, dry_run=dry)
        same = after["metadata"].get("resourceVersion") == before["metadata"].get("resourceVersion")
        _show(after, "patched (no change)" if same and not dry else "patched", output, dry)
        if not dry and not same:
            context.note_if_no_daemon("this takes effect", client)


def over(live: Document, document: Document) -> Document:
    """The document in the place of what is stored: what only the server sets stays."""
    from cumulus.resources.meta import SERVER_FIELDS

    kept = {n: v for n, v in live["metadata"].items() if n in SERVER_FIELDS and n != "managedFields"}
    return {**document, "metadata": {**kept, **document["metadata"]}}


def _each(
    manifests: Sequence[Manifest], write: Callable[[Manifest], tuple[Document, str]], output: str, dry: bool
) -> int:
    """Write each, whatever becomes of the others; the exit code."""
    code = 0
    for manifest in manifests:
        try:
            after, word = write(manifest)
        except _REFUSED as error:
            terminal.error(error)
            code = 1
            continue
        _show(after, word, output, dry)
    return code


def _show(document: Document, word: str, output: str, dry: bool) -> None:
    if output in ("json", "yaml"):
        shown = printers.without_managed_fields(document)
        text = printers.to_json(shown) if output == "json" else "---\n" + printers.to_yaml(shown)
        safe_output.block(sys.stdout, f"{text}\n")
        return
    name = f"{BY_NAME[document['kind']].qualified}/{document['metadata']['name']}"
    print(name if output == "name" else f"{name} {word}" + (" (server dry run)" if dry else ""), flush=True)


def _read(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read()
        with open(file, encoding="utf-8") as opened:
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CumulusError(f"--patch-file: {file} cannot be read: {error}") from None
