"""What is wrong with an object, by field path: the error that admission raises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cumulus.errors import InvalidObject
from cumulus.resources.key import Key

FieldPath = tuple[str | int, ...]
"""Where in an object a value is: ("spec", "env", 2, "name"); () is the object itself."""


@dataclass(frozen=True, slots=True, order=True)
class FieldProblem:
    """One thing that is wrong with the value at `path`, or with its name where `of_name`."""

    path: FieldPath
    message: str
    of_name: bool = False

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {self.message}" if self.path else self.message


class Rejected(InvalidObject):
    """An object may not be written as it was given; nothing of it was. `problems` has everything that is wrong with it
    that was not told already.

    `str` is one line about the first of them; `field` is its path.
    """

    def __init__(self, about: Key | str, problems: Iterable[FieldProblem]) -> None:
        self.about = about
        self.problems = tuple(problems)
        first = self.problems[0] if self.problems else FieldProblem((), "is not valid")
        more = len(self.problems) - 1
        others = f"; and {more} more problem{'s' if more > 1 else ''}" if more > 0 else ""
        super().__init__(f"{about}: {first}{others}", field=path_text(first.path) or None)


def path_text(path: FieldPath) -> str:
    """spec.env[2].name; keys of labels and the like in brackets: metadata.labels[app.example.com/name]."""
    text = ""
    for index, given in enumerate(path):
        step = given if isinstance(given, int) or given.isprintable() else repr(given)
        if isinstance(step, int) or (index and path[index - 1] in _MAPS):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


_MAPS = frozenset({"labels", "annotations", "nodeLabels"})
