"""RoleBinding and ClusterRoleBinding: who has which role, in one namespace or everywhere. Shaped as in Kubernetes'
rbac.authorization.k8s.io."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cumulus.resources.fields import Model, Text
from cumulus.resources.meta import Resource
from cumulus.resources.roles import Role

ApiGroup = Literal["", "rbac.authorization.k8s.io", "cumulus.dev"]


class RoleRef(Model):
    """The role that is given. Roles are built in: each may do all that the one before it may."""

    kind: Literal["Role", "ClusterRole"] = Field(
        "Role", description="Role or ClusterRole. Both mean the same here: where a role holds, the binding says."
    )
    name: Role = Field(description="viewer, user or admin.")
    api_group: ApiGroup | None = Field(None, description="As Kubernetes writes it. It has no effect here.")


class Subject(Model):
    """Who gets the role."""

    kind: Literal["User", "Group"] = Field(description="User or Group.")
    name: Text = Field(
        min_length=1,
        max_length=256,
        description="The name of the user or group. The group system:authenticated is everybody.",
    )
    api_group: ApiGroup | None = Field(None, description="As Kubernetes writes it. It has no effect here.")


class RoleBinding(Resource):
    """Gives users and groups a role in the namespace of the binding."""

    KIND: ClassVar[str] = "RoleBinding"
    IMMUTABLE: ClassVar[frozenset[str]] = frozenset({"roleRef"})

    kind: Literal["RoleBinding"] = Field("RoleBinding", description="Always RoleBinding.")
    role_ref: RoleRef = Field(description="The role that is given. It cannot change.")
    subjects: tuple[Subject, ...] = Field((), description="Who gets the role.")


class ClusterRoleBinding(Resource):
    """Gives users and groups a role in every namespace, and for what is in none: nodes, the Swarm, the daemon."""

    KIND: ClassVar[str] = "ClusterRoleBinding"
    IMMUTABLE: ClassVar[frozenset[str]] = frozenset({"roleRef"})
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["ClusterRoleBinding"] = Field("ClusterRoleBinding", description="Always ClusterRoleBinding.")
    role_ref: RoleRef = Field(description="The role that is given. It cannot change.")
    subjects: tuple[Subject, ...] = Field((), description="Who gets the role.")
