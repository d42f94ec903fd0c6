"""Who may do what: each cell of the matrix, and what gives a role."""

from __future__ import annotations

from typing import Any

import pytest

from cumulus.errors import Forbidden
from cumulus.resources.key import API_VERSION
from cumulus.resources.roles import Role
from cumulus.service.access.access import ADMIN_GROUP, Access
from cumulus.service.access.matrix import RESOURCES, Resource
from cumulus.service.identity import Identity
from cumulus.store.memory import MemoryStore
from cumulus.stores import empty_store

OWNER = 4_000_000_001
ANN = Identity("ann", 1001, ("lab",))


def binding(role: str, kind: str, name: str, namespace: str = "", called: str = "given") -> dict[str, Any]:
    metadata = {"name": called} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": API_VERSION, "kind": "RoleBinding" if namespace else "ClusterRoleBinding", "metadata": metadata,
        "roleRef": {"kind": "Role", "name": role}, "subjects": [{"kind": kind, "name": name}],
    }  # fmt: skip


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: f"{resource.name}.{resource.group}")
def test_each_cell(resource: Resource) -> None:
    where = "team" if resource.namespaced else ""
    for role in (None, *Role):
        store = empty_store()
        if role is not None:
            store.create(binding(role, "User", "ann", where))
        access = Access(lambda store=store: store, OWNER)  # type: ignore[misc]
        for verb, least in resource.verbs.items():
            allowed = least is None or (role is not None and role.covers(least))
            assert access.may(ANN, verb, resource.name, where, group=resource.group).allowed == allowed, (role, verb)
            if where and least is not None:
                assert not access.may(ANN, verb, resource.name, "other", group=resource.group).allowed
                assert not access.may(ANN, verb, resource.name, "", group=resource.group).allowed


def test_the_first_admins() -> None:
    access = Access(MemoryStore, OWNER)
    for admin in (Identity("root", 0), Identity("me", OWNER), Identity("eve", 7, (ADMIN_GROUP,))):
        assert access.is_admin(admin)
    # A name alone makes nobody root.
    assert access.role(Identity("root")) is None
    assert access.role(ANN) is None


def test_groups_everybody_and_what_is_bound_everywhere() -> None:
    store = empty_store()
    access = Access(lambda: store, OWNER)
    store.create(binding("user", "Group", "lab", "team"))
    assert access.role(ANN, "team") is Role.USER
    store.create(binding("viewer", "Group", "system:authenticated"))
    access.bindings_changed()
    assert (access.role(ANN, "team"), access.role(ANN, "other"), access.role(ANN)) == (
        Role.USER, Role.VIEWER, Role.VIEWER,
    )  # fmt: skip


def test_a_home_namespace_is_its_unix_users() -> None:
    access = Access(MemoryStore, 0, home_namespaces=True)
    assert access.role(ANN, "ann") is Role.USER
    assert access.role(ANN, "bob") is None
    assert access.role(Identity("ann"), "ann") is None


def test_what_is_not_allowed_says_what_would_be() -> None:
    access = Access(MemoryStore, OWNER)
    with pytest.raises(Forbidden) as caught:
        access.check(Identity("a\x1b[31m", 5), "delete", "gpujobs", "y", "x")
    assert str(caught.value) == (
        'gpujobs.cumulus.dev "x" is forbidden: User "a\\x1b[31m" cannot delete resource "gpujobs" in API group '
        '"cumulus.dev" in the namespace "y"'
    )
    hint = "it needs the role user in the namespace y, you have none; an admin gives it with a RoleBinding"
    assert caught.value.hint == hint
    with pytest.raises(Forbidden, match=r'list resource "gpujobs" in API group "cumulus[.]dev" at the cluster scope'):
        access.check(ANN, "list", "gpujobs")
