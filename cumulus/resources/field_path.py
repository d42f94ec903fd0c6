"""Paths into the objects of a kind, checked step by step against its schema.

A selector, a column or an order over a field that is not there would match everything, or show nothing, without a word.
"""

from __future__ import annotations

from dataclasses import dataclass

from cumulus.errors import UsageError
from cumulus.lib.suggest import nearest
from cumulus.resources.kind import Kind
from cumulus.resources.schema import SchemaField, root


@dataclass(frozen=True, slots=True)
class FieldPlace:
    """Where a path has come to: a field, or one of several values of it (`element`)."""

    kind: Kind
    field: SchemaField
    path: str = ""
    element: bool = False

    @staticmethod
    def start(kind: Kind) -> FieldPlace:
        return FieldPlace(kind, root(kind))

    def named(self, name: str) -> FieldPlace:
        """The field of that name, or the value under that key. Raises UsageError with what was probably meant."""
        if self._several and self.field.container == "list":
            right = f"{self.path}[*].{name}" if self.field.fields else f"{self.path}[*]"
            raise UsageError(f"{self.path} of a {self.kind.name} is a list", hint=f"its values are {right}")
        below = f"{self.path}.{name}" if self.path else name
        if self._several:
            return FieldPlace(self.kind, self.field, below, element=True)
        found = self.field.fields.get(name)
        if found is None:
            raise UsageError(
                f"a {self.kind.name} has no field {below}",
                hint=instead(self.kind, self.field, self.path, name),
            )
        return FieldPlace(self.kind, found, below)

    def each(self) -> FieldPlace | None:
        """The values of a list or map; None for the fields of an object, which differ. Raises UsageError."""
        if self._several:
            return FieldPlace(self.kind, self.field, f"{self.path}[*]", element=True)
        if self.field.fields:
            return None
        raise UsageError(f"{self.path} of a {self.kind.name} is one value, not a list")

    @property
    def single(self) -> bool:
        """Whether it is one value that can be compared, and no object, list or map."""
        return not self._several and not self.field.fields

    @property
    def _several(self) -> bool:
        return bool(self.field.container) and not self.element


def instead(kind: Kind, parent: SchemaField, path: str, name: str, *, before: str = "") -> str:
    """A hint for a field that `parent`, at `path`, does not have. `before`: what goes before each path."""
    above = f"{before}{path}." if path else before
    close = nearest(name, parent.fields, most=3)
    if close:
        return f"did you mean {' or '.join(above + word for word in close)}?"
    known = [below for below, field in root(kind).walk() if field.name == name]
    if known:
        return f"did you mean {before}{min(known, key=len)}?"
    if parent.fields:
        return f"its fields are {', '.join(parent.fields)}" if path else f"it has {', '.join(parent.fields)}"
    return f"it holds {parent.type}, which has no fields"
