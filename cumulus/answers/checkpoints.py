"""Answers about the checkpoints of a job."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckpointFound:
    """One checkpoint on the node, as its manifest tells. `problem`: why it is none, "" where it may be used."""

    step: int
    saved_at: str = ""
    size: int = 0
    seconds: float = 0.0
    attempt: int = 0
    files: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointCopied:
    """How far the copy beyond the node is, as the uploader tells. `step`: of the newest that is whole there, None where
    there is none; `problem`: why it does not get on, "" where it does."""

    step: int | None = None
    size: int = 0
    at: str = ""
    copying: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class JobCheckpoints:
    """`found`: newest first. `copied`: None where no uploader has said anything."""

    node: str
    path: str
    uri: str
    found: tuple[CheckpointFound, ...] = ()
    copied: CheckpointCopied | None = None


@dataclass(frozen=True, slots=True)
class CheckpointManifest:
    """What is sent of a checkpoint comes after its manifest: each file, and its bytes."""

    step: int
    content: bytes


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class CheckpointBytes:
    data: bytes


CheckpointPiece = CheckpointManifest | CheckpointFile | CheckpointBytes
