"""Event: who did what to which object and why; counted, de-duplicated, with a time to live."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cumulus.resources.fields import Model, Time
from cumulus.resources.meta import Resource


class ObjectReference(Model):
    """The object an event is about."""

    api_version: str = Field("", description="Its apiVersion.")
    kind: str = Field(description="Its kind.")
    namespace: str = Field("", description="Its namespace.")
    name: str = Field(description="Its name.")
    uid: str = Field("", description="Its uid.")


class EventSource(Model):
    component: str = Field(description="The controller or program.")
    host: str = Field("", description="The machine it ran on.")


class Event(Resource):
    """Something that happened to an object. A repetition raises `count`. Fields as in Kubernetes' core/v1."""

    KIND: ClassVar[str] = "Event"

    kind: Literal["Event"] = Field("Event", description="Always Event.")
    involved_object: ObjectReference = Field(description="The object the event is about.")
    reason: str = Field(description="Why, as one CamelCase word.")
    message: str = Field("", description="What happened, for people.")
    type: Literal["Normal", "Warning"] = Field("Normal", description="Normal or Warning.")
    source: EventSource = Field(description="Who recorded it.")
    count: int = Field(1, description="How often it happened.")
    first_timestamp: Time = Field(description="When it happened first.")
    last_timestamp: Time = Field(description="When it happened last.")
