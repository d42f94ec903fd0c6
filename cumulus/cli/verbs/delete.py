"""`cumulus delete`: marks objects for deletion and waits until the controllers have let go of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import typer

from cumulus import daemon_lock, paths
from cumulus.cli import confirm, context, files, nodes, options, targets, terminal
from cumulus.cli.progress import Progress
from cumulus.cli.targets import Selection, Target
from cumulus.cli.verbs.wait import Waiter, seconds_of
from cumulus.clock import SystemClock
from cumulus.errors import Conflict, CumulusError, NotFound, UsageError
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.registry import BY_NAME
from cumulus.service import diagnose
from cumulus.service.wait_conditions import Deleted, Goal
from cumulus.store.base import Query, Store, Write

_ATTEMPTS = 5


class Refused(CumulusError):
    """More would be lost than was said."""


def delete(
    words: options.Words = None,
    filename: options.Files = None,
    recursive: options.Recursive = False,
    selector: options.Labels = "",
    field_selector: options.Fields = "",
    all: Annotated[bool, typer.Option("--all", help="All objects of the kind in the namespace.")] = False,
    namespace: options.Namespace = "default",
    all_namespaces: options.AllNamespaces = False,
    cascade: Annotated[
        str,
        typer.Option(metavar="background|orphan", help="orphan: what belongs to the object stays, owned by nobody."),
    ] = "background",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is gone.")] = True,
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", show_default=False, help="How long to wait; for ever if left out.")
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
        bool, typer.Option("--ignore-not-found", help="What is not there is no error.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about nodes.")] = False,
) -> int:
    """Delete objects.

    A running job is ended and its lease given back before it goes. Without a daemon it is only marked. The logs of a
    job and the directories that were made for it go with it; its spec.workingDir and mounts stay.

    `all` means jobs and partitions, never nodes. Nodes that --all or a selector finds are asked about where they hold
    leases, are cordoned or were added by hand: nobody brings that back.

    \b
    Examples:
      cumulus delete job train
      cumulus delete job/train partition/mine
      cumulus delete -f job.yaml
      cumulus delete jobs -l team=vision
      cumulus delete jobs --all --timeout=60s
      cumulus delete job train --grace-period=5
      cumulus delete job train --no-wait
    """
    if cascade not in ("background", "orphan"):
        raise UsageError(f"there is no cascade {cascade!r}", hint="it is background or orphan")
    seconds = seconds_of(timeout, "--timeout") if timeout else float("inf")
    grace = _grace(grace_period, now)
    several = bool(all or selector or field_selector)
    selection = Selection(None if all_namespaces else namespace, selector, field_selector)
    with context.open_store() as store:
        if filename:
            if words or several:
                raise UsageError("give either -f or what to delete, not both")
            keys, missing = _from_files(store, filename, recursive)
        else:
            keys, missing = _named(store, targets.parse(words or ()), selection, several)
        if grace and any(key.kind == "GPUPartition" for key in keys):
            raise UsageError("a partition has its own grace period", hint="--grace-period and --now are for jobs")
        _see_about_nodes(store, keys, ask=several and not yes)
        doomed = _jobs(store, keys)
        left = {}
        for key in keys:
            uid = _delete(store, key, orphan=cascade == "orphan", grace=grace)
            if uid:
                left[key] = uid
        files.tell_of_loss(doomed)
        _finish(store, left, wait, seconds, bool(timeout))
    if ignore_not_found:
        return 0
    for error in missing:
        terminal.error(error)
    return 1 if missing else 0


def _grace(seconds: int | None, now: bool) -> int:
    """Seconds, 0 for the job's own. Raises UsageError."""
    if seconds is not None and (now or seconds < 1):
        said = "give either --grace-period or --now" if now else "a grace period is at least 1 second"
        raise UsageError(said, hint="--now is the shortest")
    return 1 if now else seconds or 0


def _named(
    store: Store, found: Sequence[Target], selection: Selection, several: bool
) -> tuple[list[Key], list[NotFound]]:
    keys: list[Key] = []
    missing: list[NotFound] = []
    if several != any(target.name is None for target in found) or (several and any(t.name for t in found)):
        raise UsageError("name objects, or give a kind with --all or a selector", hint="see `cumulus delete --help`")
    for target in found:
        try:
            keys.extend(key_of(document) for document in targets.documents(store, target, selection))
        except NotFound as error:
            missing.append(error)
    if several and not keys:
        terminal.note("No resources found.")
    return keys, missing


