"""Schemas of the kinds as Kubernetes' OpenAPI v3 writes them, made from the models that also check them. Pure.

Pydantic derives JSON Schema. Here its definitions get Kubernetes' names and the words that OpenAPI 3.0 knows, and
lists say how they are merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cumulus.resources.key import GROUP, VERSION
from cumulus.resources.kind import Kind
from cumulus.resources.values import KEYED_LISTS, SET_LISTS

OpenApiSchema = dict[str, Any]

META = "io.k8s.apimachinery.pkg.apis.meta.v1"
OURS = ".".join([*reversed(GROUP.split(".")), VERSION])
"""`dev.cumulus.v1alpha1`: before the names of our own definitions."""
GVK = "x-kubernetes-group-version-kind"
_OF_META = frozenset({"ObjectMeta", "OwnerReference", "ManagedFieldsEntry"})
_QUANTITIES = {
    "duration": ("Duration", "A time such as 1h30m, or a number of seconds."),
    "share": ("Share", "A share of a device's memory: a fraction such as 0.5, a percentage or a quantity."),
    "percentage": ("Percentage", "A part of a device's compute: a percentage such as 25%, or a fraction."),
    "bytes": ("Bytes", "An amount of memory such as 20Gi, or a number of bytes."),
    "cpus": ("Cpus", "A number of CPUs: 2, 0.5 or 500m."),
    "scalar": ("Scalar", "A short text, or a number, which is kept as text."),
}
"""Pydantic's formats for text that may also be written as a number -> name and description of the definition."""
_GENERATE_NAME = {
    "type": "string",
    "description": "The beginning of a name that the server makes, where no name is given.",
}
_KEPT = (
    "type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
)  # fmt: skip


def ref(name: str) -> OpenApiSchema:
    return {"$ref": f"#/components/schemas/{name}"}


def definition_name(model: str) -> str:
    """`dev.cumulus.v1alpha1.GPUJob`."""
    return f"{META if model in _OF_META else OURS}.{model}"


def definitions(kind: Kind) -> dict[str, OpenApiSchema]:
    """The schemas of the kind, of a list of it, and of all that they refer to, by name."""
    root = kind.model().model_json_schema(by_alias=True)
    defs = root.pop("$defs", {})
    found: dict[str, OpenApiSchema] = {}
    writer = _Writer(defs, found)
    gvk = {"group": GROUP, "version": VERSION, "kind": kind.name}
    found[definition_name(kind.name)] = {**writer.object(root, ()), GVK: [gvk]}
    found[f"{OURS}.{kind.name}List"] = list_schema(kind.name, definition_name(kind.name), gvk)
    return found


def list_schema(name: str, item: str, gvk: Mapping[str, str]) -> OpenApiSchema:
    """Of a list of the kind `name`, whose own definition is `item`."""
    return {
        "type": "object",
        "description": f"A list of {name} objects.",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of the schema."},
            "kind": {"type": "string", "description": f"Always {name}List."},
            "metadata": {"allOf": [ref(f"{META}.ListMeta")], "description": "Of the list.", "default": {}},
            "items": {"type": "array", "description": "The objects.", "items": {"allOf": [ref(item)], "default": {}}},
        },
        GVK: [{**gvk, "kind": f"{name}List"}],
    }


