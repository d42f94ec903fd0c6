"""YAML or JSON text -> a tree of nodes that know their line and column. The first step of loading.

The tree is built from the parser's events on a stack of our own, so that depth, size and alias expansion are
limited while reading, and nothing is ever constructed but text, numbers, true, false, null, lists and maps.

Scalars follow YAML 1.2's core schema, which is JSON's: only `true` and `false` are booleans (`no`, `on` and `yes` are
text), dates and 1:30 are text, and so is a number with a leading zero.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from cumulus.admission.problems import FieldPath, path_text
from cumulus.manifest.problem import Position, Problem

MAX_DEPTH = 64
MAX_NODES = 250_000
"""Values in one file, each counted once."""
MAX_ALIASED = 10_000
"""Values that the aliases of one file stand for, all together."""

_SHOWN_DEPTH = 8

_Scalar = str | int | float | bool | None


@dataclass(slots=True)
class YamlNode:
    """One value. `text` is a scalar as written; `plain` tells that it had no quotes; `broken` that a problem with
    it was reported already."""

    value: _Scalar | list[YamlNode] | dict[str, YamlNode]
    line: int
    column: int
    text: str = ""
    plain: bool = False
    broken: bool = False
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Line and column of each key of a map."""
    size: int = 1
    height: int = 1

    def plain_value(self) -> Any:
        """The value as JSON has it."""
        if isinstance(self.value, dict):
            return {key: node.plain_value() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain_value() for node in self.value]
        return self.value


def node_of(value: Any) -> YamlNode:
    """A JSON value as a tree without places."""
    if isinstance(value, dict):
        return YamlNode({key: node_of(below) for key, below in value.items()}, 0, 0, keys=dict.fromkeys(value, (0, 0)))
    if isinstance(value, list):
        return YamlNode([node_of(below) for below in value], 0, 0)
    return YamlNode(
        value, 0, 0, text=value if isinstance(value, str) else json.dumps(value), plain=not isinstance(value, str)
    )


def parse(text: str, file: str) -> tuple[list[YamlNode], list[Problem]]:
    """The documents of `text`, empty ones left out, and what is wrong with them. After a syntax error or a limit
    the rest of the file is not read. Raises nothing."""
    problems: list[Problem] = []
    documents: list[YamlNode] = []
    if _MARK in text:
        text = _MARK_AFTER.sub(r"\1", _MARK_BEFORE.sub("", text))
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        column = control.start() - text.rfind("\n", 0, control.start())
        message = f"the control character U+{ord(control[0]):04X} cannot be in a manifest; remove it"
        return [], [Problem(Position(file, line, column), "", message)]
    builder = _Builder(file, problems)
    try:
        for event in yaml.parse(_joined_surrogates(text), Loader=_LOADER):
            root = builder.take(event)
            if root is not None and not (root.value is None and not root.broken):
                documents.append(root)
    except _LimitError as error:
        problems.append(error.problem)
    except yaml.MarkedYAMLError as error:
        problems.append(_syntax_problem(error, text, file))
    return documents, problems


