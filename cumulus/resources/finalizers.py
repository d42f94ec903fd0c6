"""Finalizers: who must clean up before an object is deleted. Both helpers take a document and return a new one."""

from __future__ import annotations

from cumulus.resources.key import Document

JOB_FINALIZER = "cumulus.dev/job"
"""On a GPUJob of which something may run, or have left files."""
CLUSTER_FINALIZER = "cumulus.dev/cluster"
"""On a GPUNode whose machine must leave the Swarm before the object goes."""


def with_finalizer(document: Document, finalizer: str) -> Document:
    """The document with that finalizer, last, where it lacks it."""
    held = _held(document)
    return document if finalizer in held else _with(document, [*held, finalizer])


def without_finalizer(document: Document, finalizer: str) -> Document:
    """The document without that finalizer; what others put on it stays."""
    return _with(document, [other for other in _held(document) if other != finalizer])


def has_finalizer(document: Document, finalizer: str) -> bool:
    return finalizer in _held(document)


def _held(document: Document) -> list[str]:
    return document["metadata"].get("finalizers") or []


def _with(document: Document, finalizers: list[str]) -> Document:
    return {**document, "metadata": {**document["metadata"], "finalizers": finalizers}}
