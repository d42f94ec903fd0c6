"""What sessions run on the node beside users' functions. It travels by value: of Cumulus only the runner is there."""

from __future__ import annotations

from typing import Any

RETURNED, RAISED = "returned", "raised"


def run_batch(digest: str, function: bytes | None, batch: bytes) -> list[tuple[Any, ...]]:
    """Call the function for each item of a batch: `(RETURNED, pickle)` or `(RAISED, pickle or None, type, text,
    traceback)` of each. The function itself comes with the first batch alone."""
    import pickle
    import sys
    import types

    import cloudpickle

    from cumulus.runner import failure

    kept = sys.modules.setdefault("_cumulus_map", types.ModuleType("_cumulus_map")).__dict__
    if function is not None:
        kept[digest] = pickle.loads(function)
    call = kept[digest]
    answers: list[tuple[Any, ...]] = []
    for args in pickle.loads(batch):
        try:
            answers.append((RETURNED, cloudpickle.dumps(call(*args), protocol=5)))
        except (Exception, SystemExit) as error:
            said = failure.outcome_of(error)
            answers.append((RAISED, failure.rebuildable(error), said.type, said.text, said.traceback))
    return answers


def process_id() -> str:
    """The same for as long as the session's process lives, and no other's."""
    import sys
    import types
    import uuid

    kept = sys.modules.setdefault("_cumulus_session", types.ModuleType("_cumulus_session")).__dict__
    return str(kept.setdefault("process", uuid.uuid4().hex))
