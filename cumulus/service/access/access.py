"""May they? Every call of the service asks it, once, for every transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cumulus.errors import Forbidden
from cumulus.lib.printable import one_line
from cumulus.resources.kinds import rolebinding
from cumulus.resources.roles import Role, strongest
from cumulus.resources.submitter import DaemonRules
from cumulus.service.access.bindings import Bindings
from cumulus.service.access.matrix import OTHERS, READ, GuardedResource, find
from cumulus.service.audit import Audit

if TYPE_CHECKING:
    from cumulus.service.identity import Identity
    from cumulus.store.base import Store

ADMIN_GROUP = "cumulus-admin"
"""Its members are admins everywhere, before anything is bound."""


_TOLD = frozenset(
    (resource.name, verb)
    for resource in OTHERS
    if not resource.namespaced and resource.name not in ("systemsecrets", "tokens")
    for verb, role in resource.verbs.items()
    if role is Role.ADMIN and (verb not in READ or resource.name == "swarms/invitation")
)
"""What is no object, and changes something or gives a key away. The log tells that somebody began it. Secrets
and tokens tell of themselves, with the outcome."""


class Decision(NamedTuple):
    """Whether it is allowed, and why, or what would have to be."""

    allowed: bool
    reason: str


class Access:
    """`owner`: the Unix user whose state directory it is, who is an admin, as root and `cumulus-admin` are.

    `home_namespaces`: a Unix user has the role user in the namespace of their own name, as where a system daemon serves
    all users of a machine. `mounts`: the directories of nodes that containers of all users may mount from.
    `switches`: whether programs run as their submitters; if left out, root's do.
    """

    def __init__(
        self, open_store: Callable[[], Store], owner: int, *, home_namespaces: bool = False, mounts: Sequence[str] = (),
        audit: Audit = Audit(logs=False), switches: bool | None = None,
    ) -> None:  # fmt: skip
        self._bindings = Bindings(open_store)
        self.audit = audit
        self.owner = owner
        self.rules = DaemonRules(owner, tuple(mounts), owner == 0 if switches is None else switches)
        self._home_namespaces = home_namespaces

    def role(self, identity: Identity, namespace: str = "") -> Role | None:
        """The role of the identity in the namespace; "" for the role everywhere."""
        if identity.uid in (0, self.owner) or ADMIN_GROUP in identity.groups:
            return Role.ADMIN
        at_home = self._home_namespaces and identity.uid is not None and identity.name == namespace
        return strongest(self._bindings.role(identity, namespace), Role.USER if at_home else None)

    def is_admin(self, identity: Identity, namespace: str = "") -> bool:
        return self.role(identity, namespace) is Role.ADMIN

    def may_somewhere(self, identity: Identity, least: Role) -> bool:
        """Whether the identity has the role in at least one namespace."""
        at_home = Role.USER if self._home_namespaces and identity.uid is not None else None
        role = strongest(strongest(self.role(identity), at_home), self._bindings.somewhere(identity))
        return role is not None and role.covers(least)

    def may(
        self, identity: Identity, verb: str, resource: str, namespace: str = "", name: str = "",
        group: str | None = None,
    ) -> Decision:  # fmt: skip
        """Whether the identity may do it: `resource` as in `matrix`, gpujobs or gpujobs/log; `namespace` "" for all of
        them. `group`: where the same resource is in several."""
        role = self.role(identity, namespace)
        known = find(resource, group)
        if known is None or "*" in (verb, resource):
            # What there is not, and everything at once.
            return _decision(role, Role.ADMIN, identity, namespace)
        if not known.namespaced and namespace:
            role = self.role(identity, "")
        if verb not in known.verbs:
            return Decision(False, f"there is no verb {one_line(verb)} of {known.name}")
        return _decision(role, known.verbs[verb], identity, namespace if known.namespaced else "")

    def check(
        self, identity: Identity, verb: str, resource: str, namespace: str = "", name: str = "",
        group: str | None = None,
    ) -> None:  # fmt: skip
        """Raises Forbidden where `may` says no."""
        decision = self.may(identity, verb, resource, namespace, name, group)
        if not decision.allowed:
            self.audit.tell(identity, verb, resource, namespace, name, "Forbidden")
            known = find(resource, group)
            raise refusal(identity, verb, known or resource, namespace, name, hint=decision.reason)
        if (resource, verb) in _TOLD:
            self.audit.tell(identity, verb, resource, namespace, name, "allowed")

    def bindings_changed(self) -> None:
        """This process wrote a role binding."""
        self._bindings.forget()


def refusal(
    identity: Identity, verb: str, resource: GuardedResource | str, namespace: str = "", name: str = "", *, hint: str
) -> Forbidden:
    """In kubectl's words."""
    if isinstance(resource, str):
        plural, group, namespaced = resource, "", bool(namespace)
    else:
        plural, group, namespaced = resource.name, resource.group, resource.namespaced
    what = one_line(f"{plural}.{group}" if group else plural)
    quoted = f' "{one_line(name)}"' if name else ""
    where = f'in the namespace "{one_line(namespace)}"' if namespaced and namespace else "at the cluster scope"
    return Forbidden(
        f'{what}{quoted} is forbidden: User "{one_line(identity.name)}" cannot {one_line(verb)} resource '
        f'"{one_line(plural)}" in API group "{one_line(group)}" {where}',
        hint=hint,
    )


def _decision(role: Role | None, least: Role | None, identity: Identity, namespace: str) -> Decision:
    where = f"in the namespace {one_line(namespace)}" if namespace else "in all namespaces"
    if least is None:
        return Decision(True, "everybody may")
    if role is not None and role.covers(least):
        return Decision(True, f"{one_line(identity.name)} has the role {role} {where}")
    binding = (rolebinding.KIND if namespace else rolebinding.CLUSTER_KIND).name
    has = f"you have {role}" if role is not None else "you have none"
    return Decision(False, f"it needs the role {least} {where}, {has}; an admin gives it with a {binding}")
