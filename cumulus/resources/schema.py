"""A kind's model as a tree of fields with type, description, default and choices.

Read off the JSON schema that pydantic derives, so that it cannot differ from what is checked. `explain` prints it,
and the manifest loader takes its suggestions from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from threading import Lock
from typing import Any

from cumulus.resources.kind import Kind


@dataclass(frozen=True)
class SchemaField:
    """One field. `type` is a word for people: string, integer, duration, []Env, map[string]string, GPU.

    `name` is "" for a kind's root; `default` is None where there is none, or where it is empty.
    """

    name: str
    type: str
    description: str
    required: bool
    default: Any
    choices: tuple[str, ...]
    examples: tuple[str, ...]
    bounds: str
    """The least and greatest value, "" where neither is set: at least 1, at most 64."""
    container: str
    """"" for one value, "list" or "map" for several of `fields`' type."""
    _properties: Mapping[str, Any]
    _required: frozenset[str]
    _defs: Mapping[str, Any]

    @cached_property
    def fields(self) -> dict[str, SchemaField]:
        """The fields of this object, or of each element where it is a list of objects; empty for scalars."""
        return {name: _field(name, node, name in self._required, self._defs) for name, node in self._properties.items()}

    def walk(self, path: str = "") -> Iterator[tuple[str, SchemaField]]:
        """Every field below, with its dotted path, as a reader meets them."""
        for name, field in self.fields.items():
            below = f"{path}.{name}" if path else name
            yield below, field
            yield from field.walk(below)


def root(kind: Kind) -> SchemaField:
    """The kind itself as a field that holds the others."""
    # To make one takes some hundred milliseconds, and several threads want the same at first.
    with _making:
        return _root(kind)


_making = Lock()


@cache
def _root(kind: Kind) -> SchemaField:
    schema = kind.model().model_json_schema(by_alias=True)
    return _field("", schema, True, schema.get("$defs", {}))


def _field(name: str, node: Mapping[str, Any], required: bool, defs: Mapping[str, Any]) -> SchemaField:
    inner = _resolved(node, defs)
    container, element = "", inner
    if inner.get("type") == "array":
        container, element = "list", _resolved(inner["items"], defs)
    elif inner.get("type") == "object" and isinstance(inner.get("additionalProperties"), Mapping):
        container, element = "map", _resolved(inner["additionalProperties"], defs)
    prefix = {"": "", "list": "[]", "map": "map[string]"}[container]
    default = node.get("default")
    choices = element.get("enum") or ([element["const"]] if "const" in element else [])
    return SchemaField(
        name=name,
        type=prefix + _type_word(element),
        description=" ".join(str(node.get("description") or inner.get("description") or "").split()),
        required=required,
        default=None if default in (None, "", [], {}) else default,
        choices=tuple(choices),
        examples=tuple(str(example) for example in element.get("examples", ())),
        bounds=_bounds(element),
        container=container,
        _properties=element.get("properties", {}),
        _required=frozenset(element.get("required", ())),
        _defs=defs,
    )


def _resolved(node: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node with its reference followed and `null` taken out of a choice."""
    if "$ref" in node:
        return _resolved(defs[node["$ref"].rsplit("/", 1)[1]], defs)
    if "anyOf" in node:
        real = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        return _resolved(real[0], defs)
    return node


def _bounds(node: Mapping[str, Any]) -> str:
    said = (("minimum", "at least"), ("exclusiveMinimum", "more than"), ("maximum", "at most"))
    return ", ".join(f"{words} {node[name]}" for name, words in said if name in node)


def _type_word(node: Mapping[str, Any]) -> str:
    if "properties" in node:
        return str(node["title"])
    if node.get("type") == "array":
        return f"[]{_type_word(node['items'])}"
    return str(node.get("format") or node.get("type") or "string")
