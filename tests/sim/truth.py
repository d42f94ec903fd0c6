"""What the oracles share: the violation, and short ways to say what a document or a workload is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cumulus.backends.base import State
from cumulus.testing.backend import _Run

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

Doc = dict[str, Any]


class Violation(BaseException):
    """Something is that must never be. Not an Exception, so that no loop takes it for a passing fault."""

    def __init__(self, oracle: str, message: str) -> None:
        super().__init__(f"{oracle}: {message}")
        self.oracle = oracle


def state_of(run: _Run, sim: Simulation) -> State:
    return run.observe(sim.clock.monotonic()).state


def phase_of(document: Doc) -> str:
    return str((document.get("status") or {}).get("phase", "Pending"))


def owner_of(document: Doc) -> str:
    return next((o["uid"] for o in document["metadata"].get("ownerReferences") or () if o["kind"] == "GPUJob"), "")


def why_of(document: Doc) -> str:
    for condition in document["status"].get("conditions") or ():
        if condition["type"] == "Ended":
            return f" ({condition.get('reason')}: {condition.get('message', '')})"
    return ""


def run_name(run: _Run) -> str:
    work = run.workload
    return f"{work.job} attempt {work.attempt} replica {work.replica}"
