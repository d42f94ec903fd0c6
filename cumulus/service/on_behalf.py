"""What a controller does in the name of a person: with their roles of today, and as if they had asked for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

from cumulus.blob.base import BlobStore
from cumulus.clock import Clock
from cumulus.errors import Forbidden, Unauthenticated
from cumulus.lib.printable import one_line
from cumulus.lib.unix_user import UnixUser
from cumulus.manifest import Manifest, Problem
from cumulus.resources.registry import BY_NAME
from cumulus.resources.submitter import Submitter
from cumulus.service import audit
from cumulus.service.access.access import Access
from cumulus.service.access.guard import Guard
from cumulus.service.accounts import Accounts
from cumulus.service.identity import Identity
from cumulus.store.base import Document, Documents, Fence, Store, Write


class OnBehalf:
    """Every method raises Forbidden where the person is not who they were when they asked for it."""

    def __init__(
        self, store: Store, clock: Clock, access: Access, accounts: Accounts | None = None,
        blobs: Callable[[], BlobStore] | None = None,
    ) -> None:  # fmt: skip
        """`blobs`: see `Guard`."""
        self._store = store
        self._access = access
        self._guard = Guard(store, access, clock, blobs)
        self._accounts = accounts or Accounts()

    def user_of(self, submitter: Submitter) -> UnixUser | None:
        """The Unix user whose rights count when something is read for them; None for this process's own."""
        uid = self._identity(submitter).uid
        if uid is None:
            raise Forbidden(f"{one_line(submitter.name)} is no Unix user of this machine")
        if not self._access.rules.switches or uid == self._access.rules.uid:
            if uid in (0, self._access.rules.uid):
                return None
            raise Forbidden(f"this daemon reads nothing as {one_line(submitter.name)}: it is no system daemon")
        try:
            return UnixUser.find(uid)
        except KeyError:
            raise Forbidden(f"{one_line(submitter.name)} has no account on this machine any more") from None

    def refusals(self, submitter: Submitter, manifests: Sequence[Manifest]) -> list[Problem]:
        """Each manifest that the person may not apply through a Source, and why."""
        identity = self._identity(submitter)
        found = self._refusals(identity, manifests)
        if not found:
            return found
        # What is remembered of roles may be older than the binding that made somebody ask again.
        self._access.bindings_changed()
        return self._refusals(identity, manifests)

    def _refusals(self, identity: Identity, manifests: Sequence[Manifest]) -> list[Problem]:
        found = []
        may = cache(partial(self._access.may, identity, "patch"))
        is_admin = self._access.is_admin(identity)
        for manifest in manifests:
            kind, key = manifest.kind, manifest.key
            if kind.guarded and not is_admin:
                said = f"a {kind.name} is applied from an admin's Source alone, and this is {one_line(identity.name)}'s"
                found.append(manifest.problem(("kind",), said))
                continue
            decision = may(kind.plural, key.namespace)
            if not decision.allowed:
                said = f"{one_line(identity.name)}, whose Source it is, may not apply it: {decision.reason}"
                found.append(manifest.problem(("metadata", "namespace"), said))
        return found

    def commit(
        self, submitter: Submitter, writes: Sequence[Write], own: Sequence[Write], *, fence: Fence | None,
        owner: Document | None = None,
    ) -> Documents:  # fmt: skip
        """Write what the person asks for, and after it what is the controller's `own`, in one transaction. The answers
        to both. `owner`: the reference to what owns all that is made; the person need not be allowed to say so. Raises
        Forbidden, Conflict, NotFound, AlreadyExists, InvalidObject, Fenced."""
        identity = self._identity(submitter)
        changes = [audit.change(write.verb, BY_NAME[write.target.kind].plural, write.target) for write in writes]
        with self._access.audit.doing(identity, changes):
            checked = self._guard.checked(identity, writes, by_hand=False)
            if owner is not None:
                asked = len(writes)
                checked = [*(_owned(write, owner) for write in checked[:asked]), *checked[asked:]]
            answers = self._store.transact([*checked, *own], fence=fence)
        if any(BY_NAME[write.target.kind].grants for write in writes):
            self._access.bindings_changed()
        return [*answers[: len(writes)], *answers[len(checked) :]]

    def _identity(self, submitter: Submitter) -> Identity:
        if not submitter.name:
            raise Forbidden("nobody knows who made it: it is older than submitters", hint="delete it and make it anew")
        if submitter.uid is None:
            return Identity(submitter.name)
        try:
            found = self._accounts.of_uid(submitter.uid)
        except Unauthenticated as error:
            raise Forbidden(str(error), hint=error.hint) from None
        if found.name != submitter.name:
            raise Forbidden(
                f"uid {submitter.uid} was {one_line(submitter.name)} and is {one_line(found.name)} now",
                hint="delete it and make it anew as yourself",
            )
        return found


def _owned(write: Write, owner: Document) -> Write:
    if write.verb != "create" or write.document is None:
        return write
    metadata = {**write.document["metadata"], "ownerReferences": [owner]}
    return replace(write, document={**write.document, "metadata": metadata})
