"""Stands before every write of people and programs: may they, who submitted it, and does what runs stay theirs?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cumulus.errors import Forbidden, InvalidObject
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.registry import BY_NAME
from cumulus.resources.submitter import SUBMITTER, SUBMITTER_ADMIN, SUBMITTER_ANNOTATIONS, SUBMITTER_UID
from cumulus.service.access import bindings
from cumulus.service.access.access import Access, refusal
from cumulus.service.access.matrix import find
from cumulus.service.identity import Identity
from cumulus.store.base import Store, Write

_VERBS = {"create": "create", "update": "patch", "status": "patch", "delete": "delete"}
_CONTROLLERS_OWN = ("ownerReferences", "finalizers")


class Guard:
    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    def checked(self, identity: Identity, writes: Sequence[Write]) -> list[Write]:
        """The writes with who submitted what. Raises Forbidden where one of them is not allowed, NotFound."""
        return [self._checked(identity, write) for write in writes]

    def _checked(self, identity: Identity, write: Write) -> Write:
        document = write.document
        key = write.key or key_of(document or {})
        kind = BY_NAME[key.kind]
        verb = _VERBS[write.verb]
        resource = f"{kind.plural}/status" if write.verb == "status" else kind.plural
        self._access.check(identity, verb, resource, key.namespace, key.name)
        if document is not None and kind.grants:
            self._check_grants(identity, verb, key, document)
        if write.verb == "create":
            assert document is not None
            self._check_own(identity, key, verb, document, {})
            self._check_needs(identity, key, document)
            return replace(write, document=_submitted(document, self._submitter(identity)))
        stored = self._store.get(key)
        self._check_submitter(identity, verb, key, stored)
        if document is None:
            return write
        self._check_own(identity, key, verb, document, stored)
        uid = write.uid or stored["metadata"]["uid"]
        return replace(write, document=_submitted(document, _submitter_of(stored), given=True), uid=uid)

    def _submitter(self, identity: Identity) -> dict[str, str]:
        uid = {} if identity.uid is None else {SUBMITTER_UID: str(identity.uid)}
        admin = {SUBMITTER_ADMIN: "true"} if self._access.is_admin(identity) else {}
        return {SUBMITTER: identity.name, **uid, **admin}

    def _check_submitter(self, identity: Identity, verb: str, key: Key, stored: Document) -> None:
        if self._access.is_admin(identity, key.namespace):
            return
        found = _submitter_of(stored)
        uid = found.get(SUBMITTER_UID)
        mine = found.get(SUBMITTER) == identity.name and uid in (None, str(identity.uid))
        if not mine:
            whose = found.get(SUBMITTER, "the daemon's own user")
            raise self._refusal(identity, verb, key, f"it is {whose}'s: only they and an admin may change it")

    def _check_own(self, identity: Identity, key: Key, verb: str, document: Document, stored: Document) -> None:
        """Owners and finalizers decide what is deleted, and what a controller takes for its own."""
        if self._access.is_admin(identity, key.namespace):
            return
        before, after = stored.get("metadata") or {}, document["metadata"]
        for field in _CONTROLLERS_OWN:
            if (after.get(field) or []) != (before.get(field) or []):
                raise self._refusal(identity, verb, key, f"only an admin may change metadata.{field}")

    def _check_needs(self, identity: Identity, key: Key, document: Document) -> None:
        if self._access.is_admin(identity):
            return
        model = BY_NAME[key.kind].model()
        need = model.model_validate(document).needs_admin(identity.uid, switches_users=self._access.owner == 0)
        if need:
            raise self._refusal(identity, "create", key, f"{need}: it needs the role admin in all namespaces")

    def _check_grants(self, identity: Identity, verb: str, key: Key, document: Document) -> None:
        """Nobody gives more than they have."""
        held = self._access.role(identity, key.namespace)
        for _, role in bindings.given(document):
            if held is None or not held.covers(role):
                raise self._refusal(identity, verb, key, f"you can't give the role {role}, which you do not have")

    def _refusal(self, identity: Identity, verb: str, key: Key, hint: str) -> Forbidden:
        plural = BY_NAME[key.kind].plural
        return refusal(identity, verb, find(plural) or plural, key.namespace, key.name, hint=hint)


def _submitter_of(document: Document) -> dict[str, str]:
    annotations = document["metadata"].get("annotations") or {}
    return {name: annotations[name] for name in SUBMITTER_ANNOTATIONS if name in annotations}


def _submitted(document: Document, submitter: dict[str, str], *, given: bool = False) -> Document:
    """The object with that submitter and no other. With `given`, a document that names another is refused."""
    metadata = document["metadata"]
    annotations = metadata.get("annotations") or {}
    for name in SUBMITTER_ANNOTATIONS if given else ():
        if name in annotations and annotations[name] != submitter.get(name):
            path = f"metadata.annotations[{name}]"
            message = f"{key_of(document)}: {path}: is set when the object is made and cannot change"
            raise InvalidObject(message, field=path)
    kept = {name: value for name, value in annotations.items() if name not in SUBMITTER_ANNOTATIONS}
    after = {name: value for name, value in metadata.items() if name != "annotations"}
    return {**document, "metadata": after | ({"annotations": kept | submitter} if kept or submitter else {})}