class _Writer:
    """`defs`: pydantic's definitions. Those that are referred to are added to `found`."""

    def __init__(self, defs: Mapping[str, OpenApiSchema], found: dict[str, OpenApiSchema]) -> None:
        self._defs = defs
        self._found = found

    def object(self, node: Mapping[str, Any], path: tuple[str, ...]) -> OpenApiSchema:
        """A model, at `path` of its kind."""
        written: OpenApiSchema = {"type": "object", **_description(node)}
        fields = node.get("properties", {})
        written["properties"] = {name: self._value(below, (*path, name)) for name, below in fields.items()}
        if node["title"] == "ObjectMeta":
            # A client may leave the name to the server.
            written["properties"]["generateName"] = _GENERATE_NAME
        elif node.get("required"):
            written["required"] = list(node["required"])
        return written

    def _value(self, node: Mapping[str, Any], path: tuple[str, ...]) -> OpenApiSchema:
        inner = self._resolved(node)
        # Pydantic leaves out the words of a field that are those of its model.
        said: OpenApiSchema = _description(node) or _description(inner)
        if node.get("default") not in (None, "", [], {}):
            said["default"] = node["default"]
        if target := self._target(inner, path):
            # A reference says nothing beside itself in OpenAPI 3.0.
            return {"allOf": [ref(target)], **({"default": {}} if "properties" in inner else {}), **said}
        return {**self._plain(inner, path), **said}

    def _plain(self, node: Mapping[str, Any], path: tuple[str, ...]) -> OpenApiSchema:
        if node.get("type") == "array":
            items = self._resolved(node["items"])
            return {"type": "array", "items": self._element(items, path), **_merging(path)}
        if node.get("type") == "object":
            values = node.get("additionalProperties")
            if not isinstance(values, Mapping):
                return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            return {"type": "object", "additionalProperties": self._element(self._resolved(values), path)}
        written = {name: node[name] for name in _KEPT if name in node}
        if "const" in node:
            written["enum"] = [node["const"]]
        for limit, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if limit in node:
                written |= {bound: node[limit], limit: True}
        if written.get("type") == "integer":
            written["format"] = "int64"
        if written.get("type") == "number":
            written["format"] = "double"
        return written

    def _element(self, node: Mapping[str, Any], path: tuple[str, ...]) -> OpenApiSchema:
        if target := self._target(node, path):
            return {"allOf": [ref(target)], **({"default": {}} if "properties" in node else {})}
        return self._plain(node, path)

    def _target(self, node: Mapping[str, Any], path: tuple[str, ...]) -> str:
        """The name of the definition that says what the node is, "" where it is written out."""
        if "properties" in node:
            name = definition_name(node["title"])
            if name not in self._found:
                self._found[name] = {}
                self._found[name] = self.object(node, path)
            return name
        if node.get("format") in _QUANTITIES:
            title, text = _QUANTITIES[node["format"]]
            name = f"{OURS}.{title}"
            self._found.setdefault(name, {"description": text, "oneOf": [{"type": "string"}, {"type": "number"}]})
            return name
        return ""

    def _resolved(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without a reference, and without the choice of null, which is the same as no field."""
        if "$ref" in node:
            return self._resolved(self._defs[node["$ref"].rsplit("/", 1)[1]])
        if "anyOf" in node:
            return self._resolved(next(choice for choice in node["anyOf"] if choice.get("type") != "null"))
        return node


def _description(node: Mapping[str, Any]) -> OpenApiSchema:
    return {"description": " ".join(node["description"].split())} if node.get("description") else {}


def _merging(path: tuple[str, ...]) -> OpenApiSchema:
    """How server-side apply merges the list at this path."""
    if path in KEYED_LISTS:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [KEYED_LISTS[path]]}
    return {"x-kubernetes-list-type": "set" if path in SET_LISTS else "atomic"}


def meta_definitions() -> dict[str, OpenApiSchema]:
    """What all requests and answers share, in Kubernetes' names."""
    return {f"{META}.{name}": schema for name, schema in _meta()}


def _meta() -> Iterator[tuple[str, OpenApiSchema]]:
    text, number = {"type": "string"}, {"type": "integer", "format": "int64"}
    yield (
        "ListMeta",
        _object(
            "Of a list.",
            {
                "continue": {**text, "description": "What asks for the next page, if there is one."},
                "remainingItemCount": {
                    **number,
                    "description": "How many objects are on later pages, if that is known.",
                },
                "resourceVersion": {
                    **text,
                    "description": "The revision that the list is of. A watch goes on from it.",
                },
            },
        ),
    )
    yield (
        "Preconditions",
        _object(
            "What must hold of an object, or it is not deleted.",
            {
                "uid": {**text, "description": "The object's uid."},
                "resourceVersion": {**text, "description": "The object's resourceVersion."},
            },
        ),
    )
    yield "DeleteOptions", _object(
        "How to delete.",
        {
            "apiVersion": text,
            "kind": text,
            "dryRun": {"type": "array", "items": {"type": "string", "enum": ["All"]}, "description": "All: only try."},
            "gracePeriodSeconds": {**number, "minimum": 0, "maximum": 2**31 - 1,
                                   "description": "How long a job's processes have at most to end."},
            "orphanDependents": {"type": "boolean", "description": "Use propagationPolicy instead."},
            "preconditions": {"allOf": [ref(f"{META}.Preconditions")], "description": "What must hold of the object."},
            "propagationPolicy": {**text, "enum": ["Background", "Foreground", "Orphan"],
                                  "description": "What becomes of the objects that belong to the deleted one."},
        },
    )  # fmt: skip
    yield (
        "StatusCause",
        _object(
            "One thing that is wrong.",
            {
                "field": {**text, "description": "The path of the field."},
                "message": {**text, "description": "What is wrong with it."},
                "reason": {**text, "description": "In one word."},
            },
        ),
    )
    yield "StatusDetails", _object(
        "What a Status is about.",
        {
            "causes": {"type": "array", "items": ref(f"{META}.StatusCause"), "description": "All that is wrong."},
            "group": text, "kind": text, "name": text, "uid": text,
            "retryAfterSeconds": {**number, "description": "When to try again."},
        },
    )  # fmt: skip
    yield "Status", _object(
        "What became of a request that is answered with no object.",
        {
            "apiVersion": text, "kind": text,
            "code": {**number, "description": "The HTTP status code."},
            "details": {"allOf": [ref(f"{META}.StatusDetails")], "description": "What it is about."},
            "message": {**text, "description": "What happened, for people."},
            "metadata": ref(f"{META}.ListMeta"),
            "reason": {**text, "description": "Why, as one CamelCase word."},
            "status": {**text, "description": "Success or Failure."},
        },
    )  # fmt: skip
    yield "Patch", {"description": "A patch, in the form that its media type says."}


def _object(description: str, properties: Mapping[str, OpenApiSchema]) -> OpenApiSchema:
    return {"type": "object", "description": description, "properties": dict(properties)}
