"""What the oracles share: the violation, and short ways to say what a document or a workload is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cumulus.backends.base import WorkloadState
from cumulus.clock import parse_timestamp
from cumulus.testing.backend import _Run

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

Doc = dict[str, Any]
ROUNDED = 2e-6


class Violation(BaseException):
    """Something is that must never be. Not an Exception, so that no loop takes it for a passing fault."""

    def __init__(self, oracle: str, message: str) -> None:
        super().__init__(f"{oracle}: {message}")
        self.oracle = oracle


def state_of(run: _Run, sim: Simulation) -> WorkloadState:
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


def finished(document: Doc) -> bool:
    """Whether that job is over."""
    return phase_of(document) in ("Succeeded", "Failed")


def clocks_wrong(sim: Simulation) -> float:
    """Seconds by which what one host writes may seem wrong to another, or to us, since a moment is written in whole
    microseconds."""
    jumps = sum(abs(fault.amount) for fault in sim.schedule.faults if fault.kind == "jump")
    return 2 * max(abs(skew) for skew in sim.schedule.skews) + jumps + ROUNDED


def moment(text: str, sim: Simulation) -> float:
    """A timestamp as seconds since the run began, by a clock that is right."""
    return sim.now() + (parse_timestamp(text) - sim.clock.now()).total_seconds()


def run_name(run: _Run) -> str:
    work = run.workload
    return f"{work.job} attempt {work.attempt} replica {work.replica}"