def resolve(text: str) -> _Scalar:
    """What an unquoted scalar means. Raises ValueError with the reason for a number beyond JSON's range."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
            raise ValueError(f"the number {text[:24]} is out of range; put it in quotes if it is text")
        return int(text)
    if _BASED.fullmatch(text):
        if len(text) > 18:
            raise ValueError(f"the number {text[:24]} is out of range; put it in quotes if it is text")
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"the number {text[:24]} is out of range; put it in quotes if it is text")
        return number
    return text


class _LimitError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(slots=True)
class _Open:
    """A list or map whose end has not been read. `key` is the key that waits for its value."""

    node: YamlNode
    anchor: str | None
    key: YamlNode | None = None
    merges: list[YamlNode] = field(default_factory=list)


class _Builder:
    """Turns events into nodes; `take` returns a document's root when it is complete."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        self.stack: list[_Open] = []
        self.anchors: dict[str, YamlNode | None] = {}
        self.nodes = 0
        self.aliased = 0

    def take(self, event: yaml.Event) -> YamlNode | None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.anchors = {}
            return None
        if isinstance(event, yaml.ScalarEvent):
            return self._complete(self._scalar(event), event.anchor)
        if isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
            return None
        if isinstance(event, yaml.CollectionEndEvent):
            return self._close()
        if isinstance(event, yaml.AliasEvent):
            return self._complete(self._alias(event), None)
        return None

    def _open(self, event: Any) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        node = self._node({} if is_map else [], event)
        if len(self.stack) >= MAX_DEPTH:
            self._refuse(node, f"is nested more than {MAX_DEPTH} levels deep; a manifest never needs that")
        expected = "tag:yaml.org,2002:map" if is_map else "tag:yaml.org,2002:seq"
        if event.tag not in (None, "!", expected):
            self._report(node, f"the tag {_tag_text(event.tag)} is not supported; remove it")
            node.broken = True
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.stack.append(_Open(node, event.anchor))

    def _close(self) -> YamlNode | None:
        opened = self.stack[-1]
        node = opened.node
        if isinstance(node.value, dict):
            for merged in opened.merges:
                self._merge(node, merged)
            children = list(node.value.values())
        else:
            assert isinstance(node.value, list)
            children = node.value
        node.size += sum(child.size for child in children)
        node.height += max((child.height for child in children), default=0)
        self.stack.pop()
        return self._complete(node, opened.anchor)

    def _complete(self, node: YamlNode, anchor: str | None) -> YamlNode | None:
        """Put a finished value where it belongs."""
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            return node
        parent = self.stack[-1]
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            self._put(parent, parent.key, node)
            parent.key = None
        return None

    def _put(self, parent: _Open, key: YamlNode, value: YamlNode) -> None:
        assert isinstance(parent.node.value, dict)
        if isinstance(key.value, list | dict):
            self._report(key, "a key must be text, not a list or a map")
        elif key.plain and key.text == "<<":
            parent.merges.append(value)
        elif key.broken:
            return
        elif key.text in parent.node.value:
            first = parent.node.keys[key.text]
            self._report(key, f"the key {key.text!r} was given before, at line {first[0]}; keep one of them")
        else:
            parent.node.value[key.text] = value
            parent.node.keys[key.text] = (key.line, key.column)

    def _merge(self, into: YamlNode, source: YamlNode) -> None:
        """YAML's merge key: `<<: *a` or `<<: [*a, *b]`. Keys that are there win, and earlier sources win."""
        assert isinstance(into.value, dict)
        sources = source.value if isinstance(source.value, list) else [source]
        for node in sources:
            if not isinstance(node.value, dict):
                if not node.broken:
                    self._report(node, "the merge key << takes a map, or a list of maps")
                continue
            for key, value in node.value.items():
                if key not in into.value:
                    into.value[key] = value
                    into.keys[key] = node.keys[key]

    def _alias(self, event: Any) -> YamlNode:
        here = self._node(None, event)
        if event.anchor not in self.anchors:
            self._report(here, f"the alias *{event.anchor} has no anchor &{event.anchor} before it")
            here.broken = True
            return here
        target = self.anchors[event.anchor]
        if target is None:
            self._report(here, f"the alias *{event.anchor} contains itself")
            here.broken = True
            return here
        self.aliased += target.size
        if self.aliased > MAX_ALIASED:
            self._refuse(here, f"aliases stand for more than {MAX_ALIASED:,} values; write them out")
        if len(self.stack) + target.height > MAX_DEPTH:
            self._refuse(here, f"is nested more than {MAX_DEPTH} levels deep; a manifest never needs that")
        return target

    def _scalar(self, event: Any) -> YamlNode:
        node = self._node(event.value, event)
        node.text = event.value
        node.plain = event.implicit[0] and event.tag is None
        if node.plain or event.tag in _SCALAR_TAGS:
            try:
                node.value = resolve(event.value)
            except ValueError as error:
                self._report(node, str(error))
                node.value, node.broken = None, True
        if event.tag not in (None, "!", _STRING_TAG):
            wanted = _SCALAR_TAGS.get(event.tag)
            if wanted is None:
                self._report(node, f"the tag {_tag_text(event.tag)} is not supported; remove it")
                node.broken = True
            elif not node.broken and type(node.value) not in wanted:
                self._report(node, f"{event.value[:40]!r} is not what the tag {_tag_text(event.tag)} says; remove it")
                node.broken = True
        return node

    def _node(self, value: Any, event: Any) -> YamlNode:
        self.nodes += 1
        node = YamlNode(value, event.start_mark.line + 1, event.start_mark.column + 1)
        if self.nodes > MAX_NODES:
            self._refuse(node, f"the file holds more than {MAX_NODES:,} values; split it")
        return node

    def _report(self, node: YamlNode, message: str) -> None:
        self.problems.append(self._problem(node, message))

    def _refuse(self, node: YamlNode, message: str) -> None:
        raise _LimitError(self._problem(node, message))

    def _problem(self, node: YamlNode, message: str) -> Problem:
        path: FieldPath = ()
        for opened in self.stack[:_SHOWN_DEPTH]:
            if isinstance(opened.node.value, list):
                path += (len(opened.node.value),)
            elif opened.key is not None and opened.key.text:
                path += (opened.key.text[:60],)
        return Problem(Position(self.file, node.line, node.column), path_text(path), message)


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    lines = text.splitlines()
    shown = lines[line - 1] if line <= len(lines) else ""
    said = str(error.problem or error.context or error)
    if _TAB_INDENT.match(shown) and "\t" in shown[: column + 1]:
        message = "a tab is used to indent; use spaces"
        column = shown.index("\t") + 1
    else:
        message = next((better for part, better in _SYNTAX if part in said), f"not valid YAML: {said}")
        if "mapping values" in said and ":" not in shown[: column - 1]:
            message = "the line before lacks its ':', or is indented differently"
        context = error.context_mark
        if context is not None and context.line + 1 != line:
            message += f" (within what begins at line {context.line + 1})"
    return Problem(Position(file, line, column), "", message)


