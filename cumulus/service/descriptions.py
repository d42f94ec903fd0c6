"""Everything about one object in one answer: its parts, its events, why it waits, what its deletion loses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cumulus.answers.objects import Description
from cumulus.errors import Forbidden, InvalidObject
from cumulus.resources.documents import MALFORMED, lookup
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.kinds import event
from cumulus.resources.query import Query
from cumulus.resources.registry import BY_NAME
from cumulus.service import diagnose
from cumulus.service.identity import Identity
from cumulus.service.redaction import Redaction

if TYPE_CHECKING:
    from cumulus.service.service import Service


class Descriptions:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._objects = service.objects
        self._redaction = Redaction(service.access)

    def describe(self, identity: Identity, key: Key) -> Description:
        """Raises NotFound."""
        document = self._objects.get(identity, key)
        damaged: list[InvalidObject] = []
        incomplete = False
        waiting: tuple[str, ...] = ()
        if _waits(document):
            try:
                # Loading the scheduler takes longer than all else here.
                waiting = self._service.explanations.waiting_lines(identity, document, damaged)
            except (InvalidObject, *MALFORMED):
                found = self._damaged(identity, document)
                if found is None:
                    raise
                incomplete = True
                damaged.append(found)
        files = None
        if BY_NAME[key.kind].leaves_files:
            files = self._service.jobs.files(identity, [document["metadata"]["uid"]])[0]
        return Description(
            document,
            tuple(self._related(identity, document)),
            tuple(self._events(identity, document)),
            waiting,
            files,
            tuple(damaged),
            incomplete,
        )

    def _damaged(self, identity: Identity, document: Document) -> InvalidObject | None:
        """What is wrong with the document, else with the first stored object that is damaged."""
        if (error := diagnose.problem_of(document)) is not None:
            return error
        found = next(diagnose.damaged(self._service.store), None)
        return None if found is None else self._redaction.problem(identity, *found)

    def losses(self, identity: Identity, key: Key) -> list[str]:
        """What a delete of the object loses that no controller brings back, in words. Raises NotFound."""
        kind = BY_NAME[key.kind]
        if kind.losses is None:
            return []
        document = self._objects.get(identity, key)
        related = self._objects.list(identity, kind.related.query(document)).items if kind.related else []
        try:
            return list(kind.losses(document, related))
        except MALFORMED:
            return ["is damaged: what would be lost with it cannot be told"]

    def _related(self, identity: Identity, document: Document) -> list[Document]:
        related = BY_NAME[document["kind"]].related
        if related is None:
            return []
        query = related.query(document)
        if query.namespace is None and document["metadata"].get("namespace"):
            query = replace(query, namespace=document["metadata"]["namespace"])
        try:
            return [d for d in self._objects.list(identity, query).items if related.shown(d)]
        except Forbidden:
            # Who may see a node may not see all of everybody's partitions there.
            items = self._service.store.list(query).items
            return [self._redaction.share(identity, d) for d in items if related.shown(d)]

    def _events(self, identity: Identity, document: Document) -> list[Document]:
        """The latest last."""
        key = key_of(document)
        if not BY_NAME[key.kind].tells:
            return []
        fields = f"involvedObject.kind={key.kind},involvedObject.name={key.name}"
        query = Query(event.KIND.name, namespace=key.namespace or None, fields=fields)
        try:
            found = self._objects.list(identity, query).items
        except Forbidden:
            # Who may see a node may not see what happened to everybody's objects.
            return []
        uid = document["metadata"]["uid"]
        mine = [e for e in found if lookup(e, "involvedObject.uid") in ("", None, uid)]
        return sorted(mine, key=lambda e: str(e.get("lastTimestamp")))


def _waits(document: Document) -> bool:
    pending = (lookup(document, "status.phase") or "Pending") == "Pending"
    return BY_NAME[document["kind"]].waits and pending and not lookup(document, "spec.suspend")
