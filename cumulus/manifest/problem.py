"""A problem with a manifest, and where it is: the error that `load` and `apply` raise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field as field_

from cumulus.admission.problems import FieldPath
from cumulus.errors import CumulusError


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file, counted from 1. Line 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    @staticmethod
    def at(file: str, data: bytes, offset: int) -> Position:
        """Where the byte at `offset` of what the file holds is."""
        line_start = data.rfind(b"\n", 0, offset) + 1
        column = len(data[line_start:offset].decode("utf-8", "replace")) + 1
        return Position(file, data.count(b"\n", 0, offset) + 1, column)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong. `field` is the path as the person wrote it (spec.env[2].name), or ""; `path` the same
    within the object, where the problem is of one."""

    position: Position
    field: str
    message: str
    path: FieldPath = field_(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.position}: {self.field}: {self.message}" if self.field else f"{self.position}: {self.message}"


class InvalidManifest(CumulusError):
    """Everything that is wrong with what was given, in the order it was given; nothing of it was applied.

    `str` has one line a problem.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