def _joined_surrogates(text: str) -> str:
    """JSON writes a character beyond U+FFFF as a pair of escapes, which YAML does not know."""
    return _SURROGATES.sub(_join_surrogates, text) if "\\u" in text else text


def _join_surrogates(match: re.Match[str]) -> str:
    high, low = int(match[2], 16), int(match[3], 16)
    return f"{match[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"


def _tag_text(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")[:60]


def _loader() -> Any:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _words() -> Iterator[tuple[str, _Scalar]]:
    yield "", None
    yield "~", None
    values: tuple[tuple[str, _Scalar], ...] = (("null", None), ("true", True), ("false", False))
    for word, value in values:
        yield from ((form, value) for form in (word, word.capitalize(), word.upper()))


_LOADER = _loader()
_WORDS: dict[str, _Scalar] = dict(_words())
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
_STRING_TAG = "tag:yaml.org,2002:str"
_SCALAR_TAGS: dict[str, tuple[type, ...]] = {
    "tag:yaml.org,2002:int": (int,),
    "tag:yaml.org,2002:float": (float, int),
    "tag:yaml.org,2002:bool": (bool,),
    "tag:yaml.org,2002:null": (type(None),),
}
# What YAML 1.2 does not allow in a stream; NEL, tab and line ends are allowed.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_TAB_INDENT = re.compile(r"[ \-]*\t")
_MARK = "\ufeff"
_NOTHING = r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*"
# Byte order marks where YAML allows them: at the beginning of each document, as `cat a.yaml b.yaml` leaves them.
_MARK_BEFORE = re.compile(rf"^{_MARK}(?={_NOTHING}---(?:\s|\Z))", re.MULTILINE)
_MARK_AFTER = re.compile(rf"^(---[ \t]*(?:#[^\n]*)?\r?\n{_NOTHING}){_MARK}", re.MULTILINE)
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_SYNTAX = (
    ("mapping values are not allowed", "a second ': ' stands on this line; put text that holds one in quotes, or "
     "indent this line as its neighbours"),
    ("found unexpected end of stream", "a quote is opened and never closed"),
    ("found unexpected document indicator", "a quote is opened and never closed"),
    ("did not find expected ',' or ']'", "a list in [ ] lacks a ',' or its ']'"),
    ("did not find expected ',' or '}'", "a map in { } lacks a ',' or its '}'"),
    ("did not find expected '-' indicator", "an item of a list does not begin with '- ' or is not indented as the "
     "others"),
    ("did not find expected key", "is not indented as its neighbours, or text with a special character lacks quotes"),
    ("could not find expected ':'", "a key lacks its ':'"),
    ("block sequence entries are not allowed", "a list cannot begin here; put it on a line of its own"),
    ("block collections are not allowed", "a list or map cannot begin here; put it on a line of its own"),
    ("cannot start any token", "text cannot begin with this character; put it in quotes"),
    ("did not find expected <document start>", "another document begins without a '---' before it"),
    ("did not find expected node content", "a value is missing here, or a bracket is not closed"),
    ("did not find expected hexdecimal number", "a '\\x', '\\u' or '\\U' in double quotes lacks its digits; write "
     "'\\\\' or use single quotes"),
    ("found invalid Unicode character escape code", "half of a '\\u' pair stands alone; it is not a character"),
    ("did not find expected alphabetic or numeric character", "'*' and '&' need a name here; put text that begins with "
     "one in quotes"),
    ("exceeded maximum nesting depth", f"is nested more than {MAX_DEPTH} levels deep; a manifest never needs that"),
    ("found unknown escape character", "a '\\' in double quotes begins no known escape; write '\\\\' or use single "
     "quotes"),
    ("did not find expected whitespace or line break", "tags are not supported; put text that begins with '!' in "
     "quotes"),
    ("found undefined tag handle", "tags are not supported; put text that begins with '!' in quotes"),
)  # fmt: skip
