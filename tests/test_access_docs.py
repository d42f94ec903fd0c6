"""The matrix in docs/access.md is the one that is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cumulus.resources.roles import Role
from cumulus.service.access.matrix import RESOURCES, GuardedResource

PAGE = Path(__file__).parents[1] / "docs" / "access.md"
BEGIN = "| resource | where a role counts | everybody | viewer | user | admin |"


def table() -> str:
    return "\n".join((BEGIN, "| --- | --- | --- | --- | --- | --- |", *map(_row, RESOURCES)))


def _row(resource: GuardedResource) -> str:
    name = f"`{resource.name}`" + ("" if resource.group == "cumulus.dev" else f" ({resource.group or 'core'})")
    where = "its namespace" if resource.namespaced else "everywhere"
    return f"| {name} | {where} | {' | '.join(_cells(resource))} |"


def _cells(resource: GuardedResource) -> Iterator[str]:
    """The verbs that each role adds to those of the role before it."""
    for role in (None, *Role):
        yield ", ".join(verb for verb, least in resource.verbs.items() if least is role)


def test_the_page_shows_the_matrix() -> None:
    assert table() in PAGE.read_text(), f"put this into {PAGE.name}:\n{table()}"
