"""Every kind. Light: a kind's model is imported when it is asked for."""

from __future__ import annotations

from cumulus.errors import InvalidObject, UsageError
from cumulus.lib.suggest import nearest
from cumulus.resources.documents import json_type
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.kinds import (
    event,
    gpucronjob,
    gpujob,
    gpujobarray,
    gpunode,
    gpupartition,
    lease,
    queue,
    queueusage,
    reservation,
    rolebinding,
    source,
)

KINDS: tuple[Kind, ...] = (
    gpujob.KIND, gpupartition.KIND, gpunode.KIND, event.KIND, lease.KIND, rolebinding.KIND, rolebinding.CLUSTER_KIND,
    source.KIND, queue.KIND, gpucronjob.KIND, queueusage.KIND,
    reservation.KIND, gpujobarray.KIND,
)  # fmt: skip

BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
_BY_WORD: dict[str, Kind] = {word: kind for kind in KINDS for word in kind.words}


_NO_KINDS = {
    "secret": "secrets are kept apart from objects: see `cumulus secret --help`",
    "pod": "what runs is a job: see `cumulus get jobs`",
    "deployment": "what runs is a job: see `cumulus get jobs`",
    "namespace": "a namespace need not be made: give one with -n NAME",
    "ns": "a namespace need not be made: give one with -n NAME",
    "device": "devices are shown with their node: see `cumulus describe node NAME`",
    "gpu": "devices are shown with their node: see `cumulus describe node NAME`",
    "log": "see `cumulus logs JOB`",
}
"""Words that name something else than a kind here, each with where it is to be found."""


def find_kind(word: str) -> Kind:
    """The kind a person means by GPUJob, gpujobs, jobs, gj or gpujob.cumulus.dev. Raises UsageError."""
    plain = word.lower().removesuffix(".cumulus.dev")
    found = _BY_WORD.get(plain)
    if found is None:
        hint = _NO_KINDS.get(plain) or _NO_KINDS.get(plain.removesuffix("s"))
        if hint is None:
            close = nearest(plain, _BY_WORD)
            known = ", ".join(kind.plural for kind in KINDS)
            hint = f"did you mean {close[0]}?" if close else f"the kinds are {known}"
        raise UsageError(f"there is no kind {word!r}", hint=hint)
    return found


def kind_of(document: Document) -> Kind:
    """Raises InvalidObject for a kind that there is not, and for what is no object."""
    if not isinstance(document, dict):
        raise InvalidObject(f"an object is a JSON object, not {json_type(document)}")
    kind = BY_NAME.get(str(document.get("kind")))
    if kind is None:
        known = ", ".join(BY_NAME)
        raise InvalidObject(f"there is no kind {document.get('kind')!r}", field="kind", hint=f"the kinds are {known}")
    return kind
