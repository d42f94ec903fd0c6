"""Parses what a person names on the command line: kinds, kinds with names, KIND/NAME.

The verbs get `Target`s; `documents` reads them through the client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cumulus.errors import UsageError
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.kind import Kind
from cumulus.resources.kinds import gpujob
from cumulus.resources.query import Query
from cumulus.resources.registry import KINDS, find_kind

if TYPE_CHECKING:
    from cumulus.client.base import Client
    from cumulus.resources.selectors import Matcher

ALL = tuple(kind for kind in KINDS if kind.work)
"""What `all` means, to every verb. No node: what is true of all work must be safe to say of all, as in `delete all`."""


@dataclass(frozen=True, slots=True)
class Target:
    """Objects of one kind: one by its name, or all (`name` None)."""

    kind: Kind
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.kind.name.lower()}/{self.name}" if self.name else self.kind.plural


def parse(words: Sequence[str]) -> list[Target]:
    """`KIND[,KIND]`, `KIND NAME…` or `KIND/NAME…` as targets. Raises UsageError."""
    if not words:
        raise UsageError("name a kind, or KIND/NAME", hint="as in: jobs, job/train, nodes")
    if any("/" in word for word in words):
        return [_slashed(word) for word in words]
    kinds, names = _kinds(words[0]), words[1:]
    if not names:
        return [Target(kind) for kind in kinds]
    if len(kinds) > 1:
        raise UsageError("names cannot follow several kinds", hint="write KIND/NAME for each object")
    return [Target(kinds[0], _name(name)) for name in names]


def parse_one(words: Sequence[str], *, default: Kind) -> Target:
    """Exactly one object: `NAME` (of the kind `default`), `KIND NAME` or `KIND/NAME`. Raises UsageError."""
    if len(words) == 1 and "/" not in words[0]:
        return Target(default, _name(words[0]))
    found = parse(words)
    if len(found) != 1 or found[0].name is None:
        raise UsageError("name exactly one object", hint="as NAME, KIND NAME or KIND/NAME")
    return found[0]


def job_key(words: Sequence[str], namespace: str, otherwise: str) -> Key:
    """The key of the one job that is named: NAME, job NAME or job/NAME, in `namespace` or else the context's.
    `otherwise`: what a person who names another object is told: `only jobs run programs, not`. Raises UsageError."""
    from cumulus.cli import context

    target = parse_one(words, default=gpujob.KIND)
    if not target.kind.runs:
        raise UsageError(f"{otherwise} a {target.kind.name}")
    return key(target, context.namespace(namespace))


def keys_in(files: Sequence[str], recursive: bool) -> list[Key]:
    """The objects that the files hold. Raises InvalidManifest."""
    if not files:
        return []
    from cumulus import manifest
    from cumulus.cli import context

    return [m.key for m in manifest.load(files, recursive=recursive, default_namespace=context.namespace())]


def parse_some(words: Sequence[str], *, default: Kind) -> list[Target]:
    """`NAME…` of the kind `default`, `KIND`, `KIND NAME…` or `KIND/NAME…`; without words all of the kind `default`.
    Raises UsageError."""
    if not words:
        return [Target(default)]
    if any("/" in word for word in words) or (words[0] in default.words and len(words) > 1):
        return parse(words)
    if len(words) == 1 and words[0] in default.words:
        return [Target(default)]
    return [Target(default, _name(word)) for word in words]


def check_named(found: Sequence[Target], *, several: bool) -> None:
    """Raises UsageError where objects are named and a selection is given too, or neither."""
    if several != any(target.name is None for target in found) or (several and any(t.name for t in found)):
        raise UsageError("name objects, or give a kind with --all or a selector", hint="as in: NAME…, or -l team=x")


def keys(client: Client, found: Sequence[Target], selection: Selection) -> Iterator[Key]:
    """The keys of what is named, and of all that the selection finds of the other kinds."""
    for target in found:
        if target.name is None:
            yield from (key_of(item) for item in client.list(selection.query(target.kind)).items)
        else:
            yield key(target, selection.namespace or "default")


def key(target: Target, namespace: str) -> Key:
    """The key of a named target."""
    assert target.name is not None
    return Key(target.kind.name, namespace if target.kind.namespaced else "", target.name)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a kind: a namespace (None: all), label and field selectors."""

    namespace: str | None = "default"
    labels: str = ""
    fields: str = ""

    def query(self, kind: Kind) -> Query:
        namespace = self.namespace if kind.namespaced else None
        return Query(kind=kind.name, namespace=namespace, labels=self.labels, fields=self.fields)

    def matcher(self, kind: Kind) -> Matcher:
        """For a watch, which tells of every object. Raises UsageError for a bad selector."""
        from cumulus.resources.selectors import Matcher

        return Matcher(self.query(kind))


def documents(client: Client, target: Target, selection: Selection) -> Iterator[Document]:
    """The objects of a target, in the store's order. Raises NotFound for a name, UsageError for a selector."""
    if target.name is None:
        yield from client.list(selection.query(target.kind)).items
        return
    if selection.labels or selection.fields:
        raise UsageError("a name and a selector cannot be given together")
    yield client.get(key(target, selection.namespace or "default"))


def _kinds(word: str) -> list[Kind]:
    kinds = [kind for part in word.split(",") for kind in (ALL if part == "all" else (find_kind(part),))]
    return list(dict.fromkeys(kinds))


def _slashed(word: str) -> Target:
    kind, slash, name = word.partition("/")
    if not slash:
        raise UsageError(f"{word!r} is not KIND/NAME", hint="do not mix KIND/NAME with kinds and names")
    return Target(find_kind(kind), _name(name))


def _name(text: str) -> str:
    if not text or "/" in text or text.startswith("-"):
        raise UsageError(f"{text!r} is not a name")
    return text
