"""Event: who did what to which object and why; counted, de-duplicated, with a time to live."""

from __future__ import annotations

from typing import ClassVar, Literal

from cumulus.resources.fields import Model
from cumulus.resources.meta import Resource


class ObjectReference(Model):
    """The object an event is about."""

    api_version: str = ""
    kind: str
    namespace: str = ""
    name: str
    uid: str = ""


class EventSource(Model):
    component: str
    host: str = ""


class Event(Resource):
    """Named by a digest of what it says of whom, so that a repetition raises `count`. Fields as in core/v1."""

    KIND: ClassVar[str] = "Event"

    kind: Literal["Event"] = "Event"
    involved_object: ObjectReference
    reason: str
    """One CamelCase word."""
    message: str = ""
    type: Literal["Normal", "Warning"] = "Normal"
    source: EventSource
    count: int = 1
    first_timestamp: str
    last_timestamp: str
