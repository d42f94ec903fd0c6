"""Label and field selectors, in Kubernetes' syntax.

Labels (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/):
`a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a` (there), `!a` (not there), joined by commas.
As in Kubernetes, `!=` and `notin` also match objects without the label.

Fields: `path.to.field=value`, `==` and `!=`, joined by commas; `\\,`, `\\=` and `\\\\` stand for the character
itself. A field that an object leaves out reads as empty text. One that its kind does not have, or a value that it never
has, is an error: `status.phse!=Running` would match everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cumulus.errors import UsageError
from cumulus.lib.suggest import nearest
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.query import Query
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.resources.field_path import FieldPlace


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a label selector. `values` is empty for exists and absent."""

    key: str
    operator: Literal["in", "notin", "exists", "absent"]
    values: frozenset[str] = frozenset()

    def matches(self, labels: dict[str, str]) -> bool:
        if self.operator == "exists":
            return self.key in labels
        if self.operator == "absent":
            return self.key not in labels
        found = labels.get(self.key)
        if self.operator == "in":
            return found is not None and found in self.values
        return found is None or found not in self.values


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; none matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, document: Document) -> bool:
        labels = document["metadata"].get("labels") or {}
        return all(requirement.matches(labels) for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class FieldTerm:
    path: tuple[str, ...]
    equal: bool
    value: str

    def matches(self, document: Document) -> bool:
        return (_field_text(document, self.path) == self.value) is self.equal


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All terms must hold; none matches everything."""

    terms: tuple[FieldTerm, ...] = ()

    def matches(self, document: Document) -> bool:
        return all(term.matches(document) for term in self.terms)


def parse_labels(text: str) -> LabelSelector:
    """Raises UsageError that points at the part that is wrong."""
    if not text.strip():
        return LabelSelector()
    return LabelSelector(tuple(_LabelParser(text).requirements()))


def parse_fields(text: str, kind: str = "") -> FieldSelector:
    """Of objects of `kind`; where that is none of ours, any field will do. Raises UsageError that points at the part
    that is wrong."""
    if not text.strip():
        return FieldSelector()
    known = BY_NAME.get(kind)
    return FieldSelector(tuple(_field_term(text, start, part, known) for start, part in _split_fields(text)))


class Matcher:
    """Whether a document is one that a query finds, but for its owner: for a watch, which tells of every object."""

    def __init__(self, query: Query) -> None:
        """Raises UsageError for a bad selector."""
        self._kind = query.kind
        self._namespace = query.namespace
        self._labels = parse_labels(query.labels)
        self._fields = parse_fields(query.fields, query.kind)

    def __call__(self, document: Document) -> bool:
        if document["kind"] != self._kind:
            return False
        if self._namespace is not None and document["metadata"].get("namespace") != self._namespace:
            return False
        return self._labels.matches(document) and self._fields.matches(document)


def _field_text(document: Document, path: tuple[str, ...]) -> str | None:
    """A scalar as text, "" where it is missing, None (equal to nothing) for a map or list."""
    value = lookup(document, path)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z0-9_./-]+)|(?P<sign>==|!=|[=!,()]))")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_END = ""


class _LabelParser:
    """Recursive descent over tokens; every error says which text at which place."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.at = 0

    def requirements(self) -> Iterator[Requirement]:
        yield self._requirement()
        while self._peek() != _END:
            self._expect(",", "a comma between requirements")
            yield self._requirement()

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._take()
            return Requirement(self._key(), "absent")
        key = self._key()
        sign = self._peek()
        if sign in ("=", "==", "!="):
            self._take()
            return Requirement(key, "notin" if sign == "!=" else "in", frozenset((self._value(),)))
        if sign in ("in", "notin"):
            self._take()
            return Requirement(key, sign, self._values())  # type: ignore[arg-type]
        if sign in (",", _END):
            return Requirement(key, "exists")
        raise self._wrong("an operator (=, ==, !=, in, notin) or a comma")

    def _key(self) -> str:
        word = self._peek()
        prefix, slash, name = word.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or (slash and not _PREFIX.fullmatch(prefix)):
            raise self._wrong("a label key ([prefix/]name)")
        return self._take()

    def _value(self) -> str:
        """A value may be empty: `a=` and `a=,b` are legal."""
        word = self._peek()
        if word in (",", ")", _END):
            return ""
        if not _LABEL_NAME.fullmatch(word):
            raise self._wrong("a label value (at most 63 letters, digits, '-', '_', '.')")
        return self._take()

    def _values(self) -> frozenset[str]:
        self._expect("(", "an opening parenthesis")
        values = [self._value()]
        while self._peek() == ",":
            self._take()
            values.append(self._value())
        self._expect(")", "a closing parenthesis")
        return frozenset(values)

    def _peek(self) -> str:
        return self.tokens[self.at][1]

    def _take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][1]

    def _expect(self, sign: str, name: str) -> None:
        if self._peek() != sign:
            raise self._wrong(name)
        self._take()

    def _tokens(self) -> Iterator[tuple[int, str]]:
        at, end = 0, len(self.text.rstrip())
        while at < end:
            found = _TOKEN.match(self.text, at)
            if found is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                raise _error("label", self.text, at, f"{self.text[at]!r} cannot stand here")
            yield found.start(found.lastgroup or 0), found.group(found.lastgroup or 0)
            at = found.end()
        yield end, _END

    def _wrong(self, expected: str) -> UsageError:
        start, token = self.tokens[self.at]
        return _error("label", self.text, start, f"expected {expected}, found {token!r}" if token else
                      f"expected {expected} at the end")  # fmt: skip


