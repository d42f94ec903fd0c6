"""`cumulus delete`: marks objects for deletion and waits until the controllers have let go of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus.cli import completion, confirm, context, files, options, targets, terminal
from cumulus.cli.targets import Selection, Target
from cumulus.cli.verbs.wait import follow
from cumulus.errors import CumulusError, NotFound, UsageError
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import Client, Propagation


class NotConfirmed(CumulusError):
    """More would be lost than was said, and nobody agreed to it."""


def delete(
    words: options.Words = None,
    filename: options.Files = None,
    recursive: options.Recursive = False,
    selector: options.Labels = "",
    field_selector: options.Fields = "",
    all: Annotated[bool, typer.Option("--all", help="All objects of the kind in the namespace.")] = False,
    namespace: options.Namespace = "",
    all_namespaces: options.AllNamespaces = False,
    cascade: Annotated[
        str,
        typer.Option(
            autocompletion=completion.one_of("background", "orphan"),
            metavar="background|orphan",
            help="orphan: keep what the object owns, without an owner.",
        ),
    ] = "background",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is gone.")] = True,
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", show_default=False, help="How long to wait; without a limit if left out.")
    ] = "",
    grace_period: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            help="How long a job's processes have from the stop signal to SIGKILL, if that is less than the job's own "
            "grace period; at least 1. Jobs in containers need a node whose engine can be reached for that.",
            show_default=False,
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Short for --grace-period=1.")] = False,
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="Do not fail if an object does not exist.")
    ] = False,
    dry_run: Annotated[str, options.dry_run("server: check, but delete nothing.")] = "none",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about nodes and queues.")] = False,
) -> int:
    """Delete objects.

    A running job is ended first, and its lease is given back. Without a daemon the job is only marked for deletion. Its
    logs and the directories that were made for it are deleted with it; its spec.workingDir and its mounts stay.

    `all` means jobs and partitions, never nodes. With --all or a selector you are asked before a node is deleted that
    holds leases, is cordoned or was added by hand, since nothing brings it back; and before a queue that has jobs.

    \b
    Examples:
      cumulus delete job train
      cumulus delete job/train partition/mine
      cumulus delete -f job.yaml
      cumulus delete jobs -l team=vision
      cumulus delete jobs --all --timeout=60s
      cumulus delete jobs -l team=vision --dry-run=server
      cumulus delete job train --grace-period=5
      cumulus delete job train --no-wait
    """
    if cascade not in ("background", "orphan"):
        raise UsageError(f"there is no cascade {cascade!r}", hint="it is background or orphan")
    dry = options.is_dry_run(dry_run)
    seconds = options.seconds_of(timeout, "--timeout") if timeout else float("inf")
    grace = _grace(grace_period, now)
    several = bool(all or selector or field_selector)
    selection = Selection(None if all_namespaces else context.namespace(namespace), selector, field_selector)
    with context.client() as client:
        if filename:
            if words or several:
                raise UsageError("give either -f or what to delete, not both")
            found, missing = _from_files(client, filename, recursive)
        else:
            found, missing = _named(client, targets.parse(words or ()), selection, several)
        own = [kind for document in found if (kind := BY_NAME[document["kind"]]).own_grace_period]
        if grace and own:
            raise UsageError(f"a {own[0].one} has its own grace period", hint="--grace-period and --now are for jobs")
        if dry:
            for key in map(key_of, found):
                client.delete(key, dry_run=True)
                print(f"{_shown(key)} deleted (server dry run)")
            return _missing(missing, ignore_not_found)
        _confirm_losses(client, found, ask=several and not yes)
        left = {}
        for key in map(key_of, found):
            uid = _delete(client, key, "orphan" if cascade == "orphan" else "background", grace)
            if uid:
                left[key] = uid
        files.tell_of_loss(
            client, {d["metadata"]["uid"]: key_of(d).name for d in found if BY_NAME[d["kind"]].leaves_files}
        )
        _finish(client, left, wait, seconds, bool(timeout))
    return _missing(missing, ignore_not_found)


def _missing(missing: Sequence[NotFound], ignore: bool) -> int:
    """The exit code, with a line for each that is not there."""
    for error in missing if not ignore else ():
        terminal.error(error)
    return 1 if missing and not ignore else 0


def _grace(seconds: int | None, now: bool) -> int:
    """Seconds, 0 for the job's own. Raises UsageError."""
    if seconds is not None and (now or seconds < 1):
        said = "give either --grace-period or --now" if now else "a grace period is at least 1 second"
        raise UsageError(said, hint="--now is the shortest")
    return 1 if now else seconds or 0


