"""Events as core/v1 has them, where `kubectl describe` and `kubectl events` look for those of an object.

Those of a job are told of its pods too, and those of a GPUNode of its Node, where a client asks for these.
events.k8s.io/v1 has the same events with other names for some fields, and is all that k9s asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from cumulus.resources.key import API_VERSION, Document
from cumulus.resources.kind import Column
from cumulus.resources.kinds.event import event_object
from cumulus.resources.query import Query
from cumulus.resources.selectors import parse_fields
from cumulus.server.http.kubernetes.core import nodes, pods
from cumulus.server.http.kubernetes.core.pods import job_of, pod_name, pod_uid
from cumulus.server.http.kubernetes.core.view import ComputedKind, field_term, routes
from cumulus.server.http.kubernetes.messages import EVENTS

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


def _asked(view: ComputedKind, query: Query) -> tuple[ComputedKind, str]:
    given = {".".join(term.path): term.value for term in parse_fields(query.fields, "Event").terms if term.equal}
    kind, name, uid = (given.get(field, "") for field in (_KIND, _NAME, _UID))
    pod = job_of(name)
    if kind == "Node":
        return replace(view, convert=_told_of_node), _about(nodes.VIEW.stored, name)
    if pod is None or (kind != "Pod" and (kind or not uid)):
        known = {_KIND: kind, _NAME: name, _UID: uid}
        return view, ",".join(field_term(field, value) for field, value in known.items() if value)
    # `kubectl describe pod` names no kind: what is asked about may then be something else of that name.
    convert = partial(_told_of_pod, *pod, uid, plain=not kind)
    return replace(view, convert=convert), _about(pods.VIEW.stored, pod[0]) if kind else ""


def _about(kind: str, name: str) -> str:
    return f"{field_term(_KIND, kind)},{field_term(_NAME, name)}"


def _told_of_node(event: Document, now: datetime) -> Sequence[Document]:
    return [_renamed(each, "Node", each["involvedObject"]["name"]) for each in events_of(event, now)]


def _told_of_pod(
    job: str, replica: int, uid: str, event: Document, now: datetime, *, plain: bool
) -> Sequence[Document]:
    """Of the pod of a job's replica what is told of the job. `uid`: only of that very pod; `plain`: all others too."""
    about = event["involvedObject"]
    theirs = pod_uid(about.get("uid", ""), replica)
    if (about["kind"], about["name"]) == (pods.VIEW.stored, job) and uid in ("", theirs):
        return [_renamed(each, "Pod", pod_name(job, replica), uid=theirs) for each in events_of(event, now)]
    return events_of(event, now) if plain else ()


def _renamed(event: Document, kind: str, name: str, **more: str) -> Document:
    about = {**event["involvedObject"], "apiVersion": "v1", "kind": kind, "name": name, **more}
    return {**event, "involvedObject": about}


VIEW = ComputedKind(
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


def _of_newer_group(event: Document) -> Document:
    """A core/v1 event as events.k8s.io/v1 has it."""
    kept: Document = {
        field: event[field]
        for field in ("kind", "metadata", "type", "reason", "reportingInstance", "eventTime")
        if field in event
    }
    return {
        **kept, "apiVersion": f"{EVENTS}/v1", "regarding": event["involvedObject"], "note": event.get("message", ""),
        "reportingController": event["reportingComponent"],
        **{
            new: event[old] for old, new in (
                ("source", "deprecatedSource"), ("firstTimestamp", "deprecatedFirstTimestamp"),
                ("lastTimestamp", "deprecatedLastTimestamp"), ("count", "deprecatedCount"),
            ) if old in event
        },
    }  # fmt: skip


def _of_core(fields: str) -> str:
    """A field selector on events.k8s.io/v1 as core/v1 has it."""
    found = []
    for term in parse_fields(fields).terms:
        path = ("involvedObject", *term.path[1:]) if term.path[0] == "regarding" else term.path
        found.append(field_term(".".join(path), term.value, equal=term.equal))
    return ",".join(found)


NEWER = replace(VIEW, group=EVENTS, whole=_of_newer_group, fields=_of_core)
ROUTES = (*routes(VIEW), *routes(NEWER))
