"""Runs the rules over several fields (`model_validator(mode="after")`) on a document that has other problems.

Pydantic runs them only on models whose fields are all right; a person should hear of everything at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from cumulus.admission.problems import FieldPath
from cumulus.resources.fields import FieldError

Wrong = Mapping[FieldPath, bool]
"""Paths of fields that are wrong (True), and of those that hold one (False)."""


def broken_rules(model: type[BaseModel], value: object, wrong: Iterable[FieldPath]) -> Iterator[tuple[FieldPath, str]]:
    """Every rule that `value` breaks, with the path it speaks of. `wrong` holds the paths of fields known to be wrong:
    to a rule they are given, but of no known value."""
    wrong = list(wrong)
    holders = {path[:length]: False for path in wrong for length in range(1, len(path))}
    return _broken(model, value, holders | dict.fromkeys(wrong, True), ())


def _broken(model: type[BaseModel], value: object, wrong: Wrong, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    if not isinstance(value, Mapping):
        return
    partial = _Partial(model, value, wrong, path)
    for decorator in model.__pydantic_decorators__.model_validators.values():
        if decorator.info.mode != "after":
            continue
        try:
            getattr(decorator.func, "check", decorator.func)(partial)
        except (_UnknownError, TypeError):
            # What is written in C, as `re` and `<` are, refuses a value that is not known by a TypeError.
            continue
        except ValueError as error:
            yield path + (error.at if isinstance(error, FieldError) else ()), str(error)
    for field in model.model_fields.values():
        alias = field.alias or ""
        inner = model_in(field.annotation)
        below = value.get(alias)
        if inner is None:
            continue
        if isinstance(below, list):
            for index, item in enumerate(below):
                yield from _broken(inner, item, wrong, (*path, alias, index))
        else:
            yield from _broken(inner, below, wrong, (*path, alias))


class _UnknownError(Exception):
    """A rule asked for more of a wrong field than whether it is there."""


class _Given:
    """The value of a field that is wrong: it is not None, not empty, and equal to nothing else."""

    def __len__(self) -> int:
        raise _UnknownError

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        raise _UnknownError

    def __getitem__(self, _: Any) -> Any:
        raise _UnknownError

    def __str__(self) -> str:
        raise _UnknownError

    def __getattr__(self, name: str) -> Any:
        raise _UnknownError


class _Partial:
    """Stands for a model: gives the fields that are right as they were written, and defaults."""

    def __init__(self, model: type[BaseModel], value: Mapping[str, Any], wrong: Wrong, path: FieldPath) -> None:
        self._model, self._value, self._wrong, self._path = model, value, wrong, path

    def __getattr__(self, name: str) -> Any:
        field = self._model.model_fields[name]
        alias = field.alias or ""
        path = (*self._path, alias)
        inner = model_in(field.annotation)
        if self._wrong.get(path) or (inner is None and path in self._wrong):
            return _Given()
        value = self._value.get(alias)
        if value is None:
            return field.get_default(call_default_factory=True)
        if inner is None:
            return value
        if _holds_several(field.annotation):
            # A map, say, in the place of a list may be told by another path than its own.
            if not isinstance(value, list):
                return _Given()
            return [
                _Partial(inner, item, self._wrong, (*path, index)) if isinstance(item, Mapping) else _Given()
                for index, item in enumerate(value)
            ]
        return _Partial(inner, value, self._wrong, path) if isinstance(value, Mapping) else _Given()


def _holds_several(annotation: Any) -> bool:
    """Whether it is `tuple[M, ...]`, also as one of several."""
    return get_origin(annotation) is tuple or any(_holds_several(arg) for arg in get_args(annotation))


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in `M`, `M | None`, `tuple[M, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := model_in(arg)) is not None), None)