def _named(
    client: Client, found: Sequence[Target], selection: Selection, several: bool
) -> tuple[list[Document], list[NotFound]]:
    documents: list[Document] = []
    missing: list[NotFound] = []
    if several != any(target.name is None for target in found) or (several and any(t.name for t in found)):
        raise UsageError("name objects, or give a kind with --all or a selector", hint="see `cumulus delete --help`")
    for target in found:
        try:
            documents.extend(targets.documents(client, target, selection))
        except NotFound as error:
            missing.append(error)
    if several and not documents:
        terminal.note("No resources found.")
    return documents, missing


def _confirm_losses(client: Client, found: Sequence[Document], *, ask: bool) -> None:
    """Before anything is deleted: whether objects may go with what would be lost with them. Raises NotConfirmed."""
    asked = [key for key in map(key_of, found) if BY_NAME[key.kind].losses is not None]
    lost = {key: losses for key in asked if (losses := _losses(client, key))}
    for key, losses in lost.items():
        terminal.warning(f"{key.kind.lower()}/{key.name} {', '.join(losses)}")
    if not lost or not ask:
        return
    kinds = dict.fromkeys(key.kind for key in lost)
    words = [" ".join([BY_NAME[kind].one, *(key.name for key in lost if key.kind == kind)]) for kind in kinds]
    by_name = f"name them: {', '.join(f'cumulus delete {named}' for named in words)}; or give --yes"
    if not confirm.possible():
        raise NotConfirmed("nobody can confirm it here, so nothing was deleted", hint=by_name)
    if not confirm.confirmed(f"Delete {'it' if len(lost) == 1 else 'them'} all the same?"):
        raise NotConfirmed("nothing was deleted")


def _losses(client: Client, key: Key) -> Sequence[str]:
    try:
        return client.delete_losses(key)
    except NotFound:
        return ()


def _from_files(client: Client, files: Sequence[str], recursive: bool) -> tuple[list[Document], list[NotFound]]:
    """The objects of the manifests, the last first: what refers to others goes before them."""
    from cumulus import manifest

    documents: list[Document] = []
    missing: list[NotFound] = []
    for loaded in reversed(manifest.load(files, recursive=recursive, default_namespace=context.namespace())):
        try:
            documents.append(client.get(loaded.key))
        except NotFound as error:
            missing.append(error)
    return documents, missing


def _delete(client: Client, key: Key, propagation: Propagation, grace: int) -> str:
    """Ask for it; the uid of the object where something still holds it, else ""."""
    try:
        metadata = client.delete(key, propagation=propagation, grace_seconds=grace)["metadata"]
    except NotFound:
        metadata = {}
    if metadata.get("finalizers"):
        return str(metadata["uid"])
    print(f"{_shown(key)} deleted", flush=True)
    return ""


def _finish(client: Client, left: Mapping[Key, str], wait: bool, seconds: float, insist: bool) -> None:
    """Wait for what is only marked yet. With no daemon that would be for ever, so only where a time-out is given."""
    if not left:
        return
    if not wait or (not insist and client.server_state().pid is None):
        for key in left:
            print(f"{_shown(key)} marked for deletion")
        context.note_if_no_daemon("it is deleted", client)
        return
    follow(client, list(left), "delete", seconds, left)


def _shown(key: Key) -> str:
    return f"{BY_NAME[key.kind].qualified}/{key.name}"
