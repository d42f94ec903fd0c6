"""Turns an object that somebody writes into the document to store, or into everything that forbids it. Pure.

    job = admit_create(kind, {"kind": "GPUJob", "metadata": {"name": "train"}, "spec": {...}}, user=True)
    job = admit_update(kind, stored, changed)

A rule may be newer than a stored object, and a row may be damaged: a problem that the stored object has already is not
held against a change, so that labels, finalizers and `suspend` of such an object can still be written (ADR 19).
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError, create_model

from cumulus.admission import immutability
from cumulus.admission.messages import no_namespace
from cumulus.admission.problems import FieldProblem, Rejected
from cumulus.admission.rules import model_in
from cumulus.admission.validation import name_of, problems, validated
from cumulus.resources.fields import STORED, FieldError
from cumulus.resources.key import DEFAULT_NAMESPACE, Document, key_of
from cumulus.resources.kind import Kind
from cumulus.resources.meta import Resource

KNOWN_BYTES = 4096
"""Of the JSON of a spec that is remembered to be valid, at most."""


def admit_create(kind: Kind, document: Document, *, user: bool = False) -> Document:
    """The new object with every default, in normal form. Raises Rejected.

    `user`: a person or a program asks for it, not a controller. Then its status is the default, and the kind's own
    rules on what people may make hold.
    """
    document = with_namespace(kind, document)
    if user:
        document = without_status(document)
    _check_namespace(kind, document)
    resource = validated(kind, document)
    if user and (found := refusals(kind, resource)):
        raise Rejected(resource.key, found)
    return resource.to_json()


def admit_update(kind: Kind, old: Document, new: Document) -> Document:
    """The stored object `old` as it is after the change to `new`, whose status does not count. Raises Rejected.

    What says the same in other words (60m for 1h) stays as it was written.
    """
    given = without_status(new)
    try:
        resource = validated(kind, given)
    except Rejected as error:
        _raise_new(kind, error, without_status(old))
        after = given
    else:
        after = without_status(resource.to_json())
    _check_beside_spec(kind, old, after)
    if isinstance(after.get("spec"), dict):
        after["spec"] = _kept_spec(kind, old, after["spec"])
    return after | ({"status": old["status"]} if "status" in old else {})


def admit_status(kind: Kind, old: Document, new: Document) -> Document:
    """The stored object `old` with the status of `new`. Raises Rejected."""
    check_status(kind, old, new)
    kept = without_status(old)
    return kept | {"status": new["status"]} if new.get("status") is not None else kept


def refusals(kind: Kind, resource: Resource) -> list[FieldProblem]:
    """Why people may not make this object, though it is valid."""
    if not kind.user_made:
        return [FieldProblem(("kind",), f"{kind.name} objects are made by the system; they cannot be applied")]
    try:
        resource.check_user_may_create()
    except FieldError as error:
        return [FieldProblem(error.at, str(error))]
    return []


def check_create(kind: Kind, document: Document) -> None:
    """Whether the object may be stored as it is. Raises Rejected."""
    _check_namespace(kind, document)
    if not _is_valid(kind.model(), document):
        validated(kind, document)


def check_update(kind: Kind, old: Document, new: Document) -> None:
    """Whether all but the status of `old` may become that of `new`. Raises Rejected."""
    given = without_status(new)
    if not _is_valid(kind.model(), given):
        try:
            validated(kind, given)
        except Rejected as error:
            _raise_new(kind, error, without_status(old))
    if found := list(immutability.changed_submitter(old, new)):
        raise Rejected(name_of(kind, old), found)
    _check_beside_spec(kind, old, new)
    if _touches_immutable(kind, old.get("spec") or {}, new.get("spec") or {}):
        _kept_spec(kind, old, _with_defaults(kind, new).get("spec") or {})


def check_status(kind: Kind, old: Document, new: Document) -> None:
    """Whether the status of `old` may become that of `new`. Raises Rejected."""
    status = new.get("status")
    field = kind.model().model_fields.get("status")
    model = model_in(field.annotation) if field is not None else None
    if status is None or (model is not None and _is_valid_status(model, status)):
        return
    try:
        validated(kind, new)
    except Rejected as error:
        about_status = [problem for problem in error.problems if problem.path[:1] == ("status",)]
        if about_status:
            _raise_new(kind, Rejected(name_of(kind, new), about_status), old)


def without_status(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "status"}


def _is_valid(model: type[BaseModel], document: Document) -> bool:
    """The quick answer, for what is written all day long: what is wrong is found out only where something is."""
    try:
        parts = {name: _part(part, name, document[name]) for name, part in _part_models(model) if name in document}
        _around(model).model_validate(document | parts, strict=True, by_alias=True, by_name=False)
    except (ValidationError, orjson.JSONEncodeError):
        return False
    return True


def _is_valid_status(model: type[BaseModel], status: Any) -> bool:
    try:
        _parsed(model, orjson.dumps(status))
    except (ValidationError, orjson.JSONEncodeError):
        return False
    return True


@cache
def _part_models(model: type[BaseModel]) -> tuple[tuple[str, type[BaseModel]], ...]:
    """The fields of a document that are models themselves, by their names there."""
    models = ((field.alias or name, model_in(field.annotation)) for name, field in model.model_fields.items())
    return tuple((name, part) for name, part in models if part is not None)


@cache
def _around(model: type[BaseModel]) -> type[BaseModel]:
    """The model with its own rules, which takes the parts as they are: pydantic would run all of their rules again."""
    parts = {part for part, _ in _part_models(model)}
    taken: dict[str, Any] = {
        name: (Any, ... if field.is_required() else None)
        for name, field in model.model_fields.items()
        if (field.alias or name) in parts
    }
    return create_model(model.__name__, __base__=model, **taken)


def _part(model: type[BaseModel], name: str, value: Any) -> BaseModel:
    """Raises ValidationError, JSONEncodeError."""
    json = orjson.dumps(value)
    # Each object has metadata of its own; large texts are not kept.
    return _parsed(model, json) if name == "metadata" or len(json) > KNOWN_BYTES else _known(model, json)


def _parsed(model: type[BaseModel], json: bytes) -> BaseModel:
    return model.model_validate_json(json, strict=True, by_alias=True, by_name=False)


_known = lru_cache(maxsize=256)(_parsed)
"""Objects that are made in numbers have the same few specs, and most updates leave spec as it is."""


def with_namespace(kind: Kind, document: Document) -> Document:
    """The object in the default namespace, where it names none and its kind needs one."""
    metadata = document.get("metadata")
    if not kind.namespaced or not isinstance(metadata, dict) or metadata.get("namespace"):
        return document
    return {**document, "metadata": {**metadata, "namespace": DEFAULT_NAMESPACE}}


def _check_namespace(kind: Kind, document: Document) -> None:
    metadata = document.get("metadata")
    found = metadata.get("namespace") if isinstance(metadata, dict) else None
    if isinstance(metadata, dict) and bool(found) != kind.namespaced:
        message = "is required" if kind.namespaced else no_namespace(kind)
        raise Rejected(name_of(kind, document), [FieldProblem(("metadata", "namespace"), message)])


def _raise_new(kind: Kind, rejected: Rejected, old: Document) -> None:
    """Raises Rejected with those of the problems that the stored object does not have."""
    known = set(problems(kind, old))
    new = [problem for problem in rejected.problems if problem not in known]
    if new:
        raise Rejected(name_of(kind, old), new) from None


def _kept_spec(kind: Kind, old: Document, spec: Document) -> Document:
    """`spec` in the words of the stored one. Raises Rejected where an immutable field would change."""
    before = _with_defaults(kind, old).get("spec") or {}
    after: Document = immutability.spec_in_old_words(kind, before, spec)
    if found := sorted(immutability.changed(kind, key_of(old), before, after)):
        raise Rejected(name_of(kind, old), found)
    return after


def _check_beside_spec(kind: Kind, old: Document, new: Document) -> None:
    """Raises Rejected where an immutable field beside spec would change."""
    if all(old.get(name) == new.get(name) for name in kind.model().IMMUTABLE):
        return
    before, after = _with_defaults(kind, old), _with_defaults(kind, new)
    if found := list(immutability.changed_beside_spec(kind, key_of(old), before, after)):
        raise Rejected(name_of(kind, old), found)


def _touches_immutable(kind: Kind, old: Document, new: Document) -> bool:
    mutable = kind.model().MUTABLE
    return any(old.get(name) != new.get(name) for name in old.keys() | new.keys() if name not in mutable)


def _with_defaults(kind: Kind, document: Document) -> Document:
    """In normal form, where it can be read; else as it is."""
    try:
        return kind.model().model_validate(without_status(document), context=STORED).to_json()
    except ValidationError:
        return document
