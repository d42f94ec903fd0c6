"""Answers about the directory that was carried to a job's node: what the program changed there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChangesFound:
    """Comes first. `sent`: whether the content of the files follows; where it is too much, it does not."""

    node: str
    path: str
    files: int
    size: int
    sent: bool


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """Its bytes follow. `changed`: nanoseconds of the epoch. `size_before`, `changed_before` (seconds): as it was
    carried there, -1 where it was not."""

    path: str
    size: int
    mode: int
    changed: int
    size_before: int = -1
    changed_before: int = -1


@dataclass(frozen=True, slots=True)
class ChangedBytes:
    data: bytes


@dataclass(frozen=True, slots=True)
class GoneFile:
    """It was carried there, and is not there any more."""

    path: str


@dataclass(frozen=True, slots=True)
class StayingFile:
    """A link, a pipe, or a file whose name cannot be told."""

    path: str


ChangePiece = ChangesFound | ChangedFile | ChangedBytes | GoneFile | StayingFile
