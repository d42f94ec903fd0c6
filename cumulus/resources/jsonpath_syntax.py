"""The syntax of `jsonpath`: from text to steps, with an error that says what is wrong at which character."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cumulus.errors import UsageError

MAX_LENGTH = 8192
OPERATORS = ("==", "!=", "<=", ">=", "<", ">")
"""Of filters; each before those that it begins with."""


@dataclass(frozen=True, slots=True)
class Range:
    steps: tuple[Step, ...]
    body: tuple[PathPart, ...]


@dataclass(frozen=True, slots=True)
class Root:
    """`$` inside a range or filter: start again from the document."""


@dataclass(frozen=True, slots=True)
class FieldStep:
    name: str


@dataclass(frozen=True, slots=True)
class Every:
    pass


@dataclass(frozen=True, slots=True)
class Descend:
    """`..`: the value and everything below it."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A union of indices and quoted names."""

    keys: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class SliceStep:
    value: slice


@dataclass(frozen=True, slots=True)
class FilterStep:
    left: Operand
    operator: str
    right: Operand


@dataclass(frozen=True, slots=True)
class Operand:
    """A literal, or a path where `steps` is not None."""

    literal: Any = None
    steps: tuple[Step, ...] | None = None


Step = Root | FieldStep | Every | Descend | Pick | SliceStep | FilterStep
PathPart = str | tuple[Step, ...] | Range


def parse_template(text: str) -> tuple[PathPart, ...]:
    """Raises UsageError."""
    return _TemplateParser(text).parse()


def parse_path(text: str) -> tuple[Step, ...]:
    """`{.a.b}`, `.a.b` or `a.b`. Raises UsageError."""
    inner = text.strip()
    if inner.startswith("{") and inner.endswith("}"):
        inner = inner[1:-1].strip()
    if inner and inner[0] not in ".[$@":
        inner = "." + inner
    scanner = _Scanner(inner, original=text)
    steps = _path(scanner)
    if scanner.rest():
        raise scanner.error(f"unexpected {scanner.rest()[:10]!r}")
    return steps


_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_INDEX = re.compile(r"-?[0-9]{1,9}")
_NAME_END = frozenset(" \t\r\n.[]{}()=!<>,'\"|&?*@$")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


class _Scanner:
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


class _TemplateParser(_Scanner):
    def parse(self) -> tuple[PathPart, ...]:
        """Ranges are kept on a stack of their own, so that no nesting can exhaust Python's."""
        frames: list[list[PathPart]] = [[]]
        ranges: list[tuple[Step, ...]] = []
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
                frames[-1].append(Range(ranges.pop(), body))
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


def _path(scanner: _Scanner) -> tuple[Step, ...]:
    steps: list[Step] = []
    if scanner.take("$"):
        steps.append(Root())
    else:
        scanner.take("@")
    started = scanner.at
    while True:
        if scanner.take(".."):
            steps.append(Descend())
            if not scanner.rest().startswith("["):
                steps.append(Every() if scanner.take("*") else FieldStep(scanner.name()))
        elif scanner.take("."):
            if scanner.take("*"):
                steps.append(Every())
            elif scanner.rest()[:1] not in ("", "[", "}", " ", ")", "="):
                steps.append(FieldStep(scanner.name()))
        elif scanner.take("["):
            steps.append(_subscript(scanner))
        elif scanner.at == started and not steps and scanner.rest()[:1] not in ("", "}", ")"):
            raise scanner.error("a path starts with '.', as in {.metadata.name}; found " + repr(scanner.rest()[:10]))
        else:
            return tuple(steps)


def _subscript(scanner: _Scanner) -> Step:
    scanner.blanks()
    if scanner.take("*"):
        step: Step = Every()
    elif scanner.take("?("):
        step = _filter(scanner)
    else:
        step = _pick(scanner)
    scanner.blanks()
    scanner.expect("]")
    return step


def _pick(scanner: _Scanner) -> Step:
    keys: list[int | str] = []
    while True:
        scanner.blanks()
        name = scanner.quoted()
        if name is not None:
            keys.append(name)
        else:
            index = scanner.match(_INDEX)
            if scanner.rest().startswith(":") and not keys:
                return _slice(scanner, index)
            if index is None:
                raise scanner.error("expected an index, a quoted name, '*' or '?('")
            keys.append(int(index))
        scanner.blanks()
        if not scanner.take(","):
            return Pick(tuple(keys))


def _slice(scanner: _Scanner, first: str | None) -> SliceStep:
    bounds = [first]
    while scanner.take(":"):
        bounds.append(scanner.match(_INDEX))
    if len(bounds) > 3 or (len(bounds) == 3 and bounds[2] and int(bounds[2]) < 1):
        raise scanner.error("a slice is [start:end] or [start:end:step] with a step of at least 1")
    return SliceStep(slice(*(int(b) if b else None for b in bounds)))


def _filter(scanner: _Scanner) -> FilterStep:
    scanner.depth += 1
    if scanner.depth > _MAX_NESTING:
        raise scanner.error("filters are nested too deep")
    left = _filter_side(scanner)
    scanner.blanks()
    operator = next((o for o in OPERATORS if scanner.take(o)), "")
    right = _filter_side(scanner) if operator else Operand()
    scanner.blanks()
    if scanner.rest()[:2] in ("&&", "||"):
        raise scanner.error("a filter holds one comparison; chain filters, [?(…)][?(…)], for more")
    scanner.expect(")")
    scanner.depth -= 1
    return FilterStep(left, operator, right)


def _filter_side(scanner: _Scanner) -> Operand:
    scanner.blanks()
    literal = scanner.quoted()
    if literal is not None:
        return Operand(literal=literal)
    number = scanner.match(_NUMBER)
    if number is not None:
        return Operand(literal=float(number) if "." in number else int(number))
    for word, value in (("true", True), ("false", False), ("null", None)):
        if scanner.take(word):
            return Operand(literal=value)
    if scanner.rest()[:1] not in ("@", "$", "."):
        raise scanner.error("expected @.field, a number, or text in quotes")
    return Operand(steps=_path(scanner))
