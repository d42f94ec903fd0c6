"""`cumulus source`: directories and git repositories that say what should exist."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus.cli import completion, context, options
from cumulus.cli.options import AllNamespaces, Namespace
from cumulus.cli.subcommands import subcommands
from cumulus.clock import SystemClock, timestamp, to_the_second
from cumulus.errors import NotFound, UsageError
from cumulus.lib import safe_output
from cumulus.lib.table import Heading, Table
from cumulus.resources.condition_types import SourceCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import API_VERSION, Document, Key
from cumulus.resources.kinds.source import KIND, approval, elsewhere, short, state

if TYPE_CHECKING:
    from cumulus.client.base import Client

app = subcommands(
    "Keep the cluster equal to a git repository or a directory: a commit is the change. `cumulus delete source NAME` "
    "leaves what it made. See docs/gitops.md.",
)
NewName = Annotated[str, typer.Argument(metavar="NAME", help="The Source.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The Source.", autocompletion=completion.sources)]
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_LEAST_DIGITS = 7


def _option(help: str, metavar: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(help=help, metavar=metavar, show_default=False)
    return found


@app.command("add")
def add(
    name: NewName,
    url: Annotated[str, _option("https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, file:///PATH.", "URL")] = "",
    directory: Annotated[str, _option("A directory of the daemon's machine, instead of --url.", "PATH")] = "",
    branch: Annotated[str, _option("Follow this branch; the default one if left out.", "NAME")] = "",
    tag: Annotated[str, _option("Take this tag.", "NAME")] = "",
    commit: Annotated[str, _option("Take this commit.", "HASH")] = "",
    semver: Annotated[str, _option("Take the tag with the highest version in this range: ^1.2.", "RANGE")] = "",
    path: Annotated[str, _option("The directory in the repository.", "PATH")] = "",
    interval: Annotated[str, _option("How often the repository is asked; 1m if left out.", "TIME")] = "",
    credentials: Annotated[str, _option("The secret with keys, password or known_hosts.", "SECRET")] = "",
    verify: Annotated[str, _option("The secret with the keys of those who may sign.", "SECRET")] = "",
    webhook: Annotated[str, _option("The secret that the forge signs its calls with.", "SECRET")] = "",
    prune: Annotated[str, _option("Never, Confirm or Auto; Never if left out.", "WORD")] = "",
    variables: Annotated[str, _option("The file below the path with a line NAME=value each.", "FILE")] = "",
    render: Annotated[str, _option("kustomize or helm: what the path is.", "WORD")] = "",
    drift: Annotated[str, _option("Correct, Report or Off; Correct if left out.", "WORD")] = "",
    on_change: Annotated[str, _option("Recreate, Ignore or Fail; Recreate if left out.", "WORD")] = "",
    namespace: Namespace = "",
) -> None:
    """Make a Source. It deletes nothing until --prune says so.

    \b
    Examples:
      cumulus source add cluster --url https://git.example.org/lab/cluster.git --branch main --path manifests
      cumulus source add here --directory ~/manifests --prune Confirm
    """
    git = {
        "url": url, "branch": branch, "tag": tag, "commit": commit, "semver": semver, "path": path,
        "interval": interval, "credentials": credentials,
    }  # fmt: skip
    given = {field: value for field, value in git.items() if value}
    if directory and url:
        raise UsageError("--url and --directory do not go together", hint="leave one of them out")
    if not directory and not url:
        raise UsageError("say where the manifests are", hint="--url URL or --directory PATH")
    if directory and given:
        raise UsageError(f"--{next(iter(given))} is of git: a directory has none")
    place = {"directory": {"path": os.path.abspath(os.path.expanduser(directory))}} if directory else {"git": given}
    words = {
        "render": render,
        "prune": prune,
        "drift": drift,
        "onChange": on_change,
        "webhook": webhook,
        "variables": variables,
    }
    spec: Document = {**place, **{field: value for field, value in words.items() if value}}
    if verify:
        spec["verify"] = {"keys": verify}
    document = {
        "apiVersion": API_VERSION, "kind": KIND.name, "spec": spec,
        "metadata": {"name": name, "namespace": context.namespace(namespace)},
    }  # fmt: skip
    with context.client(create=True) as client:
        client.create(document)
        print(f"source/{name} created")
        context.note_if_no_daemon("it is read", client)


@app.command("list")
def list_(namespace: Namespace = "", all_namespaces: AllNamespaces = False, output: options.Output = "") -> int:
    """List Sources.

    \b
    Examples:
      cumulus source list
    """
    from cumulus.cli.verbs.get import get

    return get([KIND.plural], output=output, namespace=namespace, all_namespaces=all_namespaces)


@app.command("sync")
def sync(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Until it was asked, and what it says is done.")] = False,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait at most.")] = "60s",
    namespace: Namespace = "",
) -> int:
    """Ask the repository now. Brakes hold as they do otherwise.

    With --wait the exit code is 0 if the cluster equals the source then, else 1.

    \b
    Examples:
      cumulus source sync cluster
      cumulus source sync cluster --wait
    """
    import secrets

    from cumulus.resources.annotations import SYNC_REQUESTED

    mark = f"{timestamp(SystemClock().now())}-{secrets.token_hex(4)}"
    key, seconds = _key(name, namespace), options.seconds_of(timeout, "--timeout")
    with context.client() as client:
        if lookup(client.get(key), "spec.suspend"):
            raise UsageError(
                f"source/{key.name} is suspended", hint=f"resume it: cumulus source resume {key.name}{elsewhere(key)}"
            )
        client.set_annotations(key, {SYNC_REQUESTED: mark}, overwrite=True)
        if not wait:
            print(f"source/{key.name} is looked at")
            context.note_if_no_daemon("it is read", client)
            return 0
        return _waited(client, key, mark, seconds)


@app.command("diff")
def diff(name: Name, namespace: Namespace = "") -> int:
    """Show what waits for an approval, and why. The exit code is 0 where nothing does, else 1.

    \b
    Examples:
      cumulus source diff cluster
    """
    source_key = _key(name, namespace)
    with context.client() as client:
        pending = lookup(client.get(source_key), "status.pendingSync")
    if not pending:
        print(f"source/{name}: nothing waits for an approval")
        return 0
    total = sum(pending.get(field) or 0 for field in ("creates", "changes", "recreates", "deletes"))
    shown = pending.get("objects") or []
    more = [f"… and {total - len(shown)} more"] if total > len(shown) else []
    lines = [f"revision {short(pending.get('revision'))}", *(f"asks: {r}" for r in pending.get("reasons") or ()),
             *shown, *more, approval(source_key, str(pending.get("hash")))]  # fmt: skip
    for line in lines:
        safe_output.line(sys.stdout, (str(line), ""))
    return 1


@app.command("approve")
def approve(
    name: Name,
    hash: Annotated[str, typer.Argument(metavar="HASH", help="As `cumulus source diff` shows it.")],
    namespace: Namespace = "",
) -> None:
    """Allow the one sync that has this hash.

    \b
    Examples:
      cumulus source approve cluster 3f9a0c1b2d4e5f60
    """
    key = _key(name, namespace)
    with context.client() as client:
        pending = lookup(client.get(key), "status.pendingSync.hash")
        if pending != hash:
            what = f"what waits has the hash {pending}" if pending else "nothing waits for an approval"
            raise UsageError(f"source/{name}: {what}", hint=f"see it first: cumulus source diff {name}{elsewhere(key)}")
        _set(client, key, {"approve": hash})
    print(f"source/{name} approved: {hash}")


@app.command("suspend")
def suspend(name: Name, namespace: Namespace = "") -> None:
    """Do nothing for a Source until it is resumed.

    \b
    Examples:
      cumulus source suspend cluster
    """
    with context.client() as client:
        _set(client, _key(name, namespace), {"suspend": True})
    print(f"source/{name} suspended")


@app.command("resume")
def resume(name: Name, namespace: Namespace = "") -> None:
    """Look at a suspended Source again.

    \b
    Examples:
      cumulus source resume cluster
    """
    with context.client() as client:
        _set(client, _key(name, namespace), {"suspend": None})
    print(f"source/{name} resumed")


@app.command("history")
def history(name: Name, namespace: Namespace = "") -> None:
    """Show the last syncs: who wrote the commit, what was done, and how it came out.

    \b
    Examples:
      cumulus source history cluster
    """
    with context.client() as client:
        entries = _history(client.get(_key(name, namespace)))
    if not entries:
        print("No syncs yet.", file=sys.stderr)
        return
    headings = (
        Heading("TIME", "whole"), Heading("REVISION", "whole"), Heading("RESULT", "whole"),
        Heading("CHANGES", "cut", 1), Heading("AUTHOR", "cut", 3), Heading("SUBJECT", "cut", 2), Heading("WHY", "wrap"),
    )  # fmt: skip
    Table(headings, sys.stdout).write(
        [
            [
                to_the_second(str(entry.get("time") or "")), short(entry.get("revision")), str(entry.get("result")),
                _changes(entry), str(entry.get("author") or ""), str(entry.get("subject") or ""),
                str(entry.get("why") or ""),
            ]
            for entry in entries
        ]
    )  # fmt: skip


@app.command("rollback")
def rollback(
    name: Name,
    commit: Annotated[str, typer.Argument(metavar="[COMMIT]", help="If left out: the one before.")] = "",
    namespace: Namespace = "",
) -> None:
    """Go back to an earlier commit, and stay there until `cumulus source unpin`.

    \b
    Examples:
      cumulus source rollback cluster
      cumulus source rollback cluster 3f9a0c1
    """
    key = _key(name, namespace)
    with context.client() as client:
        source = client.get(key)
        _pin(client, key, _commit(source, commit) if commit else _before(source))


@app.command("pin")
def pin(
    name: Name,
    commit: Annotated[str, typer.Argument(metavar="COMMIT", help="All of its digits, or the first of one synced.")],
    namespace: Namespace = "",
) -> None:
    """Keep the cluster at a commit, whatever the branch says.

    \b
    Examples:
      cumulus source pin cluster 3f9a0c1
    """
    key = _key(name, namespace)
    with context.client() as client:
        _pin(client, key, _commit(client.get(key), commit))


@app.command("unpin")
def unpin(name: Name, namespace: Namespace = "") -> None:
    """Follow the branch again.

    \b
    Examples:
      cumulus source unpin cluster
    """
    with context.client() as client:
        _set(client, _key(name, namespace), {"pin": None})
    print(f"source/{name} unpinned")


def _waited(client: Client, key: Key, mark: str, seconds: float) -> int:
    """Wait until the request is done, and what it makes anew is made: 0 if the cluster equals the source then."""
    from cumulus.cli.progress import Progress
    from cumulus.client.base import StillWaiting
    from cumulus.resources.reasons import SourceReason

    clock = SystemClock()
    end = clock.monotonic() + seconds
    with Progress() as progress:
        for step in client.wait([key], f"jsonpath={{.status.syncDone}}={mark}", seconds=seconds):
            if isinstance(step, StillWaiting):
                progress.say(f"source/{key.name}: it is asked what is new")
        found = client.get(key)
        if condition(found, SourceCondition.SYNCED).get("reason") == SourceReason.REPLACING:
            for step in client.wait([key], "condition=Synced", seconds=max(0.0, end - clock.monotonic())):
                if isinstance(step, StillWaiting):
                    progress.say(f"source/{key.name}: jobs are made anew once their predecessors are gone")
            found = client.get(key)
    told, synced = state(found, clock.now()), lookup(found, "status.synced") or {}
    is_synced = told == SourceCondition.SYNCED or condition(found, SourceCondition.SYNCED).get("status") == "True"
    is_read = condition(found, SourceCondition.READY).get("status") == "True"
    said = [told, short(synced.get("revision")), str(synced.get("subject") or "")]
    safe_output.line(sys.stdout, (f"source/{key.name}: {' '.join(filter(None, said if is_synced else said[:1]))}", ""))
    return 0 if is_synced and is_read else 1


def _pin(client: Client, key: Key, commit: str) -> None:
    _set(client, key, {"pin": commit})
    print(f"source/{key.name} pinned to {commit}")


def _key(name: str, namespace: str) -> Key:
    return Key(KIND.name, context.namespace(namespace), name.removeprefix("source/").removeprefix("src/"))


def _set(client: Client, key: Key, spec: Document) -> None:
    client.patch(key, {"spec": spec})


def _history(source: Document) -> list[Document]:
    return [entry for entry in lookup(source, "status.history") or () if isinstance(entry, dict)]


def _changes(entry: Document) -> str:
    signs = (("+", "created"), ("~", "changed"), ("-", "deleted"))
    return " ".join(f"{sign}{entry[field]}" for sign, field in signs if entry.get(field)) or "none"


def _commit(source: Document, given: str) -> str:
    if _COMMIT.fullmatch(given):
        return given
    known = {str(entry.get("revision")) for entry in _history(source)}
    found = [revision for revision in sorted(known) if len(given) >= _LEAST_DIGITS and revision.startswith(given)]
    if len(found) != 1:
        raise UsageError(
            f"{given!r} names no commit that was synced", hint="give all of its digits, or see `cumulus source history`"
        )
    return found[0]


def _before(source: Document) -> str:
    """The commit that was synced before the one that is."""
    current = lookup(source, "status.synced.revision")
    for entry in reversed(_history(source)):
        revision = str(entry.get("revision"))
        if entry.get("result") != "Failed" and revision != current:
            return revision
    raise NotFound("no earlier commit was synced", hint="name one: cumulus source rollback NAME COMMIT")
