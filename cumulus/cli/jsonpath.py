"""The part of JSONPath that kubectl has, for `-o jsonpath`, custom columns, `--sort-by` and `wait`.

A template is text with `{…}` in it: a path `{.items[*].metadata.name}`, a quoted literal `{"\\n"}`, or
`{range .items[*]}…{end}`. Paths know `.name` (with `\\.` for a dot inside), `..name`, `*`, `['name']`, indices,
unions `[0,2]`, slices `[1:3]` and filters `[?(@.type=="Ready")]`. What a path does not find is nothing, not an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cumulus.errors import UsageError

MAX_LENGTH = 8192
MAX_STEPS = 1_000_000
"""Values that one evaluation may visit: nested ranges and `..` could otherwise take for ever."""


class Template:
    """A compiled template. `render(document)` gives its text. Raises UsageError on bad syntax."""

    def __init__(self, text: str) -> None:
        self._parts = _TemplateParser(text).parse()

    def render(self, document: Any) -> str:
        """Raises UsageError where the template visits too much."""
        out: list[str] = []
        _render(self._parts, document, document, out, _Budget())
        return "".join(out)


class Path:
    """One path, as custom columns, `--sort-by` and `wait` take it: `{.a.b}`, `.a.b` or `a.b`."""

    def __init__(self, text: str) -> None:
        inner = text.strip()
        if inner.startswith("{") and inner.endswith("}"):
            inner = inner[1:-1].strip()
        if inner and inner[0] not in ".[$@":
            inner = "." + inner
        reader = _Reader(inner, original=text)
        self._steps = _path(reader)
        if reader.rest():
            raise reader.error(f"unexpected {reader.rest()[:10]!r}")

    def find(self, document: Any) -> list[Any]:
        """Every value that the path leads to."""
        return _walk(self._steps, [document], document, _Budget())


def show(value: Any) -> str:
    """A value as text: strings bare, all else as compact JSON."""
    if isinstance(value, str):
        return value
    import json

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Range:
    steps: tuple[_Step, ...]
    body: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Root:
    """`$` inside a range or filter: start again from the document."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str


@dataclass(frozen=True, slots=True)
class _Every:
    pass


@dataclass(frozen=True, slots=True)
class _Descend:
    """`..`: the value and everything below it."""


@dataclass(frozen=True, slots=True)
class _Pick:
    """A union of indices and quoted names."""

    keys: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class _Slice:
    value: slice


@dataclass(frozen=True, slots=True)
class _Filter:
    left: _Operand
    operator: str
    right: _Operand


@dataclass(frozen=True, slots=True)
class _Operand:
    """A literal, or a path where `steps` is not None."""

    literal: Any = None
    steps: tuple[_Step, ...] | None = None


_Step = _Root | _Field | _Every | _Descend | _Pick | _Slice | _Filter
_Part = str | tuple[_Step, ...] | _Range


class _Budget:
    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise UsageError("this jsonpath visits too many values", hint="nest fewer ranges, or filter sooner")


def _render(parts: tuple[_Part, ...], current: Any, root: Any, out: list[str], budget: _Budget) -> None:
    for part in parts:
        budget.spend(1)
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, _Range):
            for value in _spread(_walk(part.steps, [current], root, budget)):
                _render(part.body, value, root, out, budget)
        else:
            found = _walk(part, [current], root, budget)
            text = " ".join(show(value) for value in found)
            budget.spend(len(text))
            out.append(text)


def _spread(values: list[Any]) -> list[Any]:
    """A range over a path that leads to one list goes through the list."""
    if len(values) == 1 and isinstance(values[0], list):
        return values[0]
    return values


def _walk(steps: tuple[_Step, ...], values: list[Any], root: Any, budget: _Budget) -> list[Any]:
    for step in steps:
        found: list[Any] = []
        for value in values:
            found.extend(_step(step, value, root, budget))
            budget.spend(1)
        budget.spend(len(found))
        values = found
    return values


