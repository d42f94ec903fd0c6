"""The registry's entries for RoleBinding and ClusterRoleBinding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cumulus.resources.key import Document
from cumulus.resources.kind import CellView, Column, Kind
from cumulus.resources.sections import Fields, Rows, Section, Surroundings


def subject_names(binding: Document, kind: str) -> str:
    return ", ".join(str(s.get("name")) for s in _subjects(binding) if s.get("kind") == kind)


def _users(binding: Document, _: CellView) -> str:
    return subject_names(binding, "User")


def _groups(binding: Document, _: CellView) -> str:
    return subject_names(binding, "Group")


def _subjects(binding: Document) -> list[dict[str, Any]]:
    return [subject for subject in binding.get("subjects") or () if isinstance(subject, dict)]


def sections(binding: Document, _: Surroundings) -> Iterator[Section]:
    yield Fields([("Role", str((binding.get("roleRef") or {}).get("name", "")))])
    rows = [(str(subject.get("kind")), str(subject.get("name"))) for subject in _subjects(binding)]
    yield Rows("Subjects", ("KIND", "NAME"), rows)


_COLUMNS = (
    Column("ROLE", "roleRef.name", fit="whole", yields=0),
    Column("USERS", cell=_users, fit="wrap", yields=1),
    Column("GROUPS", cell=_groups, fit="wrap", yields=2),
    Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=3),
)

KIND = Kind(
    "RoleBinding",
    "rolebindings",
    ("rb",),
    True,
    "cumulus.resources.role_binding",
    _COLUMNS,
    grants=True,
    guarded=True,
    noun="role binding",
    sections=sections,
)

CLUSTER_KIND = Kind(
    "ClusterRoleBinding",
    "clusterrolebindings",
    ("crb",),
    False,
    "cumulus.resources.role_binding",
    _COLUMNS,
    grants=True,
    guarded=True,
    noun="cluster role binding",
    sections=sections,
)