def _see_about_nodes(store: Store, keys: Sequence[Key], *, ask: bool) -> None:
    """Before anything is deleted: whether nodes may go with what would be lost with them. Raises Refused."""
    found = {key.name: _stakes(store, node) for key in keys if key.kind == "GPUNode" for node in _read(store, key)}
    lost = {name: stakes for name, stakes in found.items() if stakes}
    for name, stakes in lost.items():
        terminal.warning(f"gpunode/{name} {', '.join(stakes)}")
    if not lost or not ask:
        return
    by_name = f"name them: cumulus delete node {' '.join(lost)}; or give --yes"
    if not confirm.possible():
        raise Refused("nobody is there to confirm it, so nothing was deleted", hint=by_name)
    if not confirm.confirmed(f"Delete {'it' if len(lost) == 1 else 'them'} all the same?"):
        raise Refused("nothing was deleted")


def _stakes(store: Store, node: Document) -> Sequence[str]:
    try:
        return nodes.stakes(store, node)
    except diagnose.MALFORMED:
        return ["is damaged: what would be lost with it cannot be told"]


def _read(store: Store, key: Key) -> list[Document]:
    try:
        return [store.get(key)]
    except NotFound:
        return []


def _from_files(store: Store, files: Sequence[str], recursive: bool) -> tuple[list[Key], list[NotFound]]:
    """The objects of the manifests, the last first: what refers to others goes before them."""
    from cumulus import manifest

    keys: list[Key] = []
    missing: list[NotFound] = []
    for loaded in reversed(manifest.load(files, recursive=recursive)):
        target = Target(BY_NAME[loaded.key.kind], loaded.key.name)
        try:
            targets.one(store, target, loaded.key.namespace)
            keys.append(loaded.key)
        except NotFound as error:
            missing.append(error)
    return keys, missing


def _jobs(store: Store, keys: Sequence[Key]) -> list[Document]:
    """Those of the objects that may have files."""
    found = []
    for key in keys:
        if key.kind == "GPUJob":
            with contextlib.suppress(NotFound):
                found.append(store.get(key))
    return found


def _delete(store: Store, key: Key, *, orphan: bool, grace: int) -> str:
    """Ask for it; the uid of the object where something still holds it, else ""."""
    for attempt in range(_ATTEMPTS):
        try:
            document = store.get(key)
            writes = list(_disowning(store, document)) if orphan else []
            uid = document["metadata"]["uid"]
            marked = store.transact([*writes, Write("delete", key=key, uid=uid, grace_seconds=grace)])[-1]
            break
        except NotFound:
            _gone(key)
            return ""
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
    if marked["metadata"].get("finalizers"):
        return str(uid)
    _gone(key)
    return ""


def _disowning(store: Store, owner: Document) -> Iterator[Write]:
    """Take the owner out of everything that belongs to it, so that garbage collection leaves that be."""
    uid = owner["metadata"]["uid"]
    for kind in BY_NAME:
        for document in store.list(Query(kind=kind, owner_uid=uid)).items:
            metadata = document["metadata"]
            kept = [o for o in metadata["ownerReferences"] if o["uid"] != uid]
            yield Write("update", {**document, "metadata": {**metadata, "ownerReferences": kept}})


def _finish(store: Store, keys: Mapping[Key, str], wait: bool, seconds: float, insist: bool) -> None:
    """Wait for what is only marked yet. With no daemon that would be for ever, so only where a time-out is given."""
    if not keys:
        return
    absent = daemon_lock.daemon_pid(paths.home()) is None
    if not wait or (absent and not insist):
        for key in keys:
            print(f"{_shown(key)} marked for deletion")
        context.note_if_no_daemon("it is deleted")
        return
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    with Progress() as progress:
        for key in keys:
            target = Target(BY_NAME[key.kind], key.name)
            goals: dict[str, Goal] = {key.kind: Deleted()}
            waiter = Waiter(store, [target], Selection(key.namespace or None), goals, progress, clock, keys)
            waiter.run(max(0.0, deadline - clock.monotonic()))


def _gone(key: Key) -> None:
    print(f"{_shown(key)} deleted", flush=True)


def _shown(key: Key) -> str:
    return f"{BY_NAME[key.kind].qualified}/{key.name}"
