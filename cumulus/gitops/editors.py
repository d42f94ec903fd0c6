"""Who set what of a Source's object by hand: managedFields name programs, and people ask for the person. Pure.

The service notes it in an annotation, whatever the writer says of it, so that drift is told with a name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from cumulus.apply import ownership
from cumulus.gitops.sync import is_a_sources
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import LONGEST_WORD, truncate
from cumulus.resources.annotations import EDITED_BY, editors_of
from cumulus.resources.key import Document


def with_editor(person: str, document: Document, stored: Document) -> Document:
    """The object as `person` writes it, with who last set something by each field manager. `stored`: as it is now."""
    before, after = ownership.of(stored), ownership.of(document)
    wrote = {
        owner
        for owner, owned in after.items()
        if owner not in before or owned.time != before[owner].time or owned.fields - before[owner].fields
    }
    known: Mapping[str, str] = editors_of(stored)
    if not any(is_a_sources(owner) for owner in wrote):
        known = {**known, **dict.fromkeys((o.manager for o in wrote), truncate(one_line(person), LONGEST_WORD))}
    managers = {owner.manager for owner in after}
    kept = {manager: name for manager, name in known.items() if manager in managers}
    annotations = dict(document["metadata"].get("annotations") or {})
    annotations.pop(EDITED_BY, None)
    if kept:
        annotations[EDITED_BY] = json.dumps(kept, sort_keys=True)
    return {**document, "metadata": {**document["metadata"], "annotations": annotations}}
