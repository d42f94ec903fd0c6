"""`cumulus get`: objects as documents; no model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cumulus.cli import context, options, sorting, targets, terminal
from cumulus.cli.context import Freshness
from cumulus.cli.left_out import LeftOut
from cumulus.cli.printers import DocumentPrinter, Printer, Tables, printer
from cumulus.cli.targets import Selection, Target
from cumulus.clock import SystemClock
from cumulus.errors import Expired, NotFound, UsageError
from cumulus.lib import safe_output
from cumulus.resources.columns import AllOwned, Cells
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.query import Query
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import Client
    from cumulus.resources.jsonpath import JsonPath

LOOK_SECONDS = 30.0
"""How often a watch in which nothing happens looks whether anybody is there to make something happen."""


def get(
    words: options.Words = None,
    output: options.Output = "",
    selector: options.Labels = "",
    field_selector: options.Fields = "",
    namespace: options.Namespace = "",
    all_namespaces: options.AllNamespaces = False,
    watch: options.Watch = False,
    sort_by: Annotated[
        str, typer.Option(metavar="PATH", help="Sort by a field, for example .metadata.name.", show_default=False)
    ] = "",
    show_labels: Annotated[bool, typer.Option("--show-labels", help="Add a column with the labels.")] = False,
    label_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--label-columns",
            "-L",
            metavar="KEY",
            show_default=False,
            help="Add a column with the value of this label. May be given several times, or with commas.",
        ),
    ] = None,
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="Do not fail if an object does not exist.")
    ] = False,
    filename: options.Files = None,
    recursive: options.Recursive = False,
    no_headers: options.NoHeaders = False,
    show_managed_fields: Annotated[
        bool, typer.Option("--show-managed-fields", help="With -o json and -o yaml: show who set which field.")
    ] = False,
    raw: Annotated[
        str, typer.Option("--raw", metavar="PATH", help="What the server answers to a GET of PATH.", show_default=False)
    ] = "",
) -> int:
    """Show objects as a table, JSON, YAML or columns.

    Kinds have short names: jobs, parts, nodes, ev. `all` means jobs and partitions.

    \b
    Examples:
      cumulus get jobs
      cumulus get jobs,parts -o wide
      cumulus get job/train -o yaml
      cumulus get jobs -l team=vision --sort-by=.spec.priority
      cumulus get jobs --field-selector status.phase=Running -A
      cumulus get nodes -o custom-columns=NAME:.metadata.name,GPU:.status.devices[*].name
      cumulus get job train -o jsonpath='{.status.phase}'
      cumulus get all -w
      cumulus get jobs -L team,rack
      cumulus get -f job.yaml
      cumulus get --raw /readyz
    """
    if raw:
        return _raw(raw, words)
    found = targets.parse(words or ()) if not filename else _in_files(filename, recursive, words, namespace)
    kinds = [kind for kind, _ in by_kind(found)]
    order = sorting.parse_order(sort_by, kinds)
    selection = Selection(None if all_namespaces else context.namespace(namespace), selector, field_selector)
    for kind in kinds:
        # What is wrong for the last kind must be said before the first is shown.
        selection.matcher(kind)
    with context.client() as client:
        tables = Tables(
            sys.stdout,
            lambda: Cells(SystemClock().now(), AllOwned(kinds, lambda name: client.list(Query(name)).items)),
            LeftOut(client),
            wide=output == "wide",
            all_namespaces=all_namespaces,
            labels=show_labels,
            label_columns=[key for given in label_columns or () for key in given.split(",") if key],
            heading=not no_headers,
            several=len(kinds) > 1,
        )
        view = printer(
            output, sys.stdout, tables, kinds, heading=not no_headers, stream=watch, managed_fields=show_managed_fields
        )
        if watch:
            follow(client, found, selection, view)
        return show(client, found, selection, view, order, ignore=ignore_not_found)


def _in_files(files: Sequence[str], recursive: bool, words: Sequence[str] | None, namespace: str) -> list[Target]:
    """Raises UsageError, InvalidManifest."""
    if words:
        raise UsageError("give either -f or what to show, not both")
    keys = targets.keys_in(files, recursive)
    if other := [key for key in keys if key.namespace not in ("", context.namespace(namespace))]:
        raise UsageError(f"{other[0]} is in another namespace", hint=f"give -n {other[0].namespace}")
    return [Target(BY_NAME[key.kind], key.name) for key in keys]


def _raw(path: str, words: Sequence[str] | None) -> int:
    if words or not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise UsageError("--raw takes a path and nothing else", hint="as in: cumulus get --raw /version")
    with context.client() as client:
        answer = client.raw(path)
    safe_output.block(sys.stdout, answer.decode(errors="replace").rstrip("\n") + "\n")
    return 0


def show(
    client: Client, found: Sequence[Target], selection: Selection, view: Printer, order: JsonPath | None, *,
    ignore: bool = False,
) -> int:  # fmt: skip
    """Write what is there; the exit code. `ignore`: what is not there is no failure."""
    code = shown = 0
    for kind, group in by_kind(found):
        documents: list[Document] = []
        for target in group:
            try:
                documents.extend(targets.documents(client, target, selection))
            except NotFound as error:
                if not ignore:
                    terminal.error(error)
                    code = 1
        documents = sorting.in_order(kind, documents, order)
        shown += len(documents)
        view.batch(kind, documents)
    single = len(found) == 1 and found[0].name is not None
    if isinstance(view, DocumentPrinter):
        if code == 0 or shown:
            view.finish(single=single)
    elif not shown and code == 0 and not ignore:
        terminal.note(_nothing(found, selection))
    if shown and any(target.kind.user_made for target in found):
        Freshness(client).look()
    return code


def by_kind(found: Sequence[Target]) -> list[tuple[Kind, list[Target]]]:
    """Targets gathered by kind, in the order the kinds were first named."""
    groups: dict[str, list[Target]] = {}
    for target in found:
        groups.setdefault(target.kind.name, []).append(target)
    return [(BY_NAME[name], group) for name, group in groups.items()]


def _nothing(found: Sequence[Target], selection: Selection) -> str:
    scoped = any(target.kind.namespaced for target in found)
    where = f" in {selection.namespace} namespace" if scoped and selection.namespace is not None else ""
    what = found[0].kind.plural if len({t.kind.name for t in found}) == 1 else "resources"
    return f"No {what} found{where}."


def follow(client: Client, found: Sequence[Target], selection: Selection, view: Printer) -> NoReturn:
    """List, then every change, until interrupted. Where the store forgot what came between, list again. Raises NotFound
    for a name that is not there at the start."""
    matchers = {kind.name: _wanted(kind, group, selection) for kind, group in by_kind(found)}
    for target in found:
        if target.name is not None:
            client.get(targets.key(target, selection.namespace or "default"))
    fresh = Freshness(client) if any(target.kind.user_made for target in found) else None
    while True:
        since = client.revision()
        for name, matches in matchers.items():
            documents = client.list(selection.query(BY_NAME[name])).items
            view.batch(BY_NAME[name], sorting.in_order(BY_NAME[name], [d for d in documents if matches(d)], None))
        try:
            _follow(client, since, matchers, selection.namespace, view, fresh)
        except Expired:
            terminal.note("The store has forgotten some changes; listing again.")


def _follow(
    client: Client,
    since: int,
    matchers: dict[str, Callable[[Document], bool]],
    namespace: str | None,
    view: Printer,
    fresh: Freshness | None,
) -> None:
    watch = client.watch(since=since, kinds=frozenset(matchers), namespace=namespace)
    try:
        quiet = True
        while True:
            if quiet and fresh is not None:
                fresh.look()
            events = watch.next(timeout=LOOK_SECONDS)
            quiet = not events
            for event in events:
                kind = event.document["kind"]
                if matchers[kind](event.document):
                    view.batch(BY_NAME[kind], [event.document])
    finally:
        watch.close()


def _wanted(kind: Kind, group: Sequence[Target], selection: Selection) -> Callable[[Document], bool]:
    names = {target.name for target in group}
    if None not in names and (selection.labels or selection.fields):
        raise UsageError("a name and a selector cannot be given together")
    matches = selection.matcher(kind)
    return lambda d: (None in names or d["metadata"]["name"] in names) and matches(d)
