"""Semantic versions and ranges of them, as tags are chosen by: ^1.2, ~1.4.0, >=1.0 <2.0, 1.x, and || between them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple

_VERSION = re.compile(r"v?(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_NUMBER = r"(\d{1,9}|[xX*])"
_PART = re.compile(rf"(\^|~|>=|<=|>|<|=)?\s*v?{_NUMBER}(?:\.{_NUMBER})?(?:\.{_NUMBER})?(-[0-9A-Za-z.-]+)?")


class Version(NamedTuple):
    """`release` sorts a pre-release before its release."""

    major: int
    minor: int
    patch: int
    release: tuple[tuple[int, int, str], ...]

    @property
    def is_release(self) -> bool:
        return self.release == _RELEASE


_RELEASE = ((3, 0, ""),)


def parse(text: str) -> Version | None:
    """None for what is no version."""
    found = _VERSION.fullmatch(text)
    if found is None:
        return None
    major, minor, patch, pre = found.groups()
    return Version(int(major), int(minor or 0), int(patch or 0), _pre(pre) if pre else _RELEASE)


def check_range(text: str) -> None:
    """Raises ValueError for what is no range."""
    for part in text.split("||"):
        _bounds(part)


def highest(tags: Iterable[str], wanted: str) -> str | None:
    """The tag with the highest version in the range. Pre-releases only where the range names one. Raises ValueError
    for what is no range."""
    alternatives = [_bounds(part) for part in wanted.split("||")]
    found: tuple[Version, str] | None = None
    for tag in tags:
        version = parse(tag)
        if version is None or (not version.is_release and "-" not in wanted):
            continue
        fits = any(all(low <= version < high for low, high in bounds) for bounds in alternatives)
        if fits and (found is None or (version, tag) > found):
            found = (version, tag)
    return None if found is None else found[1]


def _bounds(text: str) -> list[tuple[Version, Version]]:
    parts = text.replace(",", " ").strip()
    if not parts:
        raise ValueError(f"{text!r} is not a range of versions")
    found, at = [], 0
    while at < len(parts):
        match = _PART.match(parts, at)
        if match is None:
            raise ValueError(f"{text!r} is not a range of versions; write ^1.2, ~1.4.0 or >=1.0 <2.0")
        found.append(_bound(*match.groups()))
        at = match.end()
        while at < len(parts) and parts[at] == " ":
            at += 1
    return found


def _bound(operator: str | None, *words: str | None) -> tuple[Version, Version]:
    given = takewhile(lambda word: word is not None and word.isdigit(), words[:3])
    numbers, pre = [int(word) for word in given if word is not None], words[3]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    low = Version(major, minor, patch, _pre(pre[1:]) if pre else ((0, 0, ""),))
    if pre:
        after = low._replace(release=(*low.release, (0, 0, "")))
    else:
        after = _next(numbers, len(numbers) - 1)
    if operator == "^":
        first = next((index for index, number in enumerate(numbers) if number), len(numbers) - 1)
        return low, _next(numbers, first)
    if operator == "~":
        return low, _next(numbers, min(1, len(numbers) - 1))
    if operator == ">=":
        return low, _END
    if operator == ">":
        return after, _END
    if operator == "<":
        return _BEGIN, low
    if operator == "<=":
        return _BEGIN, after
    return low, after


def _next(numbers: list[int], index: int) -> Version:
    if index < 0:
        return _END
    raised = [*numbers[:index], numbers[index] + 1, 0, 0, 0][:3]
    return Version(raised[0], raised[1], raised[2], ((0, 0, ""),))


def _pre(text: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers before words, as semver.org has it; fewer fields before more."""
    return tuple((1, int(p), "") if p.isdigit() else (2, 0, p) for p in text.split("."))


_BEGIN = Version(0, 0, 0, ((0, 0, ""),))
_END = Version(10**10, 0, 0, ((0, 0, ""),))
