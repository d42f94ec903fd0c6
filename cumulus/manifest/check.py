"""Checks a document's nodes: gives a `Manifest`, or every problem with it. The second step of loading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cumulus.admission.empty_fields import without_empty
from cumulus.admission.messages import joined, no_namespace, suggestion
from cumulus.admission.problems import FieldPath, FieldProblem, Rejected, path_text
from cumulus.admission.validation import validated
from cumulus.errors import InvalidObject
from cumulus.lib.suggest import nearest
from cumulus.manifest.problem import InvalidManifest, Position, Problem
from cumulus.manifest.yaml_nodes import YamlNode, node_of
from cumulus.resources import registry
from cumulus.resources.annotations import LAST_APPLIED
from cumulus.resources.key import API_VERSION, DEFAULT_NAMESPACE, Document, Key
from cumulus.resources.kind import Kind
from cumulus.resources.meta import SERVER_FIELDS, Resource


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object that somebody wants to exist.

    `document` holds what was written and nothing else (no defaults, no server's fields, no status), in normal form:
    camelCase JSON, durations and quantities as text. `resource` is the same with every default.
    """

    resource: Resource
    document: Document
    kind: Kind
    file: str
    node: YamlNode
    prefix: FieldPath = ()
    """Where in its document it was found: ("items", 3) within a List."""
    printed: bool = False
    """It carries what only the server gives an object, as what `get -o yaml` prints does."""

    @property
    def key(self) -> Key:
        return self.resource.key

    def problem(self, path: FieldPath, message: str) -> Problem:
        """A problem with the value at `path`, placed at it or at the nearest thing around it that exists."""
        return Problem(position(self.file, self.node, path), path_text(self.prefix + path), message, path)

    def placed(self, problems: Iterable[FieldProblem]) -> list[Problem]:
        """What admission found, each placed in the file."""
        return [self.problem(problem.path, problem.message) for problem in problems]


def placed(refused: InvalidObject, manifests: Iterable[Manifest]) -> list[Problem]:
    """What was refused when it was to be stored, placed in the manifest that it is about; [] where that is none."""
    if not isinstance(refused, Rejected):
        return []
    found = next((manifest for manifest in manifests if manifest.key == refused.about), None)
    return [] if found is None else found.placed(refused.problems)


def from_documents(documents: Sequence[Document]) -> list[Manifest]:
    """Manifests that were loaded elsewhere, from their `document`. Their file is their number. Raises
    InvalidManifest."""
    found: list[Manifest] = []
    problems: list[Problem] = []
    for number, document in enumerate(documents):
        try:
            checked = list(check(node_of(document), str(number), None))
        except RecursionError:
            checked = [Problem(Position(str(number)), "", "is nested too deeply")]
        for each in checked:
            if isinstance(each, Problem):
                problems.append(each)
            else:
                found.append(each)
    if problems:
        raise InvalidManifest(problems)
    return found


def check(
    node: YamlNode, file: str, namespace: str | None, prefix: FieldPath = (), *, default: str = DEFAULT_NAMESPACE
) -> Iterator[Manifest | Problem]:
    """The objects in one document (several if it is a List), each checked, or what is wrong with them.

    `namespace`: what the caller asked for; objects that name another are refused. None: as written, or `default`.
    """
    if not isinstance(node.value, dict):
        if not node.broken:
            said = "must be an object with apiVersion, kind, metadata and spec"
            more = "; separate objects by '---', or make a List of them" if isinstance(node.value, list) else ""
            yield _problem(file, node, (), prefix, said + more)
        return
    if _text_at(node, "kind") == "List":
        yield from _check_list(node, file, namespace, default, prefix)
        return
    yield from _check_object(node, file, namespace, default, prefix)


def position(file: str, node: YamlNode, path: FieldPath, *, key: bool = False) -> Position:
    """Where the value at `path` is (or its key), or the nearest thing around it that exists."""
    found = Position(file, node.line, node.column)
    for index, step in enumerate(path):
        if isinstance(node.value, dict) and isinstance(step, str) and step in node.value:
            at_key = node.keys[step]
            node = node.value[step]
            last = index == len(path) - 1
            is_parent = isinstance(node.value, dict | list) and node.value
            line, column = at_key if (last and key) or is_parent else (node.line, node.column)
            found = Position(file, line, column)
        elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            found = Position(file, node.line, node.column)
        else:
            break
    return found


def _check_list(
    node: YamlNode, file: str, namespace: str | None, default: str, prefix: FieldPath
) -> Iterator[Manifest | Problem]:
    assert isinstance(node.value, dict)
    if _text_at(node, "apiVersion") not in ("v1", API_VERSION):
        yield _problem(file, node, ("apiVersion",), prefix, "must be v1 for a List")
    for name in node.value:
        if name not in ("apiVersion", "kind", "metadata", "items"):
            message = f"unknown field{suggestion(name, ['items', 'metadata'])}"
            yield _problem(file, node, (name,), prefix, message, key=True)
    items = node.value.get("items")
    if items is None or not isinstance(items.value, list):
        if items is None or not items.broken:
            yield _problem(file, node, ("items",), prefix, "must be a list of objects")
        return
    for index, item in enumerate(items.value):
        yield from check(item, file, namespace, (*prefix, "items", index), default=default)


