"""Completes kinds and the names of existing objects, for the shell.

Completion must be quick and silent: where objects cannot be read nothing is offered.
"""

from __future__ import annotations

from collections.abc import Iterable

import typer

from cumulus.cli import context
from cumulus.errors import CumulusError
from cumulus.resources.kind import Kind
from cumulus.resources.kinds import gpujob, gpunode, source
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


def top(incomplete: str) -> list[str]:
    return [word for word in ("nodes", "jobs", "users") if word.startswith(incomplete)]


def forms(incomplete: str) -> list[str]:
    return [form for form in FORMS if form.startswith(incomplete)]


def fields(incomplete: str) -> list[str]:
    """For `explain`: kinds, before the first dot."""
    return [kind.name.lower() for kind in KINDS if kind.name.lower().startswith(incomplete.lower())]


def _kinds(incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    known: Iterable[str] = sorted({kind.plural for kind in KINDS} | {w for kind in KINDS for w in kind.short})
    return [f"{before}{comma}{word}" for word in known if word.startswith(last.lower())]


def _kind(word: str) -> Kind | None:
    try:
        return find_kind(word)
    except CumulusError:
        return None


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
