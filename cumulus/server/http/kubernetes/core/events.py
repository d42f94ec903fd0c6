"""Events as core/v1 has them, where `kubectl describe` and `kubectl events` look for those of an object.

Those of a job are told of its pods too, and those of a GPUNode of its Node, where a client asks for these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from cumulus.resources.key import API_VERSION, Document
from cumulus.resources.kind import Column
from cumulus.resources.kinds.event import event_object
from cumulus.resources.query import Query
from cumulus.resources.selectors import parse_fields
from cumulus.server.http.kubernetes.core.pods import job_of
from cumulus.server.http.kubernetes.core.view import View, field_term, routes

_KIND, _NAME, _UID = (f"involvedObject.{field}" for field in ("kind", "name", "uid"))


def events_of(event: Document, _: datetime) -> Sequence[Document]:
    source = event.get("source") or {}
    about = event["involvedObject"]
    return (
        {
            **event, "apiVersion": "v1",
            "involvedObject": {**about, "apiVersion": about.get("apiVersion") or API_VERSION},
            "eventTime": None, "reportingComponent": source.get("component", ""),
            "reportingInstance": source.get("host", ""),
        },
    )  # fmt: skip


def _asked(view: View, query: Query) -> tuple[View, str]:
    given = {".".join(term.path): term.value for term in parse_fields(query.fields, "Event").terms if term.equal}
    theirs, name = given.get(_KIND), given.get(_NAME, "")
    if theirs == "Pod":
        found = job_of(name)
        ours, stored = "GPUJob", found[0] if found else ""
    elif theirs == "Node":
        ours, stored = "GPUNode", name
    else:
        return view, query.fields

    def renamed(event: Document, now: datetime) -> Sequence[Document]:
        about = event["involvedObject"]
        if (about["kind"], about["name"]) != (ours, stored):
            return ()
        # A pod's uid is its own, a node's that of the GPUNode.
        uid = given.get(_UID, "") if theirs == "Pod" else about.get("uid", "")
        told = {"apiVersion": "v1", "kind": theirs, "name": name, "uid": uid}
        return [{**each, "involvedObject": {**about, **told}} for each in events_of(event, now)]

    return replace(view, convert=renamed), f"{field_term(_KIND, ours)},{field_term(_NAME, stored)}"


VIEW = View(
    "Event",
    "events",
    True,
    (
        Column("LAST SEEN", "lastTimestamp", form="age"),
        Column("TYPE", "type"),
        Column("REASON", "reason"),
        Column("OBJECT", cell=lambda event, _: event_object(event)),
        Column("SOURCE", "source.component", wide=True),
        Column("MESSAGE", "message"),
        Column("FIRST SEEN", "firstTimestamp", form="age", wide=True),
        Column("COUNT", "count", wide=True),
    ),
    "Event",
    events_of,
    "only Cumulus itself records events",
    named=False,
    asked=_asked,
)
ROUTES = routes(VIEW)
