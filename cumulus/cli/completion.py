"""Completes kinds and the names of existing objects, for the shell.

Completion must be quick and silent: where objects cannot be read nothing is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

from cumulus.cli import context
from cumulus.errors import CumulusError, Forbidden
from cumulus.resources.key import DEFAULT_NAMESPACE, Document
from cumulus.resources.kind import Kind
from cumulus.resources.kinds import gpujob, gpunode, gpupartition, queue, source
from cumulus.resources.query import Query
from cumulus.resources.registry import KINDS, find_kind

FORMS = ("wide", "json", "yaml", "name", "custom-columns=", "jsonpath=")
LIMIT = 500
"""Names offered at most."""


def words(ctx: typer.Context, incomplete: str) -> list[str]:
    """For `KIND[,KIND]`, `KIND NAME…` and `KIND/NAME`."""
    given: list[str] = [w for w in (ctx.params.get("words") or ()) if w]
    kind, slash, name = incomplete.partition("/")
    if slash:
        return [f"{kind}/{found}" for found in _names(_kind(kind), name, ctx)]
    if given and "/" not in given[0]:
        return [n for n in _names(_kind(given[0]), incomplete, ctx) if n not in given]
    return _kinds(incomplete)


def jobs(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(gpujob.KIND, incomplete, ctx)


def nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(gpunode.KIND, incomplete, ctx)


def sources(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(source.KIND, incomplete, ctx)


def queues(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(queue.KIND, incomplete, ctx)


def forms(incomplete: str) -> list[str]:
    return [form for form in FORMS if form.startswith(incomplete)]


def fields(incomplete: str) -> list[str]:
    """For `explain`: kinds, and behind a dot the fields there."""
    before, dot, last = incomplete.rpartition(".")
    if not dot:
        return [kind.name.lower() for kind in KINDS if kind.name.lower().startswith(incomplete.lower())]
    word, *names = before.split(".")
    kind = _kind(word)
    if kind is None:
        return []
    from cumulus.resources.schema import root

    field = root(kind)
    for name in names:
        if name not in field.fields:
            return []
        field = field.fields[name]
    return [f"{before}.{name}" for name in field.fields if name.lower().startswith(last.lower())]


def settings(incomplete: str) -> list[str]:
    """For `--set`: the fields of a job's spec."""
    if "=" in incomplete:
        return []
    return [path.removeprefix("gpujob.") for path in fields(f"gpujob.{incomplete}")]


def namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    """One's own, and those that jobs and partitions are in."""
    found = {item["metadata"]["namespace"] for item in (*_all(gpujob.KIND), *_all(gpupartition.KIND))}
    return sorted(name for name in {*found, _own_namespace()} if name.startswith(incomplete))[:LIMIT]


def labels(ctx: typer.Context, incomplete: str) -> list[str]:
    """KEY=VALUE as objects have it: of the kind that is named, else of jobs."""
    given: list[str] = [w for w in (ctx.params.get("words") or ()) if w]
    kind = (_kind(given[0].split("/")[0].split(",")[0]) if given else None) or gpujob.KIND
    before, comma, last = incomplete.rpartition(",")
    pairs = {f"{k}={v}" for item in _all(kind) for k, v in (item["metadata"].get("labels") or {}).items()}
    return [f"{before}{comma}{pair}" for pair in sorted(pairs) if pair.startswith(last)][:LIMIT]


def contexts(incomplete: str) -> list[str]:
    from cumulus import paths
    from cumulus.client import contexts

    try:
        known = contexts.read(paths.contexts_file()).all
    except CumulusError:
        return []
    return [each.name for each in known if each.name.startswith(incomplete)]


def wait_conditions(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `wait --for` may wait for."""
    given: list[str] = [w for w in (ctx.params.get("words") or ()) if w]
    kind = (_kind(given[0].split("/")[0]) if given else None) or gpujob.KIND
    words = [*(f"condition={type}" for type in kind.conditions), "jsonpath=", "finished", "create", "delete"]
    return [word for word in words if word.startswith(incomplete)]


def one_of(*choices: str) -> Callable[[str], list[str]]:
    """Of a few words."""

    def offered(incomplete: str) -> list[str]:
        return [word for word in choices if word.startswith(incomplete)]

    return offered


def _kinds(incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    known: Iterable[str] = sorted({kind.plural for kind in KINDS} | {w for kind in KINDS for w in kind.short})
    return [f"{before}{comma}{word}" for word in known if word.startswith(last.lower())]


def _kind(word: str) -> Kind | None:
    try:
        return find_kind(word)
    except CumulusError:
        return None


def _all(kind: Kind) -> list[Document]:
    """In all namespaces, or in one's own where one may read no others; none where they cannot be read."""
    try:
        with context.client(quiet=True) as client:
            try:
                return list(client.list(Query(kind=kind.name)).items)
            except Forbidden:
                return list(client.list(Query(kind=kind.name, namespace=context.namespace())).items)
    except (CumulusError, OSError):
        return []


def _own_namespace() -> str:
    try:
        return context.namespace()
    except CumulusError:
        return DEFAULT_NAMESPACE


def _names(kind: Kind | None, prefix: str, ctx: typer.Context) -> list[str]:
    if kind is None:
        return []
    try:
        namespace = context.namespace(ctx.params.get("namespace") or "") if kind.namespaced else None
        with context.client(quiet=True) as client:
            items = client.list(Query(kind=kind.name, namespace=namespace)).items
    except (CumulusError, OSError):
        return []
    names = (item["metadata"]["name"] for item in items)
    return [name for name in names if name.startswith(prefix)][:LIMIT]