def _check_object(
    node: YamlNode, file: str, namespace: str | None, default: str, prefix: FieldPath
) -> Iterator[Manifest | Problem]:
    assert isinstance(node.value, dict)
    problems: list[Problem] = []
    kind = _kind_of(node, file, prefix, problems)
    if kind is None or not kind.user_made:
        yield from problems
        return
    document, printed = _as_written(node, kind)
    document["apiVersion"], document["kind"] = API_VERSION, kind.name
    problems += _set_namespace(document, node, kind, file, namespace, default, prefix)
    resource: Resource | None = None
    try:
        resource = validated(kind, document, node)
    except Rejected as rejected:
        problems += [_problem(file, node, p.path, prefix, p.message, key=p.of_name) for p in rejected.problems]
    if problems or resource is None:
        yield from problems
        return
    written = resource.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    yield Manifest(resource, written, kind, file, node, prefix, printed)


def _kind_of(node: YamlNode, file: str, prefix: FieldPath, problems: list[Problem]) -> Kind | None:
    """The kind meant, a likely one where it is misspelt, so that the rest can be checked too."""
    assert isinstance(node.value, dict)
    found: Kind | None = None
    kind_node = node.value.get("kind")
    if kind_node is None or kind_node.value is None:
        if kind_node is None or not kind_node.broken:
            known = joined([kind.name for kind in registry.KINDS if kind.user_made], "or")
            problems.append(_problem(file, node, ("kind",), prefix, f"is required: {known}"))
    else:
        found = registry.BY_NAME.get(kind_node.text)
        if found is None:
            message, found = _unknown_kind(kind_node)
            problems.append(_problem(file, node, ("kind",), prefix, message))
        elif not found.user_made:
            message = f"{found.name} objects are made by the system; they cannot be applied"
            problems.append(_problem(file, node, ("kind",), prefix, message))
    version = node.value.get("apiVersion")
    if version is None or version.value is None:
        if version is None or not version.broken:
            problems.append(_problem(file, node, ("apiVersion",), prefix, f"is required: {API_VERSION}"))
    elif version.text != API_VERSION:
        message = f"must be {API_VERSION}, got {version.text[:60]!r}"
        problems.append(_problem(file, node, ("apiVersion",), prefix, message))
    return found


def _as_written(node: YamlNode, kind: Kind) -> tuple[Document, bool]:
    """The document without what is not the writer's, as `get -o yaml` prints it (server's fields, status, the note of
    an earlier version's apply), and without fields left empty; and whether it was printed so."""
    document: Document = node.plain_value()
    printed = False
    document.pop("status", None)
    metadata = document.get("metadata")
    if isinstance(metadata, dict):
        printed = bool(metadata.get("uid"))
        for name in SERVER_FIELDS & metadata.keys():
            del metadata[name]
        annotations = metadata.get("annotations")
        if isinstance(annotations, dict) and annotations.pop(LAST_APPLIED, None) is not None:
            metadata["annotations"] = annotations or None
    return without_empty(kind, document), printed


def _set_namespace(
    document: Document, node: YamlNode, kind: Kind, file: str, wanted: str | None, default: str, prefix: FieldPath
) -> list[Problem]:
    """Puts the namespace into `document` where it was left out (an empty one is none), or says why it is wrong."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return []
    if metadata.get("namespace") == "":
        del metadata["namespace"]
    given = metadata.get("namespace")
    path = ("metadata", "namespace")
    if not kind.namespaced:
        if given is None:
            return []
        return [_problem(file, node, path, prefix, no_namespace(kind))]
    if given is None:
        metadata["namespace"] = wanted or default
    elif wanted is not None and given != wanted:
        message = f"is {given!r}, but the namespace asked for is {wanted!r}; change one of them"
        return [_problem(file, node, path, prefix, message)]
    return []


def _unknown_kind(node: YamlNode) -> tuple[str, Kind | None]:
    """What to say about a kind that is none, and the kind that was probably meant."""
    user_made = {kind.name: kind for kind in registry.KINDS if kind.user_made}
    words = {word: kind for kind in user_made.values() for word in kind.words}
    near = nearest(node.text, user_made)
    meant = words.get(node.text.lower()) or (user_made[near[0]] if near else None)
    known = joined(list(user_made), "and")
    if not node.text or isinstance(node.value, list | dict):
        return f"must be one of {joined(list(user_made), 'or')}", None
    if meant is None:
        return f"there is no kind {node.text[:60]!r}; the kinds are {known}", None
    return f"there is no kind {node.text[:60]!r}; did you mean {meant.name}?", meant


def _problem(
    file: str, node: YamlNode, path: FieldPath, prefix: FieldPath, message: str, *, key: bool = False
) -> Problem:
    return Problem(position(file, node, path, key=key), path_text(prefix + path), message, path)


def _text_at(node: YamlNode, key: str) -> str | None:
    value = node.value.get(key) if isinstance(node.value, dict) else None
    return value.text if value is not None else None
