"""Server-side apply to one object: the stored object and a configuration -> what to store. Pure.

The semantics of Kubernetes. Who applies a configuration owns its fields. A field that a manager applied before and
applies no more goes, unless another manager owns it too. A field with another value that another manager owns is a
conflict, unless it is forced. Every other field stays as it is. Maps are merged by key at any depth, lists in
`values.KEYED_LISTS` by item, and every other list is one value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cumulus.admission import immutability
from cumulus.admission.admit import admit_create
from cumulus.admission.problems import FieldProblem, Rejected
from cumulus.admission.validation import validated
from cumulus.apply import fieldset, ownership
from cumulus.apply.fieldset import Difference
from cumulus.apply.ownership import FieldOwner, Owners
from cumulus.errors import Conflict, InvalidObject, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.key import API_VERSION, Document, Key, key_of
from cumulus.resources.kind import Kind
from cumulus.resources.meta import SERVER_FIELDS, Resource
from cumulus.resources.submitter import submitter_annotations, with_submitter
from cumulus.store.client import decode

_SERVERS = SERVER_FIELDS - set(fieldset.USERS_METADATA)


class Applier(NamedTuple):
    """Who applies, when (RFC 3339) and how. `force`: take over what others own. `recreate`: make anew what cannot
    become what is applied."""

    manager: str
    now: str
    force: bool = False
    recreate: bool = False


class AppliedChange(NamedTuple):
    """What applying does to an object: before and after, both with every default, without a change of owners."""

    live: Document
    """As stored."""
    before: Document
    after: Document
    difference: Difference

    def immutable(self, kind: Kind) -> list[FieldProblem]:
        """Each immutable field that would change."""
        key = key_of(self.live)
        found = [*immutability.changed_beside_spec(kind, key, self.before, self.after)]
        if "spec" in self.after:
            found += immutability.changed(kind, key, self.before.get("spec") or {}, self.after["spec"])
        return sorted(found)


class AppliedConfiguration(NamedTuple):
    """What somebody applies to one object. `uid`, `resource_version`: of that very object, where they are given."""

    document: Document
    uid: str = ""
    resource_version: str = ""

    def check_preconditions(self, live: Document | None) -> None:
        """Raises Conflict."""
        stored = live["metadata"] if live is not None else {}
        for field, wanted in (("uid", self.uid), ("resourceVersion", self.resource_version)):
            if wanted and wanted != stored.get(field):
                found = f"is {stored[field]}" if stored else "has none: it is not there"
                raise Conflict(f"the {field} in the configuration is {one_line(wanted)}, but the object {found}")


def configuration(key: Key, given: Any) -> AppliedConfiguration:
    """What is applied of a document that somebody gave for that object: without status, and of metadata without what
    only the server sets. Raises UsageError for what is no configuration of the object."""
    metadata = given.get("metadata") if isinstance(given, Mapping) else None
    if not isinstance(metadata, Mapping):
        raise UsageError("a configuration is an object with apiVersion, kind and metadata")
    for field, value in (("apiVersion", API_VERSION), ("kind", key.kind)):
        if given.get(field) != value:
            raise UsageError(f"the {field} of the configuration must be {value}")
    if metadata.get("managedFields"):
        raise UsageError("metadata.managedFields must be nil")
    for field, value in (("name", key.name), ("namespace", key.namespace)):
        if (metadata.get(field) or value) != value:
            raise UsageError(f"the {field} of the object does not match the {field} on the URL")
    names = {"name": key.name} | ({"namespace": key.namespace} if key.namespace else {})
    mine = {name: value for name, value in metadata.items() if name not in _SERVERS and value is not None}
    rest = {name: value for name, value in given.items() if name != "status"}
    uid, version = metadata.get("uid") or "", metadata.get("resourceVersion") or ""
    return AppliedConfiguration({**rest, "metadata": mine | names}, str(uid), str(version))


def outcome(kind: Kind, config: Document, live: Document | None, by: Applier) -> Document:
    """What to store; `live` itself where nothing changes. Raises Rejected, ApplyConflict, InvalidObject."""
    try:
        if live is None:
            return created(admit_create(kind, config, user=True), config, by)
        change = combined(kind, config, live, by.manager)
        if immutable := change.immutable(kind):
            raise Rejected(key_of(live), immutable)
        return owned(change, config, by)
    except RecursionError:
        raise InvalidObject(f"{key_of(config)}: the configuration is nested too deeply") from None


def created(document: Document, config: Mapping[str, Any], by: Applier) -> Document:
    """The new object, which `config` makes, with its owner."""
    return ownership.written(
        document, ownership.applied({}, by.manager, config, {}, fieldset.NO_DIFFERENCE, now=by.now)
    )


def merged(document: Document, config: Mapping[str, Any], owners: Owners, manager: str) -> Document:
    """What users write of an object, once the manager has applied `config` to it."""
    me = FieldOwner(manager, "Apply")
    gone = owners[me].fields if me in owners else frozenset()
    held = fieldset.fields(config).union(*(owned.fields for owner, owned in owners.items() if owner != me))
    both = fieldset.merge(fieldset.users_part(document), fieldset.users_part(config))
    return fieldset.prune(both, gone, held)


def combined(kind: Kind, config: Mapping[str, Any], live: Document, manager: str) -> AppliedChange:
    """The stored object with the manager's configuration. Raises Rejected where both do not go together, InvalidObject
    where what is stored is damaged."""
    stored = decode(kind.model(), live)
    # Without defaults: a block that is gone from the configuration goes with the defaults in it.
    sparse = stored.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
    wanted = _with_submitter(merged(sparse, config, ownership.of(live), ownership.check_manager(manager)), live)
    names = {"name": live["metadata"]["name"], "namespace": live["metadata"].get("namespace")}
    metadata = {name: value for name, value in names.items() if value} | wanted.get("metadata", {})
    identified = {**wanted, "apiVersion": API_VERSION, "kind": kind.name, "metadata": metadata}
    resource = validated(kind, identified)
    old, new = _body(stored), _body(resource)
    if "spec" in new:
        # The configuration's word for the same value (60m for 1h) is no change.
        new["spec"] = immutability.spec_in_old_words(kind, old["spec"], new["spec"])
    before, after = _with(live, old, stored), _with(live, new, resource)
    return AppliedChange(live, before, after, fieldset.difference(before, after))


def _with_submitter(wanted: Document, live: Document) -> Document:
    """Who made an object is the server's to say, as its uid is: a configuration that was printed elsewhere says it of
    another one."""
    metadata = wanted.get("metadata") or {}
    given = metadata.get("annotations") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(given, dict | None):
        return wanted  # Which is refused for that.
    return with_submitter(wanted, submitter_annotations(live["metadata"].get("annotations")))


def owned(change: AppliedChange, config: Mapping[str, Any], by: Applier) -> Document:
    """What to store: the stored object itself where nothing changes, owners included. Raises ApplyConflict."""
    owners = ownership.of(change.live)
    after = ownership.applied(owners, by.manager, config, change.before, change.difference, now=by.now, force=by.force)
    if change.difference:
        return ownership.written(change.after, after)
    return change.live if after == owners else ownership.written(change.live, after)


def _body(resource: Resource) -> Document:
    """What a user says of the object besides its metadata: its spec, or a binding's role and subjects."""
    found = fieldset.users_part(resource.to_json())
    return {name: value for name, value in found.items() if name != "metadata"}


def _with(live: Document, body: Document, resource: Resource) -> Document:
    """`live` with that body, and the labels, annotations, finalizers and owners of `resource`."""
    kept = {name: value for name, value in live["metadata"].items() if name not in fieldset.USERS_METADATA}
    return {**live, **body, "metadata": kept | fieldset.users_part(resource.to_json())["metadata"]}
