"""Who made an object, as annotations say, and what a daemon runs for whom. Light: no model is loaded."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any, NamedTuple

SUBMITTER = "cumulus.dev/submitter"
"""Annotation: the name of the user who made the object. What controllers make from it has the same."""
SUBMITTER_UID = "cumulus.dev/submitter-uid"
"""Annotation: that user's number on this machine, where there is one."""
SUBMITTER_ADMIN = "cumulus.dev/submitter-admin"
"""Annotation, "true": that user was an admin everywhere, so containers may have what their spec asks for."""
QUEUE = "cumulus.dev/queue"
"""Annotation of what waits for a share: the queue that it was submitted to, where there are queues."""
SUBMITTER_ANNOTATIONS = (SUBMITTER, SUBMITTER_UID, SUBMITTER_ADMIN, QUEUE)
"""Written by the service when an object is made; nobody changes them after that."""


class Submitter(NamedTuple):
    """Who made an object. `name` is "" where the object is older than submitters."""

    name: str = ""
    uid: int | None = None
    admin: bool = False

    @classmethod
    def of(cls, annotations: Mapping[str, Any] | None) -> Submitter:
        """As the annotations of an object say."""
        given = annotations or {}
        uid = str(given.get(SUBMITTER_UID, ""))
        number = int(uid) if uid.isascii() and uid.isdecimal() else None
        return cls(str(given.get(SUBMITTER, "")), number, given.get(SUBMITTER_ADMIN) == "true")

    @property
    def annotations(self) -> dict[str, str]:
        uid = {} if self.uid is None else {SUBMITTER_UID: str(self.uid)}
        return {SUBMITTER: self.name, **uid, **({SUBMITTER_ADMIN: "true"} if self.admin else {})}


def submitter_annotations(annotations: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of the annotations that say who made the object."""
    given = annotations or {}
    return {name: given[name] for name in SUBMITTER_ANNOTATIONS if name in given}


def with_submitter(document: Mapping[str, Any], submitter: Mapping[str, Any]) -> dict[str, Any]:
    """The object with those annotations of its submitter and no others."""
    metadata = document.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    kept = {name: value for name, value in annotations.items() if name not in SUBMITTER_ANNOTATIONS}
    after = {name: value for name, value in metadata.items() if name != "annotations"}
    return {**document, "metadata": after | ({"annotations": kept | dict(submitter)} if kept or submitter else {})}


class DaemonRules(NamedTuple):
    """What a daemon runs for whom. `uid`: whom it runs as. `mounts`: the directories of nodes that containers of all
    users may mount from. `switches`: whether it runs a program as its submitter, as a system daemon does."""

    uid: int
    mounts: tuple[str, ...] = ()
    switches: bool = False

    def may_mount(self, source: str) -> bool:
        """Whether the path, as it is written, lies in one of `mounts`. Links are the node's to check."""
        path = posixpath.normpath(source)
        return any(path == place or path.startswith(f"{place.rstrip('/')}/") for place in self.mounts)