_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_/-]*)*")
"""With '/', which keys of labels have."""
_FIELD_OPERATOR = re.compile(r"!=|==|=")


def _split_fields(text: str) -> Iterator[tuple[int, str]]:
    """The parts between commas that no backslash precedes, each with its place."""
    start = at = 0
    while at < len(text):
        if text[at] == ",":
            yield start, text[start:at]
            start = at + 1
        at += 2 if text[at] == "\\" else 1
    yield start, text[start:]


def _field_term(text: str, start: int, part: str, kind: Kind | None) -> FieldTerm:
    found = _FIELD_OPERATOR.search(part)
    if found is None:
        raise _error("field", text, start, f"expected path=value or path!=value, found {part.strip()!r}")
    path = part[: found.start()].strip()
    if not _PATH.fullmatch(path):
        raise _error("field", text, start, f"expected a dotted path such as status.phase, found {path!r}")
    at = start + found.end()
    value = _unescaped(text, at, part[found.end() :])
    names = tuple(path.split("."))
    if kind is not None and path not in kind.selected:
        try:
            names = _checked(kind, names, value)
        except UsageError as error:
            raise _error("field", text, start + len(part) - len(part.lstrip()), str(error), error.hint) from None
    return FieldTerm(names, found.group() != "!=", value)


def _checked(kind: Kind, names: tuple[str, ...], value: str) -> tuple[str, ...]:
    """The path as objects have it: a key of a map is one name, with its dots. Raises UsageError for a field that the
    kind does not have, and for a value that the field never has."""
    # Only where it is needed: the schema takes longer to make than most lists to read.
    from cumulus.resources.field_path import FieldPlace

    place = FieldPlace.start(kind)
    for index, name in enumerate(names):
        if place.field.container == "map":
            names = (*names[:index], ".".join(names[index:]))
            place = place.named(names[-1])
            break
        place = place.named(name)
    if not place.single:
        below = ", ".join(f"{place.path}.{name}" for name in list(place.field.fields)[:3])
        hint = f"name one of its fields, as {below}" if below and not place.field.container else _LISTS
        raise UsageError(f"{place.path} of a {kind.name} is not a single value", hint=hint)
    _check_value(place, value)
    return names


def _check_value(place: FieldPlace, value: str) -> None:
    field = place.field
    known = ("true", "false") if field.type == "boolean" else field.choices
    if not value or not known or value in known:
        return
    close = nearest(value, known)
    hint = f"did you mean {close[0]}?" if close else f"it is {', '.join(known)}"
    raise UsageError(f"{place.path} of a {place.kind.name} is never {value[:60]!r}", hint=hint)


_LISTS = "field selectors compare single values; select by labels, or print it with -o jsonpath"


def _unescaped(text: str, start: int, raw: str) -> str:
    plain, at = [], 0
    while at < len(raw):
        escaped = raw[at] == "\\"
        at += escaped
        if escaped and raw[at : at + 1] not in (",", "=", "\\"):
            raise _error("field", text, start + at - 1, "a backslash stands only before ',', '=' and another backslash")
        if raw[at] == "=" and not escaped:
            raise _error("field", text, start + at, "write \\= for an equals sign in a value")
        plain.append(raw[at])
        at += 1
    return "".join(plain).strip()


def _error(kind: str, text: str, at: int, problem: str, hint: str | None = None) -> UsageError:
    return UsageError(f"{kind} selector {text!r}, character {at + 1}: {problem}", hint=hint)
