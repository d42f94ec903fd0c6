"""The part of JSONPath that kubectl has, for `-o jsonpath`, custom columns, `--sort-by` and `wait`.

A template is text with `{…}` in it: a path `{.items[*].metadata.name}`, a quoted literal `{"\\n"}`, or
`{range .items[*]}…{end}`. Paths know `.name` (with `\\.` for a dot inside), `..name`, `*`, `['name']`, indices,
unions `[0,2]`, slices `[1:3]` and filters `[?(@.type=="Ready")]`. What a path does not find is nothing, not an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cumulus.errors import UsageError
from cumulus.resources.jsonpath_syntax import (
    Descend,
    Every,
    FieldStep,
    FilterStep,
    Operand,
    PathPart,
    Pick,
    Range,
    Root,
    SliceStep,
    Step,
    parse_path,
    parse_template,
)

if TYPE_CHECKING:
    from cumulus.resources.field_path import FieldPlace
    from cumulus.resources.kind import Kind

MAX_STEPS = 1_000_000
"""Values that one evaluation may visit: nested ranges and `..` could otherwise take for ever."""
MAX_TEXT = 32 * 2**20
"""Characters that one evaluation may write: some times what the largest objects hold."""


class Template:
    """A compiled template. `render(document)` gives its text. Raises UsageError on bad syntax."""

    def __init__(self, text: str) -> None:
        self._parts = parse_template(text)

    def render(self, document: Any) -> str:
        """Raises UsageError where the template visits too much."""
        out: list[str] = []
        _render(self._parts, document, document, out, _Budget())
        return "".join(out)


class JsonPath:
    """One path, as custom columns, `--sort-by` and `wait` take it: `{.a.b}`, `.a.b` or `a.b`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._steps = parse_path(text)

    def check(self, kinds: Sequence[Kind]) -> None:
        """Raises UsageError where none of `kinds` has the fields on the way, with what was probably meant."""
        from cumulus.resources.field_path import FieldPlace

        problems: list[UsageError] = []
        for kind in kinds:
            start = FieldPlace.start(kind)
            try:
                _led(self._steps, start, start)
                return
            except UsageError as error:
                problems.append(error)
        for first in problems[:1]:
            shown = self._text if len(self._text) <= 60 else self._text[:57] + "..."
            raise UsageError(f"path {shown!r}: {first}", hint=first.hint)

    def find(self, document: Any) -> list[Any]:
        """Every value that the path leads to. Raises UsageError where that is too much."""
        return _walk(self._steps, [document], document, _Budget())

    def texts(self, document: Any) -> list[str]:
        """The same as text."""
        budget = _Budget()
        return _shown(_walk(self._steps, [document], document, budget), budget)


def _led(steps: tuple[Step, ...], place: FieldPlace | None, root: FieldPlace) -> FieldPlace | None:
    """Where the steps lead from `place`; None is anywhere. Raises UsageError for a field that is not there."""
    for step in steps:
        if isinstance(step, Root):
            place = root
        elif place is None or isinstance(step, Descend):
            place = None
        elif isinstance(step, FieldStep):
            place = place.named(step.name)
        elif isinstance(step, Pick) and (names := [key for key in step.keys if isinstance(key, str)]):
            places = [place.named(name) for name in names]
            place = places[0] if len(step.keys) == 1 else None
        else:
            place = place.each()
            if isinstance(step, FilterStep):
                for side in (step.left, step.right):
                    _led(side.steps or (), place, root)
    return place


def show(value: Any) -> str:
    """A value as text: strings bare, all else as compact JSON."""
    if isinstance(value, str):
        return value
    import json

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class _Budget:
    def __init__(self) -> None:
        self.left = MAX_STEPS
        self.text = MAX_TEXT

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise UsageError("this jsonpath visits too many values", hint="nest fewer ranges, or filter sooner")

    def write(self, text: str) -> str:
        self.text -= len(text)
        if self.text < 0:
            raise UsageError(f"this jsonpath writes more than {MAX_TEXT // 2**20} MiB", hint="write smaller values")
        return text


def _render(parts: tuple[PathPart, ...], current: Any, root: Any, out: list[str], budget: _Budget) -> None:
    for part in parts:
        budget.spend(1)
        if isinstance(part, str):
            out.append(budget.write(part))
        elif isinstance(part, Range):
            for value in _spread(_walk(part.steps, [current], root, budget)):
                _render(part.body, value, root, out, budget)
        else:
            out.append(" ".join(_shown(_walk(part, [current], root, budget), budget)))


def _shown(values: list[Any], budget: _Budget) -> list[str]:
    return [budget.write(show(value)) for value in values]


def _spread(values: list[Any]) -> list[Any]:
    """A range over a path that leads to one list goes through the list."""
    if len(values) == 1 and isinstance(values[0], list):
        return values[0]
    return values


def _walk(steps: tuple[Step, ...], values: list[Any], root: Any, budget: _Budget) -> list[Any]:
    for step in steps:
        found: list[Any] = []
        for value in values:
            before = len(found)
            found.extend(_step(step, value, root, budget))
            budget.spend(1 + len(found) - before)
        values = found
    return values


def _step(step: Step, value: Any, root: Any, budget: _Budget) -> Iterator[Any]:
    match step:
        case Root():
            yield root
        case FieldStep(name):
            if isinstance(value, dict) and name in value:
                yield value[name]
        case Every():
            yield from _children(value)
        case Descend():
            pending = [value]
            while pending:
                budget.spend(1)
                below = pending.pop()
                yield below
                pending.extend(reversed(list(_children(below))))
        case Pick(keys):
            for key in keys:
                yield from _picked(value, key)
        case SliceStep(cut):
            if isinstance(value, list):
                yield from value[cut]
        case FilterStep():
            for child in _children(value):
                budget.spend(1)
                if _holds(step, child, root, budget):
                    yield child


def _picked(value: Any, key: int | str) -> Iterator[Any]:
    if isinstance(key, str):
        if isinstance(value, dict) and key in value:
            yield value[key]
    elif isinstance(value, list) and -len(value) <= key < len(value):
        yield value[key]


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _holds(step: FilterStep, value: Any, root: Any, budget: _Budget) -> bool:
    left, right = (_operand(side, value, root, budget) for side in (step.left, step.right))
    if not step.operator:
        return bool(left)
    return any(_compare(step.operator, a, b, budget) for a in left for b in right)


def _operand(side: Operand, value: Any, root: Any, budget: _Budget) -> list[Any]:
    return [side.literal] if side.steps is None else _walk(side.steps, [value], root, budget)


def _compare(operator: str, a: Any, b: Any, budget: _Budget) -> bool:
    budget.spend(_size(a) if type(a) is type(b) else 1)
    if isinstance(a, bool) != isinstance(b, bool):
        return operator == "!="
    try:
        return _OPERATORS[operator](a, b)
    except TypeError:
        return False


def _size(value: Any) -> int:
    """What it costs to compare it with one like it."""
    if isinstance(value, str):
        return 1 + len(value) // 1000
    return 1 + sum(map(_size, _children(value)))


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<=": lambda a, b: bool(a <= b),
    ">=": lambda a, b: bool(a >= b),
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
}
