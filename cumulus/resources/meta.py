"""What every object has: metadata, conditions, owner references. Field names are Kubernetes'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field

from cumulus.resources.fields import Model, Name, Time, check_label_key, check_label_value
from cumulus.resources.key import Document, Key
from cumulus.resources.submitter import DaemonRules, Submitter

SERVER_FIELDS = frozenset(
    {
        "uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp",
        "deletionGracePeriodSeconds", "finalizers", "ownerReferences", "managedFields", "selfLink",
    }
)  # fmt: skip
"""Metadata that belongs to the store and the controllers: what a manifest says of it is ignored, as is its status."""

JOB_LABEL = "cumulus.dev/job"
ATTEMPT_LABEL = "cumulus.dev/attempt"
REPLICA_LABEL = "cumulus.dev/replica"

LabelMap = Annotated[
    dict[
        Annotated[str, AfterValidator(check_label_key)],
        Annotated[str, AfterValidator(check_label_value)],
    ],
    Field(default_factory=dict),
]


class OwnerReference(Model):
    """An owner of this object, which is deleted with its last owner."""

    api_version: str = Field(description="The owner's apiVersion.")
    kind: str = Field(description="The owner's kind.")
    name: str = Field(description="The owner's name.")
    uid: str = Field(description="The owner's uid. Another object with the same name is not the owner.")
    controller: bool | None = Field(None, description="Whether this owner manages the object.")
    block_owner_deletion: bool | None = Field(None, description="For Kubernetes' clients; it has no effect here.")


class ManagedFieldsEntry(Model):
    """Which fields of the object one manager set."""

    manager: str = Field("", description="Who set them: the name of a program, such as kubectl.")
    operation: Literal["Apply", "Update"] = Field(
        description="How: Apply for server-side apply, Update for every other change."
    )
    api_version: str = Field(description="The version of the schema that the fields are named by.")
    time: Time | None = Field(None, description="When the manager changed something last.")
    fields_type: Literal["FieldsV1"] = Field("FieldsV1", description="Always FieldsV1.")
    fields_v1: dict[str, Any] = Field(
        default_factory=dict, alias="fieldsV1", description="The fields, as a tree in Kubernetes' format."
    )
    subresource: str | None = Field(None, description="The part of the object that was changed, such as status.")


class ObjectMeta(Model):
    """Name, namespace, labels and more. The store sets uid, generation, resourceVersion and the timestamps."""

    name: Name = Field(description="Unique within its kind and namespace; lower-case letters, digits, '-' and '.'.")
    namespace: Name | None = Field(
        None, description='Where the name is unique; "default" if left out. A GPUNode has none.'
    )
    uid: str | None = Field(None, description="Never used again. Set by the store.")
    labels: LabelMap = Field(default_factory=dict, description="Short texts to select objects by: app: training.")
    annotations: dict[Annotated[str, AfterValidator(check_label_key)], str] = Field(
        default_factory=dict,
        description="Texts for people and tools. An object has at most 1 MiB of JSON, not counting its status.",
    )
    generation: int | None = Field(None, description="Grows with each change of spec. Set by the store.")
    resource_version: str | None = Field(
        None, description="The revision of the store that wrote the object last. Set by the store."
    )
    creation_timestamp: Time | None = Field(None, description="When the object was made. Set by the store.")
    deletion_timestamp: Time | None = Field(None, description="When somebody asked for its deletion. Set by the store.")
    deletion_grace_period_seconds: int | None = Field(
        None,
        description="Seconds that a deleted job's processes have to stop, if less than their grace period; else 0.",
    )
    finalizers: tuple[str, ...] = Field(
        (), description="Who must clean up before the object is deleted. Set by controllers."
    )
    owner_references: tuple[OwnerReference, ...] = Field(
        (), description="The objects that own this one. It is deleted with the last of them. Set by controllers."
    )
    managed_fields: tuple[ManagedFieldsEntry, ...] = Field(
        (), description="Who set which field. The server keeps this, so that apply can tell of conflicts."
    )


class Condition(Model):
    """One aspect of an object's state, with when and why it last changed."""

    type: str = Field(description="Which aspect: Running, Succeeded, Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds: True, False or Unknown.")
    reason: str = Field("", description="Why, as one CamelCase word.")
    message: str = Field("", description="Why, for people.")
    last_transition_time: Time = Field("", description="When status changed last.")
    observed_generation: int | None = Field(None, description="The generation of the spec that this is about.")


class Resource(Model):
    """Base of every kind. Subclasses fix `kind` and add `spec` and `status`."""

    KIND: ClassVar[str]
    MUTABLE: ClassVar[frozenset[str]] = frozenset()
    """Fields of spec that may change after creation, as dotted paths; all others are immutable."""
    IMMUTABLE: ClassVar[frozenset[str]] = frozenset()
    """Fields beside spec that may not change after creation."""
    NAMESPACED: ClassVar[bool] = True

    api_version: Literal["cumulus.dev/v1alpha1"] = Field(
        "cumulus.dev/v1alpha1", description="The version of this schema."
    )
    kind: str = Field(description="The kind of object.")
    metadata: ObjectMeta = Field(description="Name, namespace, labels and annotations of the object.")

    @property
    def key(self) -> Key:
        return Key(self.kind, self.metadata.namespace or "", self.metadata.name)

    @property
    def uid(self) -> str:
        """The uid the store gave. Raises ValueError on an object that was never stored."""
        if self.metadata.uid is None:
            raise ValueError(f"{self.key} was never stored")
        return self.metadata.uid

    @property
    def deleting(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    def check_user_may_create(self) -> None:
        """A kind's own rule on what people may make, beyond its schema. Raises FieldError."""

    def refusal(self, submitter: Submitter, rules: DaemonRules) -> str:
        """Why this submitter may not make it where the daemon has these rules; "" where they may."""
        return ""

    @classmethod
    def sources(cls, document: Document) -> Sequence[tuple[str, Key]]:
        """The objects from which it takes what their submitter alone may have, each with the field that names it: they
        must be there, and be the same submitter's."""
        return ()

    def is_owned_by(self, uid: str) -> bool:
        return any(owner.uid == uid for owner in self.metadata.owner_references)

    def owner(self, kind: str) -> OwnerReference | None:
        """The object's first owner of that kind."""
        return next((owner for owner in self.metadata.owner_references if owner.kind == kind), None)

    def owner_reference(self) -> OwnerReference:
        """A controller reference to this object, for what it makes."""
        return OwnerReference(
            api_version=self.api_version, kind=self.kind, name=self.metadata.name, uid=self.uid,
            controller=True, block_owner_deletion=True,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        json = super().to_json()
        json["metadata"] = {name: value for name, value in json["metadata"].items() if value not in ({}, [])}
        return json

    def replace(self, **fields: Any) -> Self:
        """A copy with top-level fields replaced."""
        return self.model_copy(update=fields)


def condition(conditions: tuple[Condition, ...], type: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((c for c in conditions if c.type == type), None)


def is_true(conditions: tuple[Condition, ...], type: str) -> bool:
    found = condition(conditions, type)
    return found is not None and found.status == "True"


def with_condition(conditions: tuple[Condition, ...], new: Condition, now: str) -> tuple[Condition, ...]:
    """`conditions` with `new` put in; lastTransitionTime moves to `now` only when the status changes."""
    old = condition(conditions, new.type)
    since = old.last_transition_time if old is not None and old.status == new.status else now
    new = new.model_copy(update={"last_transition_time": since})
    if old is None:
        return (*conditions, new)
    return tuple(new if c.type == new.type else c for c in conditions)