def _step(step: _Step, value: Any, root: Any, budget: _Budget) -> Iterator[Any]:
    match step:
        case _Root():
            yield root
        case _Field(name):
            if isinstance(value, dict) and name in value:
                yield value[name]
        case _Every():
            yield from _children(value)
        case _Descend():
            pending = [value]
            while pending:
                budget.spend(1)
                below = pending.pop()
                yield below
                pending.extend(reversed(list(_children(below))))
        case _Pick(keys):
            for key in keys:
                yield from _picked(value, key)
        case _Slice(cut):
            if isinstance(value, list):
                yield from value[cut]
        case _Filter():
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


def _holds(step: _Filter, value: Any, root: Any, budget: _Budget) -> bool:
    left, right = (_operand(side, value, root, budget) for side in (step.left, step.right))
    if not step.operator:
        return bool(left)
    return any(_compare(step.operator, a, b) for a in left for b in right)


def _operand(side: _Operand, value: Any, root: Any, budget: _Budget) -> list[Any]:
    return [side.literal] if side.steps is None else _walk(side.steps, [value], root, budget)


def _compare(operator: str, a: Any, b: Any) -> bool:
    if isinstance(a, bool) != isinstance(b, bool):
        return operator == "!="
    try:
        return _OPERATORS[operator](a, b)
    except TypeError:
        return False


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<=": lambda a, b: bool(a <= b),
    ">=": lambda a, b: bool(a >= b),
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
}
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_INDEX = re.compile(r"-?[0-9]{1,9}")
_NAME_END = frozenset(" \t\r\n.[]{}()=!<>,'\"|&?*@$")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


class _Reader:
    """A cursor over one expression."""

    def __init__(self, text: str, *, original: str | None = None) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.original = text if original is None else original
        if len(text) > MAX_LENGTH:
            raise UsageError(f"this jsonpath is longer than {MAX_LENGTH} characters")

    def error(self, problem: str) -> UsageError:
        shown = self.original if len(self.original) <= 60 else self.original[:57] + "..."
        return UsageError(f"jsonpath {shown!r}: {problem} at character {self.at + 1}")

    def rest(self) -> str:
        return self.text[self.at :]

    def take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise self.error(f"expected {token!r}")

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def blanks(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
            self.at += 1

    def quoted(self) -> str | None:
        """A string in single or double quotes, with backslash escapes; None where none starts here."""
        quote = self.text[self.at : self.at + 1]
        if quote not in ("'", '"') or not quote:
            return None
        self.at += 1
        out: list[str] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            self.at += 1
            if char == quote:
                return "".join(out)
            if char == "\\" and self.at < len(self.text):
                char = _ESCAPES.get(self.text[self.at], "\\" + self.text[self.at])
                self.at += 1
            out.append(char)
        raise self.error(f"the string has no closing {quote}")

    def name(self) -> str:
        out: list[str] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\\" and self.at + 1 < len(self.text):
                out.append(self.text[self.at + 1])
                self.at += 2
            elif char in _NAME_END:
                break
            else:
                out.append(char)
                self.at += 1
        if not out:
            raise self.error("expected a field name")
        return "".join(out)


class _TemplateParser(_Reader):
    def parse(self) -> tuple[_Part, ...]:
        """Ranges are kept on a stack of their own, so that no nesting can exhaust Python's."""
        frames: list[list[_Part]] = [[]]
        ranges: list[tuple[_Step, ...]] = []
        while self.rest():
            text = self.match(_TEXT)
            if text:
                frames[-1].append(text)
                continue
            self.expect("{")
            self.blanks()
            if self.match(_RANGE):
                ranges.append(_path(self))
                frames.append([])
                if len(ranges) > _MAX_NESTING:
                    raise self.error("ranges are nested too deep")
            elif self.match(_END):
                if not ranges:
                    raise self.error("{end} without {range}")
                body = tuple(frames.pop())
                frames[-1].append(_Range(ranges.pop(), body))
            else:
                literal = self.quoted()
                frames[-1].append(_path(self) if literal is None else literal)
            self.blanks()
            self.expect("}")
        if ranges:
            raise self.error("{range} without {end}")
        return tuple(frames[0])


_TEXT = re.compile(r"[^{]+")
_RANGE = re.compile(r"range\b\s*")
_END = re.compile(r"end\b")
_MAX_NESTING = 16


def _path(reader: _Reader) -> tuple[_Step, ...]:
    steps: list[_Step] = []
    if reader.take("$"):
        steps.append(_Root())
    else:
        reader.take("@")
    started = reader.at
    while True:
        if reader.take(".."):
            steps.append(_Descend())
            if not reader.rest().startswith("["):
                steps.append(_Every() if reader.take("*") else _Field(reader.name()))
        elif reader.take("."):
            if reader.take("*"):
                steps.append(_Every())
            elif reader.rest()[:1] not in ("", "[", "}", " ", ")", "="):
                steps.append(_Field(reader.name()))
        elif reader.take("["):
            steps.append(_subscript(reader))
        elif reader.at == started and not steps and reader.rest()[:1] not in ("", "}", ")"):
            raise reader.error("a path starts with '.', as in {.metadata.name}; found " + repr(reader.rest()[:10]))
        else:
            return tuple(steps)


def _subscript(reader: _Reader) -> _Step:
    reader.blanks()
    if reader.take("*"):
        step: _Step = _Every()
    elif reader.take("?("):
        step = _filter(reader)
    else:
        step = _pick(reader)
    reader.blanks()
    reader.expect("]")
    return step


def _pick(reader: _Reader) -> _Step:
    keys: list[int | str] = []
    while True:
        reader.blanks()
        name = reader.quoted()
        if name is not None:
            keys.append(name)
        else:
            index = reader.match(_INDEX)
            if reader.rest().startswith(":") and not keys:
                return _slice(reader, index)
            if index is None:
                raise reader.error("expected an index, a quoted name, '*' or '?('")
            keys.append(int(index))
        reader.blanks()
        if not reader.take(","):
            return _Pick(tuple(keys))


def _slice(reader: _Reader, first: str | None) -> _Slice:
    bounds = [first]
    while reader.take(":"):
        bounds.append(reader.match(_INDEX))
    if len(bounds) > 3 or (len(bounds) == 3 and bounds[2] and int(bounds[2]) < 1):
        raise reader.error("a slice is [start:end] or [start:end:step] with a step of at least 1")
    return _Slice(slice(*(int(b) if b else None for b in bounds)))


def _filter(reader: _Reader) -> _Filter:
    reader.depth += 1
    if reader.depth > _MAX_NESTING:
        raise reader.error("filters are nested too deep")
    left = _filter_side(reader)
    reader.blanks()
    operator = next((o for o in _OPERATORS if reader.take(o)), "")
    right = _filter_side(reader) if operator else _Operand()
    reader.blanks()
    if reader.rest()[:2] in ("&&", "||"):
        raise reader.error("a filter holds one comparison; chain filters, [?(…)][?(…)], for more")
    reader.expect(")")
    reader.depth -= 1
    return _Filter(left, operator, right)


def _filter_side(reader: _Reader) -> _Operand:
    reader.blanks()
    literal = reader.quoted()
    if literal is not None:
        return _Operand(literal=literal)
    number = reader.match(_NUMBER)
    if number is not None:
        return _Operand(literal=float(number) if "." in number else int(number))
    for word, value in (("true", True), ("false", False), ("null", None)):
        if reader.take(word):
            return _Operand(literal=value)
    if reader.rest()[:1] not in ("@", "$", "."):
        raise reader.error("expected @.field, a number, or text in quotes")
    return _Operand(steps=_path(reader))
